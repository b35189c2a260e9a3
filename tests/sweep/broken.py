"""Rules broken on purpose, one at a time: proof that sweep and exploration notice. Used by `test_broken_rules.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from agentmetal.app import Parts
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.resource import AnyResource, Key
from agentmetal.engine.approval import Approved, Verdict, decide, stamp_of
from agentmetal.engine.executor import Executor
from agentmetal.engine.gate import Answer, Gate, Go, Stop
from agentmetal.engine.ledger import Ledger


def any_approval(
    operation: Operation, resource: AnyResource, policies: Iterable[ApprovalPolicy], now: datetime
) -> Verdict:
    """Takes every approval for an approval of this plan."""
    stamp = stamp_of(resource)
    if stamp and stamp.verb == "approve":
        return Approved(by=stamp.by, via="Annotation")
    return decide(operation, resource, policies, now)


def ageless(operation: Operation, resource: AnyResource, policies: Iterable[ApprovalPolicy], now: datetime) -> Verdict:
    """Approvals never grow old."""
    stamp = stamp_of(resource)
    if stamp and stamp.verb == "approve" and stamp.digest == operation.digest:
        return Approved(by=stamp.by, via="Annotation")
    return decide(operation, resource, policies, now)


class Forgetful(Ledger):
    """Does not ask whether a digest was used, or its plan over, before."""

    async def _was_over(self, operation: Operation) -> bool:
        return False

    async def begin(self, operation: Operation, verdict: Approved) -> Operation:
        return await super().begin(operation, replace(verdict, via="Risk"))


class Innumerate(Ledger):
    """Counts plans by what the object's status says, not by the store."""

    async def _next_number(self, resource: AnyResource) -> int:
        status = resource.status
        return (status.last_operation.number if status.last_operation else 0) + 1


class Hasty(Ledger):
    """Writes that a step begins only after it has acted."""

    async def intend(self, operation: Operation, index: int, attempt: int, *, error: str | None = None) -> Operation:
        return operation


class Trusting(Gate):
    """Believes the cache instead of asking the API server."""

    async def ask(self, operation: Operation, key: Key, *, quorum: bool) -> tuple[Answer, AnyResource | None]:
        return await super().ask(operation, key, quorum=False)


class Deaf(Gate):
    """Does not stop when told to."""

    async def ask(self, operation: Operation, key: Key, *, quorum: bool) -> tuple[Answer, AnyResource | None]:
        answer, resource = await super().ask(operation, key, quorum=quorum)
        return (Go() if isinstance(answer, Stop) else answer), resource


class Impatient(Executor):
    """Takes a step whose end is not known for one that failed: a new attempt, a new unit."""

    async def call(self, run: Any, index: int, tool: Any, params: Any, attempt: int, *, begun: bool) -> Any:
        resumed = begun and run.operation.status.steps[index].attempt == attempt
        return await super().call(run, index, tool, params, attempt + 1 if resumed else attempt, begun=begun)


BY_DECISIONS: dict[str, tuple[Parts, tuple[str, ...]]] = {
    "any approval counts": (Parts(decide=any_approval), ()),
    "approvals never grow old": (Parts(decide=ageless), ("approve-paused",)),
    "used digests are not remembered": (Parts(ledger=Forgetful), ("approve", "late")),
    "numbers do not come from the store": (Parts(ledger=Innumerate), ("edit", "restore-waiting")),
    "the cache is believed": (Parts(gate=Trusting), ("approve", "blind")),
    "stops are ignored": (Parts(gate=Deaf), ()),
    "the intent is not written first": (Parts(ledger=Hasty), ()),
}
"""The rule that is broken, and where in the exploration it shows."""
BY_CRASHES: dict[str, Parts] = {
    "an unknown end is taken for a failure": Parts(executor=Impatient),
    "the intent is not written first": Parts(ledger=Hasty),
    "any approval counts after a restart": Parts(decide=any_approval),
}
