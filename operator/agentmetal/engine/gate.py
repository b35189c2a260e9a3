"""The gate before every step: may it begin, now, with what the API server says, not what a watch once said?

Called by the executor. Decides by a pure function; reads with quorum before anything above Safe. No answer, no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agentmetal.core.condition import Reason
from agentmetal.core.errors import NotFound, StaleLeader
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.plan import Trigger
from agentmetal.core.resource import FINALIZER, AnyResource, Key, spec_hash
from agentmetal.engine.approval import stamp_of
from agentmetal.engine.journal import Journal


@dataclass(frozen=True, kw_only=True)
class Go:
    """It may begin."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Not now; the operation stays Running and begins no further step."""

    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Not any more: the operation closes as Cancelled."""

    message: str
    rejected_by: str = ""


Answer = Go | Hold | Stop


class Objects(Protocol):
    """Objects as they are now."""

    async def read(self, key: Key) -> AnyResource | None:
        """Read with quorum; None when it does not exist. Raises Transient errors: then nothing is known."""

    def cached(self, key: Key) -> AnyResource | None:
        """As last seen by the watch."""

    async def read_policies(self, namespace: str) -> tuple[ApprovalPolicy, ...]:
        """The approval policies of a namespace, read with quorum. Raises Transient errors."""


class Leader(Protocol):
    """The right of this process to act."""

    epoch: int

    def held(self) -> bool:
        """Is the lease certainly ours at this moment?"""


class Gate:
    """Reads what counts and asks the pure question."""

    def __init__(self, objects: Objects, journal: Journal, leader: Leader) -> None:
        self._objects = objects
        self._journal = journal
        self._leader = leader

    async def ask(self, operation: Operation, key: Key, *, quorum: bool) -> tuple[Answer, AnyResource | None]:
        """May the next step begin? And the object as it is, for the step.

        Raises Transient when the API does not answer, StaleLeader when another process leads.
        """
        if not quorum:
            resource = self._objects.cached(key)
            return self._checked(allowed(operation, resource)), resource
        resource = await self._objects.read(key)
        try:
            recorded = await self._journal.read(operation.metadata.namespace, operation.metadata.name)
        except NotFound:
            return self._checked(Stop(message="its journal does not exist any more")), resource
        if recorded.status.epoch > self._leader.epoch:
            raise StaleLeader(f"Operation {recorded.metadata.name!r} is run by leader epoch {recorded.status.epoch}")
        if recorded.phase.closed:
            return Stop(message=f"its journal says {recorded.phase}"), resource
        return self._checked(allowed(operation, resource)), resource

    async def ask_object(self, operation: Operation, key: Key) -> Answer:
        """What the object says now, for who has just written the journal: that was open, and nobody newer's.

        Raises as `ask` does.
        """
        return self._checked(allowed(operation, await self._objects.read(key)))

    def _checked(self, answer: Answer) -> Answer:
        if not self._leader.held():
            raise StaleLeader("this process no longer holds the lease")
        return answer


def allowed(operation: Operation, resource: AnyResource | None) -> Answer:
    """What the object, as it is now, says to the next step of a running operation. Pure."""
    if resource is None or resource.uid != operation.spec.resource_ref.uid:
        return Stop(message="the object does not exist any more")
    if resource.deleting and not operation.spec.while_deleting:
        return Stop(message="the object is being deleted")
    if FINALIZER not in resource.metadata.finalizers:
        return Stop(message=f"the finalizer {FINALIZER} is missing: somebody gave the machine up")
    stamp = stamp_of(resource)
    if stamp and stamp.verb == "reject" and stamp.digest == operation.digest:
        return Stop(message=f"rejected by {stamp.by}", rejected_by=stamp.by)
    if spec_hash(resource) != operation.spec.spec_hash:
        return Stop(message="the spec has changed")
    if resource.paused:
        return Hold(reason=Reason.PAUSED, message="paused: remove the annotation agentmetal.io/paused to go on")
    if resource.observe_only and operation.spec.cause.trigger is not Trigger.DELETION:
        return Hold(reason=Reason.OBSERVE_ONLY, message="spec.management.mode is Observe: nothing is changed")
    return Go()
