"""A pass for an object whose operation has begun: pass signals on, resume after a restart, end what is in doubt.

Called by the loop first of all. It plans nothing.
"""

from __future__ import annotations

import asyncio
import logging

from agentmetal.core.condition import Reason
from agentmetal.core.errors import AgentMetalError, StaleLeader
from agentmetal.core.operation import Operation, OperationPhase
from agentmetal.core.outcome import Failed, Outcome, Progressing
from agentmetal.core.resource import Annotation, AnyResource, Key
from agentmetal.engine import fit, verbs
from agentmetal.engine.agent import AnyAgent
from agentmetal.engine.executor import Executor
from agentmetal.engine.ledger import Ledger
from agentmetal.engine.run import Run, holding_reason, look

log = logging.getLogger("agentmetal.busy")


class Busy:
    """Objects with an operation under way."""

    def __init__(self, ledger: Ledger, executor: Executor) -> None:
        self._ledger = ledger
        self._executor = executor
        self._looked: dict[str, float] = {}
        """When the world was last looked at while a plan ran, by the event loop's time."""

    async def abandon(self, key: Key, living: str = "") -> None:
        """End what is open about an object that is gone: nobody else would, and our finalizer would hold it."""
        for operation in self._ledger.left_of(key, living):
            uid = operation.spec.resource_ref.uid
            if self._executor.run_of(uid) is not None:  # it finds out at its next boundary, and wakes us then
                continue
            phase = OperationPhase.SUPERSEDED if operation.phase.waiting else OperationPhase.CANCELLED
            try:
                await self._ledger.close(operation, phase, "the object does not exist any more")
                if not self.open_about(uid):
                    self._ledger.forget(uid)
            except StaleLeader:
                raise
            except AgentMetalError as error:  # there is no object whose status could tell
                log.error("%s of %s, which is gone, cannot be closed: %s", operation.metadata.name, key, error)

    def open_about(self, uid: str) -> bool:
        """Is anything about that object still to come to its end?"""
        under_way = self._executor.run_of(uid) or self._ledger.running(uid) or self._ledger.waiting(uid)
        return bool(under_way)

    def forget(self, uid: str) -> None:
        """The object is gone."""
        self._looked.pop(uid, None)

    async def forward(self, agent: AnyAgent, resource: AnyResource) -> Outcome | None:
        """The outcome while an operation is under way; None when the way is free for planning."""
        await self.abandon(resource.key, living=resource.uid)
        operation = self._ledger.running(resource.uid)
        if operation and operation.phase is OperationPhase.BLOCKED:
            resolved = verbs.resolution(resource, operation)
            if resolved is None:
                return _in_doubt(resource, operation)
            operation = await self._ledger.resolve(operation, resolved.step - 1, done=resolved.done, by=resolved.by)
        if operation and self._executor.run_of(resource.uid) is None:
            self._executor.start(agent, resource, operation)
        run = self._executor.run_of(resource.uid)
        if run is None:
            self._looked.pop(resource.uid, None)
            return _left(operation) if operation else None
        if _meaning(resource) != _meaning(run.resource):
            self._executor.nudge(resource.uid)
        await self._look_for_urgent(agent, resource, run)
        reason, message = holding_reason(run)
        return Progressing(
            reason=reason,
            message=message or run.operation.spec.reasoning,
            again_in=resource.resync_seconds,
            operation=run.operation,
        )

    async def _look_for_urgent(self, agent: AnyAgent, resource: AnyResource, run: Run) -> None:
        """At resync the world is looked at even now; something urgent asks the plan to end at its next boundary."""
        now = asyncio.get_running_loop().time()
        looked = self._looked.setdefault(resource.uid, now)
        if now - looked < resource.resync_seconds:
            return
        self._looked[resource.uid] = now
        repair = fit.repair(agent, resource, await look(agent, resource))
        if repair and repair.issue and repair.issue.urgent:
            spec = run.operation.spec
            if (
                repair.plan.hash_for(resource.key, resource.uid) != spec.plan_hash
                and spec.cause.issue != repair.issue.type
            ):
                self._executor.nudge(resource.uid, stop=f"something more urgent: {repair.issue.evidence}")


def _left(operation: Operation) -> Progressing:
    """This process is ending: nothing is planned beside what the next leader resumes."""
    message = "it is left for the next leader"
    return Progressing(reason=Reason.PLAN_RUNNING, message=message, operation=operation)


def _in_doubt(resource: AnyResource, operation: Operation) -> Failed:
    """The sentence a human needs."""
    place = verbs.place_in_doubt(operation)
    number = place.split("/")[1]
    message = (
        f"{operation.status.message}. Look at the machine, then say whether step {number} was done: kubectl annotate"
        f" --overwrite {resource.kind.lower()} {resource.metadata.name} -n {resource.metadata.namespace}"
        f" {Annotation.RESOLVE}={place}=done (or =not-done)"
    )
    return Failed(reason=Reason.STEP_IN_DOUBT, message=message, who_must_act="an approver", operation=operation)


def _meaning(resource: AnyResource) -> tuple[object, ...]:
    meta = resource.metadata
    return meta.generation, meta.deletion_timestamp, meta.finalizers, sorted(meta.annotations.items())
