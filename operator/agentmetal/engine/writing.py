"""Journal writes that are not given up, and the last one of an operation: its end. The ledger builds on it.

A write is tried until it is written or a newer leader is found. What has ended stays as it ended.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from agentmetal.core.audit import AuditAction, AuditStore
from agentmetal.core.clock import Clock, rfc3339
from agentmetal.core.errors import (
    AgentMetalError,
    Conflict,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    StaleLeader,
    Transient,
    Unavailable,
)
from agentmetal.core.lines import one_line
from agentmetal.core.operation import Decision, Operation, OperationPhase, OperationStatus, moment
from agentmetal.engine.approval import Rejected
from agentmetal.engine.journal import Journal
from agentmetal.engine.known import UNSTABLE_AFTER, Known
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.trail import Trail

KEPT_CLOSED = 3
FAILURES_KEPT = timedelta(hours=24)
RETRY_DELAYS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds between tries of a journal write that cannot be given up; the last one repeats."""

log = logging.getLogger("agentmetal.ledger")


class JournalGone(Unavailable):
    """An Operation is not open any more (a restored etcd lacks it): nothing may be done that it cannot hold."""


class Writing(Known):
    """Writes operations, and closes them."""

    def __init__(
        self,
        journal: Journal,
        audit: AuditStore,
        clock: Clock,
        metrics: Metrics,
        *,
        epoch: Callable[[], int],
        agent_name: Callable[[str], str] = str.lower,
    ) -> None:
        super().__init__()
        self._journal = journal
        self._trail = Trail(audit, clock, agent_name)
        self._clock = clock
        self._metrics = metrics
        self._epoch = epoch

    # ---- closing

    async def close(self, operation: Operation, phase: OperationPhase, message: str) -> Operation:
        """The end: the Operation first, for it is the truth, then the audit record."""
        now = self._clock.now()
        update = {"phase": phase, "message": one_line(message, 1024), "finished_at": rfc3339(now)}
        closed = await self._write(operation, operation.status.model_copy(update=update))
        if closed.phase is not phase:  # it had ended before, and that was recorded then
            return closed
        if phase is OperationPhase.SUCCEEDED:
            self._count_repeat(closed, now)
        await self._trail.record_result(closed, phase, message, _duration_ms(closed, now))
        await self._trail.remember_end(closed)
        await self._prune(closed.spec.resource_ref.uid, now)
        return closed

    async def reject(
        self,
        operation: Operation,
        verdict: Rejected,
        phase: OperationPhase = OperationPhase.REJECTED,
        *,
        note: str = "",
    ) -> Operation:
        """A human refused it, before it began or (Cancelled) in its middle: it is not proposed again by itself.

        `note` is what he must know of a step that had begun.
        """
        at = rfc3339(self._clock.now())
        decision = Decision(verdict="Rejected", by=verdict.by, via="Annotation", at=at, reason=verdict.reason)
        await self._trail.record(operation, AuditAction.REJECT, actor=verdict.by, decision="Rejected")
        waited = age(operation, self._clock.now())
        self._metrics.decided(operation.spec.resource_ref.kind, "Rejected", "Annotation", waited)
        operation = operation.model_copy(update={"status": operation.status.model_copy(update={"decision": decision})})
        return await self.close(operation, phase, f"rejected by {verdict.by}. {verdict.reason}".strip() + note)

    async def supersede(self, operation: Operation, why: str, *, counts: bool = False) -> Operation:
        """Another plan takes its place; `counts` when nobody changed the spec, so the world or our plans flip."""
        closed = await self.close(operation, OperationPhase.SUPERSEDED, why)
        if counts:
            uid = operation.spec.resource_ref.uid
            self._superseded[uid] = [*self._superseded.get(uid, ()), closed][-UNSTABLE_AFTER:]
        return closed

    async def withdraw(self, uid: str, why: str = "there is nothing to do any more") -> None:
        """The plans of an object that wait are not needed any more."""
        for waiting in self.waiting(uid):
            await self.close(waiting, OperationPhase.WITHDRAWN, why)

    # ---- writing

    async def _write(
        self,
        operation: Operation,
        status: OperationStatus,
        *,
        anew: Callable[[OperationStatus], OperationStatus] | None = None,
    ) -> Operation:
        """Write until it is written; a newer leader's mark ends this process's right to.

        `anew` makes the status from what somebody else has written meanwhile.
        """
        written: Operation | None = None
        lost, refused = False, 0
        delays = itertools.chain(RETRY_DELAYS, itertools.repeat(RETRY_DELAYS[-1]))
        while written is None:
            try:
                written = await self._journal.write(operation, status)
            except NotFound:
                written = self._unrecorded(operation, status)
            except (Conflict, OutcomeUnknown) as error:
                if lost:  # once may happen to anybody; a server that goes on so is not asked without a pause
                    await self._wait(operation, next(delays), error)
                lost, found = True, await self._reread(operation)
                if found is None:
                    written = self._unrecorded(operation, status)
                    break
                operation, status = found, anew(found.status) if anew else status
                written = operation if operation.status == status else self._ended(operation, status)
            except Transient as error:
                await self._wait(operation, max(error.retry_after or 0.0, next(delays)), error)
            except Forbidden as error:  # a young API server does not know our roles yet
                refused += 1
                if refused > len(RETRY_DELAYS):
                    raise
                await self._wait(operation, next(delays), error)
        self._remember(written)
        return written

    async def _wait(self, operation: Operation, delay: float, error: AgentMetalError) -> None:
        log.warning("journal of %s not written, again in %s s: %s", operation.metadata.name, delay, error)
        await asyncio.sleep(delay)

    def _ended(self, found: Operation, status: OperationStatus) -> Operation | None:
        """What is over stays as it ended: nothing opens it again, and another end comes too late."""
        if not found.phase.closed:
            return None
        if status.phase.closed:
            return found
        self._remember(found)
        raise JournalGone(f"Operation {found.metadata.name!r} is over already: {found.phase}")

    def _unrecorded(self, operation: Operation, status: OperationStatus) -> Operation:
        """It was deleted, with its namespace or by a restore: an end needs no record, anything else may not go on."""
        if status.phase.closed:
            return operation.model_copy(update={"status": status})
        self._drop(operation)
        raise JournalGone(f"Operation {operation.metadata.name!r} does not exist any more: it is planned anew")

    async def _reread(self, operation: Operation) -> Operation | None:
        try:
            found = await self._journal.read(operation.metadata.namespace, operation.metadata.name)
        except NotFound:
            return None
        except Transient:
            await asyncio.sleep(RETRY_DELAYS[0])
            return operation
        if found.status.epoch > self._epoch():
            raise StaleLeader(f"Operation {found.metadata.name!r} was taken up by leader epoch {found.status.epoch}")
        return found

    async def _was_over(self, operation: Operation) -> bool:
        return await self._trail.was_over(operation)

    async def _prune(self, uid: str, now: datetime) -> None:
        closed = sorted(self._closed.get(uid, ()), key=lambda op: op.spec.number)
        for operation in closed[:-KEPT_CLOSED]:
            ended = moment(operation.status.finished_at) or now
            if operation.phase is OperationPhase.FAILED and now - ended < FAILURES_KEPT:
                continue
            try:
                await self._journal.delete(operation)
            except AgentMetalError as error:
                log.info("old operation %s stays for now: %s", operation.metadata.name, error)
                continue
            self._closed[uid] = [op for op in self._closed[uid] if op.metadata.name != operation.metadata.name]


def age(operation: Operation, now: datetime) -> float:
    """Seconds since it was opened."""
    created = operation.metadata.creation_timestamp
    return max(0.0, (now - created).total_seconds()) if created else 0.0


def _duration_ms(operation: Operation, now: datetime) -> int:
    began = moment(operation.status.started_at)
    return max(0, int((now - began).total_seconds() * 1000)) if began else 0
