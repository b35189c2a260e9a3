"""The evidence: one audit record, and one log line, for each turn of an operation. Called by the ledger.

Without the audit store nothing above Safe goes on; what has happened already is never hidden by a full disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from agentmetal.core.audit import AuditAction, AuditEntry, AuditStore, held_by
from agentmetal.core.clock import Clock, rfc3339
from agentmetal.core.errors import Unavailable
from agentmetal.core.lines import one_line
from agentmetal.core.logs import Action, log_action
from agentmetal.core.operation import Operation, OperationPhase
from agentmetal.core.risk import Risk

log = logging.getLogger("agentmetal.trail")


class AuditUnavailable(Unavailable):
    """Nothing can be added to the audit trail: nothing above Safe may happen."""

    reason = "AuditUnavailable"
    who_must_act = "the administrator"


class Trail:
    """Writes evidence to the audit store."""

    def __init__(self, audit: AuditStore, clock: Clock, agent_name: Callable[[str], str]) -> None:
        self._audit = audit
        self._clock = clock
        self._agent_name = agent_name

    async def highest_number(self, uid: str) -> int:
        """The highest number ever given to an operation of the object."""
        return await self._audit.highest_number(uid)

    async def note_number(self, operation: Operation) -> None:
        """Remember the number, so that it is never given again."""
        try:
            await self._audit.note_number(operation.spec.resource_ref.uid, operation.spec.number)
        except Unavailable as error:
            if operation.spec.risk.exceeds(Risk.SAFE):
                raise AuditUnavailable(error.message) from error

    async def hold_for_gaps(self, risk: Risk) -> None:
        """Nothing above Safe begins while a gap in the trail is open. Raises AuditUnavailable; the store is asked."""
        if not risk.exceeds(Risk.SAFE):
            return
        try:
            gaps = await self._audit.gaps()
        except Unavailable as error:
            raise AuditUnavailable(f"nothing above Safe runs without the audit trail: {error.message}") from error
        if gaps:
            raise AuditUnavailable(held_by(gaps[0]))

    async def record(
        self,
        operation: Operation,
        action: AuditAction,
        *,
        actor: str = "operator",
        decision: str = "",
        outcome: str = "",
        steps: Sequence[str] = (),
        duration_ms: int = 0,
    ) -> str:
        """Append to the audit; without it nothing above Safe goes on. Returns the hash."""
        ref, spec = operation.spec.resource_ref, operation.spec
        entry = AuditEntry(
            agent=self._agent_name(ref.kind),
            action=action,
            resource=f"{ref.kind} {operation.metadata.namespace}/{ref.name} ({ref.uid})",
            timestamp=rfc3339(self._clock.now()),
            actor=actor,
            operation=operation.metadata.name,
            reasoning=spec.reasoning,
            digest=spec.digest,
            steps=tuple(steps) or tuple(step.description for step in spec.steps),
            risk=spec.risk.value,
            decision=decision,
            outcome=one_line(outcome, 1024),
            duration_ms=duration_ms,
        )
        log_action(
            log,
            Action(action.value),
            decision or outcome or action.value,
            resource=f"{ref.kind} {operation.metadata.namespace}/{ref.name}",
            operation=operation.metadata.name,
            risk=spec.risk.value,
            actor=actor,
            digest=operation.short_digest,
        )
        try:
            return (await self._audit.append(entry)).hash
        except Unavailable as error:
            if spec.risk.exceeds(Risk.SAFE):
                raise AuditUnavailable(f"nothing above Safe runs without the audit trail: {error.message}") from error
            log.warning("audit store unavailable: %s of Safe %s goes on unrecorded", action, operation.metadata.name)
            return operation.status.audit_head or ""

    async def record_result(self, closed: Operation, phase: OperationPhase, message: str, duration_ms: int) -> None:
        """How it ended."""
        await self.note(closed, AuditAction.CLOSE, outcome=f"{phase.value}: {message}", duration_ms=duration_ms)

    async def note(
        self,
        operation: Operation,
        action: AuditAction,
        *,
        outcome: str,
        steps: Sequence[str] = (),
        duration_ms: int = 0,
    ) -> None:
        """What has happened has happened: a full disk must not hide it from the journal, only from the trail."""
        try:
            await self.record(operation, action, outcome=outcome, steps=steps, duration_ms=duration_ms)
        except Unavailable as error:
            log.error("%r of %s is not in the audit trail: %s", outcome, operation.metadata.name, error)

    async def remember_end(self, closed: Operation) -> None:
        """What is over stays over, also when a restored etcd shows it open again."""
        if not closed.spec.risk.exceeds(Risk.SAFE):
            return
        try:
            await self._audit.use_digest(_end_of(closed), closed.metadata.name)
        except Unavailable as error:
            log.error("the end of %s is not remembered: %s", closed.metadata.name, error)

    async def was_over(self, operation: Operation) -> bool:
        """Did this very operation end before, whatever a restored etcd shows?"""
        if not operation.spec.risk.exceeds(Risk.SAFE):
            return False
        try:
            return bool(await self._audit.used_by(_end_of(operation)))
        except Unavailable as error:
            raise AuditUnavailable(error.message) from error

    async def use_digest(self, digest: str, user: str) -> bool:
        """Mark a digest as used, for ever. False when somebody else used it."""
        try:
            return await self._audit.use_digest(digest, user)
        except Unavailable as error:
            raise AuditUnavailable(f"an approval counts once it is recorded: {error.message}") from error


def _end_of(operation: Operation) -> str:
    """What the audit store remembers of an operation that is over."""
    return f"{operation.digest} is over"
