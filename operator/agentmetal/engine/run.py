"""One operation being carried out, and how its steps can end. Shared by the executor, the attempts and the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from agentmetal.core.condition import Reason
from agentmetal.core.errors import Unavailable
from agentmetal.core.operation import Operation
from agentmetal.core.resource import AnyResource, Key
from agentmetal.core.tool import InDoubt, Result, ToolContext
from agentmetal.engine.agent import AnyAgent, Observed
from agentmetal.engine.gate import Hold, Stop

AUDIT_LOOK = 5.0
"""Seconds until an audit store that could not record is tried again."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """The plan is left before this step, or while it waits."""

    stop: Stop


@dataclass(frozen=True, kw_only=True)
class StepFailed:
    """The step failed for good."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Outgrown:
    """The step is riskier now than what was approved."""

    message: str


@dataclass(frozen=True, kw_only=True)
class AskAgain:
    """Nothing was done: what the gate said is too old by now, and it does not say so any more."""


Ending = Result | Left | StepFailed | Outgrown | InDoubt


class Draining(Exception):
    """This process is about to end."""


class Contexts(Protocol):
    """Makes what a tool gets."""

    def __call__(self, resource: AnyResource, operation: Operation, step: int, attempt: int) -> ToolContext:
        """The context of one call."""


@dataclass(kw_only=True)
class Run:
    """One operation being carried out."""

    key: Key
    agent: AnyAgent
    resource: AnyResource
    operation: Operation
    observed: Observed | None
    wake: Callable[[Key, float], None]
    """Wants a pass of the object, for its status."""
    task: asyncio.Task[None] | None = None
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    stop_request: str = ""
    allowed_at: float = float("-inf")
    """When the gate last let a step go on, by the event loop's time."""
    bound: bool = False
    """A call that cannot be repeated is under way, or how it ended is not written yet."""
    holding: Hold | None = None
    note: str = ""
    """What it waits for, in one sentence."""

    async def pause(self, delay: float) -> None:
        """Wait, or until something happens to the object."""
        try:
            async with asyncio.timeout(delay):
                await self.nudge.wait()
        except TimeoutError:
            pass

    def hold(self, hold: Hold) -> None:
        """No further step for now; shown in status when it is new."""
        if self.holding != hold:
            self.holding = hold
            self.wake(self.key, 0.0)

    def relieve(self) -> None:
        """It goes on; shown in status when it was held."""
        if self.holding:
            self.holding = None
            self.wake(self.key, 0.0)

    def trouble(self, note: str) -> None:
        """Tell what goes wrong; shown in status when it is new."""
        if note != self.note:
            self.note = note
            self.wake(self.key, 0.0)


async def look(agent: AnyAgent, resource: AnyResource) -> Observed:
    """One observation, bounded in time. Raises Unavailable when it takes too long."""
    try:
        async with asyncio.timeout(agent.observe_timeout):
            observed: Observed = await agent.observe(resource)
    except TimeoutError as error:
        raise Unavailable(f"looking at {resource.key} took over {agent.observe_timeout:g} s") from error
    return observed


def holding_reason(run: Run) -> tuple[Reason, str]:
    """What a running operation waits for, for status."""
    if run.holding:
        return run.holding.reason, run.holding.message
    return Reason.PLAN_RUNNING, run.note
