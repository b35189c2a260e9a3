"""Plans: typed steps, and the two hashes an approval is bound to. Made by agents (pure), opened by the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentmetal.core.canonical import sha256_hex
from agentmetal.core.condition import Reason
from agentmetal.core.errors import Invalid
from agentmetal.core.resource import Key, Origin
from agentmetal.core.risk import Risk

FORMAT = 1
"""Version of what is hashed. A change here invalidates waiting approvals: say so in the changelog."""
MAX_STEPS = 64
MAX_BYTES = 64 * 1024
MAX_PARAMETER_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class Step:
    """One typed tool call: identities and desired values only. Measurements are `evidence`, shown and not hashed."""

    tool: str
    parameters: Mapping[str, Any]
    risk: Risk
    description: str
    optional: bool = False
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A difference between what is wanted and what is."""

    field: str
    desired: str
    actual: str

    def __str__(self) -> str:
        return f"{self.field}: {self.actual} -> {self.desired}"


@dataclass(frozen=True, kw_only=True)
class Issue:
    """Something wrong with the world although nobody changed what is wanted."""

    type: Reason
    urgent: bool
    evidence: str


class Trigger(StrEnum):
    """Why a plan exists; also which of the agent's functions made it, so that it can be made again."""

    CHANGE = "Change"
    ISSUE = "Issue"
    DELETION = "Deletion"
    PARENT = "Parent"
    PROPOSAL = "Proposal"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do, why, and for whom it counts. Empty = nothing to do."""

    steps: tuple[Step, ...] = ()
    reasoning: str = ""
    origin: Origin = Origin.DETERMINISTIC
    trigger: Trigger = Trigger.CHANGE
    targets: Mapping[str, str] = field(default_factory=dict)
    """Identities of what it acts on; part of the hash, so an approval never moves to another machine."""

    def __post_init__(self) -> None:
        """Raises Invalid: it is what somebody asks for that is too much, and status tells him."""
        if len(self.steps) > MAX_STEPS:
            raise Invalid(f"a plan has at most {MAX_STEPS} steps, this one {len(self.steps)}: ask for less at once")
        for step in self.steps:
            if oversized := [name for name, value in step.parameters.items() if _size(value) > MAX_PARAMETER_BYTES]:
                what = f"{' and '.join(oversized)} of step {step.tool!r}"
                raise Invalid(f"{what} would be over {MAX_PARAMETER_BYTES} bytes: write less of it into the spec")
        if _size(self.body()) > MAX_BYTES:
            raise Invalid(f"a plan has at most {MAX_BYTES} bytes: ask for less at once")

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def risk(self) -> Risk:
        """The highest risk of the steps."""
        return Risk.highest([step.risk for step in self.steps])

    @property
    def evidence(self) -> tuple[str, ...]:
        """What the steps were planned on."""
        return tuple(dict.fromkeys(step.evidence for step in self.steps if step.evidence))

    def body(self) -> dict[str, Any]:
        """What is hashed of the plan itself."""
        steps = [
            {"tool": s.tool, "parameters": dict(s.parameters), "risk": s.risk.value, "optional": s.optional}
            for s in self.steps
        ]
        return {"format": FORMAT, "targets": dict(self.targets), "steps": steps}

    def hash_for(self, key: Key, uid: str) -> str:
        """planHash: the same plan for the same object has the same hash, whenever it is made."""
        place = {"kind": key.kind, "namespace": key.namespace, "name": key.name, "uid": uid}
        return sha256_hex({**place, **self.body()})


def digest(plan_hash: str, number: int) -> str:
    """What an approval names. It carries the operation's number, so it never repeats."""
    return "sha256:" + sha256_hex({"planHash": plan_hash, "number": number})


def _size(value: Any) -> int:
    """As in the canonical form, but for how it writes numbers: asked of every parameter of every plan, so quickly."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
