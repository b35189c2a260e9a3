"""How one pass of the loop ends. A closed union: `match` it exhaustively."""

from __future__ import annotations

from dataclasses import dataclass

from agentmetal.core.condition import Reason
from agentmetal.core.operation import Operation
from agentmetal.core.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The world is as specified. `gone`: the object may go too."""

    gone: bool = False


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The world differs, and nothing may be done about it: Observe mode, paused, or the plan was rejected."""

    plan: Plan
    reason: Reason
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Progressing:
    """Work or waiting is under way; look again after `again_in` seconds at the latest."""

    reason: Reason
    message: str
    again_in: float | None = None
    operation: Operation | None = None


@dataclass(frozen=True, kw_only=True)
class AwaitingApproval:
    """A plan waits for a human."""

    operation: Operation


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A human is needed, or time. `again_in` None: only a change helps."""

    reason: Reason
    message: str
    who_must_act: str
    again_in: float | None = None
    operation: Operation | None = None


Outcome = Settled | Preview | Progressing | AwaitingApproval | Failed
