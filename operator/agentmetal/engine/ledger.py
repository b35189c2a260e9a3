"""The ledger: the life of operations (design §3.5), and the audit record of each turn. Called by the loop and executor.

Order of every turn: audit intent, Operation intent, effect (the executor's), Operation result, audit result.
The Operation is the truth for resuming; the audit is the evidence. The ledger decides nothing.
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
    AlreadyExists,
    Conflict,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RateLimited,
    StaleLeader,
    Transient,
    Unavailable,
    UnreadableOperation,
)
from agentmetal.core.lines import one_line
from agentmetal.core.operation import (
    Decision,
    Operation,
    OperationPhase,
    OperationStatus,
    StepState,
    StepStatus,
    Unreadable,
    moment,
)
from agentmetal.core.plan import FORMAT, Plan, Trigger
from agentmetal.core.resource import AnyResource
from agentmetal.core.risk import Risk
from agentmetal.engine.approval import Approved, Rejected
from agentmetal.engine.draft import draft
from agentmetal.engine.journal import Journal
from agentmetal.engine.known import UNSTABLE_AFTER, Known
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.trail import Trail

KEPT_CLOSED = 3
CLAIMS_AT_ONCE = 32
"""Writes under way while a new leader takes everything over."""
FAILURES_KEPT = timedelta(hours=24)
RETRY_DELAYS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds between tries of a journal write that cannot be given up; the last one repeats."""
CREATE_DELAYS = (0.1, 0.3, 1.0)
"""Seconds between tries to record a new operation; then the pass gives up and comes again."""

log = logging.getLogger("agentmetal.ledger")


class ForeignOperation(Permanent):
    """An Operation with our name belongs to another object: its number was forged, or two uids collide."""

    reason = "ForeignOperation"
    who_must_act = "the administrator"


class DigestUsed(Permanent):
    """This approval was used before, or its plan was over; a restored etcd brings old approvals back."""

    reason = "DigestUsed"


class JournalGone(Unavailable):
    """An Operation is not open any more (a restored etcd lacks it): nothing may be done that it cannot hold."""


class Ledger(Known):
    """Opens, moves and closes operations. One per process; only this process writes Operations."""

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
        self._let_go: dict[str, str] = {}
        """Operations that this process has let begin, and the audit's head then: a decision is recorded once."""

    # ---- reading

    async def prime(self) -> tuple[Operation, ...]:
        """Load what is open, and claim all of it: an older leader's next write then fails with a conflict.

        Nothing may act before this returns, so many are claimed at a time.
        """
        claimed: list[Operation] = []
        found = iter(await self._journal.open_operations())

        async def claim_some() -> None:
            claimed.extend([taken for operation in found if (taken := await self._taken_up(operation))])

        claiming = [asyncio.create_task(claim_some(), name="claim") for _ in range(CLAIMS_AT_ONCE)]
        try:
            await asyncio.gather(*claiming)
        finally:
            for task in claiming:
                task.cancel()
            await asyncio.gather(*claiming, return_exceptions=True)
        return tuple(claimed)

    async def _taken_up(self, operation: Operation | Unreadable) -> Operation | None:
        """The operation, claimed; None when it is over, gone, or another version's."""
        if isinstance(operation, Unreadable):
            await self._set_aside(operation)
            return None
        if not operation.phase.waiting and await self._was_over(operation):
            await self.close(operation, OperationPhase.CANCELLED, "it was over before, and is not run again")
            return None
        try:
            return await self._claim(operation)
        except JournalGone as error:
            log.info("%s", error)
            return None

    async def find_strays(self) -> tuple[Operation, ...]:
        """Open operations that this process did not know: their creation was given up, and arrived all the same."""
        found: list[Operation] = []
        for listed in await self._journal.open_operations():
            if isinstance(listed, Unreadable) or self._known(listed):
                continue
            try:
                stray = await self._journal.read(listed.metadata.namespace, listed.metadata.name)
            except NotFound:
                continue
            if not stray.phase.closed and not self._known(stray) and (taken := await self._taken_up(stray)):
                log.warning("%s was created late and is taken up now", stray.metadata.name)
                found.append(taken)
        return tuple(found)

    def _known(self, operation: Operation) -> bool:
        uid, name = operation.spec.resource_ref.uid, operation.metadata.name
        return name in self._open.get(uid, ()) or any(op.metadata.name == name for op in self._closed.get(uid, ()))

    async def _claim(self, operation: Operation) -> Operation:
        """Write our epoch into it, waiting or begun; what its last leader wrote meanwhile stays as it is."""
        wanted = self._claimed(operation.status)
        if wanted == operation.status:
            self._remember(operation)
            return operation
        return await self._write(operation, wanted, anew=self._claimed)

    def _claimed(self, status: OperationStatus) -> OperationStatus:
        if status.phase.closed or status.epoch >= self._epoch():
            return status
        update: dict[str, object] = {"epoch": self._epoch()}
        if status.phase is OperationPhase.RUNNING:
            update |= {"resumed": status.resumed + 1, "message": "taken up by a new leader"}
        return status.model_copy(update=update)

    async def catch_up(self, resource: AnyResource) -> None:
        """Learn how operations of the object ended that closed before this process began."""
        if found := self._unreadable.get(resource.uid):
            await self._still_unreadable(found)
        status = resource.status
        if resource.uid in self._closed or (status.plan is None and status.last_operation is None):
            return
        history = await self._journal.history(resource.metadata.namespace, resource.uid)
        self._closed[resource.uid] = [op for op in history if isinstance(op, Operation) and op.phase.closed]
        # Also a closed one of another version has its number.
        if unread := [op.number for op in history if isinstance(op, Unreadable)]:
            self._numbers[resource.uid] = max(*unread, await self._trail.highest_number(resource.uid))

    async def _set_aside(self, found: Unreadable) -> None:
        """Another version's: what has not begun is planned anew by us, what has begun is left to that version."""
        if not found.untouched:
            log.error("%s: it is left alone, and its object with it", found)
            self._unreadable[found.uid] = found
            return
        try:
            message = f"{found.why}: it is planned anew, and needs a new decision"
            await self._journal.supersede_unread(found, one_line(message, 1024), rfc3339(self._clock.now()))
        except NotFound:
            return
        except Conflict:  # somebody acts on it: then it may have begun
            self._unreadable[found.uid] = found

    async def _still_unreadable(self, found: Unreadable) -> None:
        """Raises UnreadableOperation, in a pass of its object, until it is gone or closed."""
        now: Operation | None = None
        try:
            now = await self._journal.read(found.namespace, found.name)
        except NotFound:
            log.info("%s exists no more: its object goes on", found)
        except UnreadableOperation as error:
            if error.closed:
                self._unreadable.pop(found.uid, None)
                return
            raise UnreadableOperation(
                f"{error.message}: nothing is done until it is over. Run the version that wrote it; or, if that cannot"
                f" be, see what its steps did to the machine, delete Operation {found.name!r} as administrator, and"
                " annotate agentmetal.io/replan"
            ) from error
        if now is not None and not now.phase.closed:
            await self._claim(now)
        self._unreadable.pop(found.uid, None)

    # ---- opening

    async def open(
        self, resource: AnyResource, plan: Plan, *, needs_human: bool, issue: str | None = None
    ) -> Operation:
        """The operation for this plan: the one that waits already, or a new one; others that wait are superseded."""
        plan_hash = plan.hash_for(resource.key, resource.uid)
        same: Operation | None = None
        for waiting in self.waiting(resource.uid):
            if waiting.spec.plan_hash == plan_hash:
                same = waiting
            elif not (plan.trigger is Trigger.ISSUE and waiting.spec.cause.trigger is Trigger.DELETION):
                same_spec = waiting.spec.generation == resource.metadata.generation
                same_cause = waiting.spec.cause.trigger is plan.trigger  # a repair goes before: nothing flips
                await self.supersede(waiting, _why_anew(waiting), counts=same_spec and same_cause)
        if same is not None:
            return await self._restate(same, needs_human=needs_human)
        return await self._open_new(resource, plan, needs_human=needs_human, issue=issue)

    async def _restate(self, operation: Operation, *, needs_human: bool) -> Operation:
        """A policy may have changed its mind about a plan that waits."""
        if needs_human and operation.phase is OperationPhase.PENDING:
            update = {"phase": OperationPhase.AWAITING_APPROVAL, "message": "waits for approval"}
            return await self._write(operation, operation.status.model_copy(update=update))
        return operation

    async def _open_new(self, resource: AnyResource, plan: Plan, *, needs_human: bool, issue: str | None) -> Operation:
        number = await self._next_number(resource)
        while True:
            operation = draft(resource, plan, number, needs_human=needs_human, issue=issue, epoch=self._epoch())
            created = await self._create(operation, resource)
            if not created.phase.closed:
                break
            number += 1
        self._numbers[resource.uid] = created.spec.number
        self._remember(created)
        self._metrics.plan_opened(resource.kind, plan.risk.value, plan.trigger.value)
        return created

    async def _next_number(self, resource: AnyResource) -> int:
        status = resource.status
        shown = status.last_operation.number if status.last_operation else 0
        planned = int(status.plan.operation.rpartition("-")[2]) if status.plan and status.plan.operation else 0
        stored = self._numbers.get(resource.uid) or await self._trail.highest_number(resource.uid)
        known = max((op.spec.number for op in self._closed.get(resource.uid, ())), default=0)
        opened = max((op.spec.number for op in self._open[resource.uid].values()), default=0)
        return max(shown, planned, stored, known, opened) + 1

    async def _create(self, operation: Operation, resource: AnyResource) -> Operation:
        """Audit, then create; a name that exists is ours from before a crash, closed, or foreign."""
        head, _ = await asyncio.gather(
            self._trail.record(operation, AuditAction.PLAN, outcome=operation.phase.value),
            self._trail.note_number(operation),
        )
        operation = operation.model_copy(update={"status": operation.status.model_copy(update={"audit_head": head})})
        return await self._recorded(operation, resource)

    async def _recorded(self, operation: Operation, resource: AnyResource) -> Operation:
        for delay in CREATE_DELAYS:
            try:
                return await self._journal.create(operation, resource)
            except (AlreadyExists, OutcomeUnknown) as error:
                lost: AgentMetalError = error
            except RateLimited as error:  # every pass would cost a number and a record: this one tries itself
                if (wait := error.retry_after or 0.0) > CREATE_DELAYS[-1]:
                    raise
                lost = error
                await asyncio.sleep(max(delay, wait))
                continue
            try:
                return await self._found(operation)
            except NotFound:  # the request never arrived: it is sent again
                await asyncio.sleep(delay)
        raise Unavailable(f"Operation {operation.metadata.name!r} could not be recorded: {lost.message}")

    async def _found(self, wanted: Operation) -> Operation:
        found = await self._journal.read(wanted.metadata.namespace, wanted.metadata.name)
        if found.spec.resource_ref.uid != wanted.spec.resource_ref.uid:
            raise ForeignOperation(
                f"Operation {found.metadata.name!r} belongs to another object"
                f" ({found.spec.resource_ref.uid!r}): delete it as administrator, then annotate agentmetal.io/replan"
            )
        if not found.phase.closed and found.digest != wanted.digest:
            self._remember(found)
            await self.supersede(found, "the plan has changed")
            return self._closed[found.spec.resource_ref.uid][-1]
        return found

    # ---- moving

    async def begin(self, operation: Operation, verdict: Approved) -> Operation:
        """Use the approval up and record the decision; the first step's intent is written by `intend`."""
        await self._trail.hold_for_gaps(operation.spec.risk)
        if await self._was_over(operation):
            raise DigestUsed(
                f"the plan {operation.short_digest!r} was over before: look at the new one and approve that"
            )
        if verdict.via == "Annotation":
            # The epoch makes a retry of this process possible and a second use after any restart impossible.
            user = f"{operation.metadata.name}@{self._epoch()}"
            if not await self._trail.use_digest(operation.digest, user):
                raise DigestUsed(
                    f"the approval of {operation.short_digest!r} was used before: look at the new plan and approve that"
                )
        now = rfc3339(self._clock.now())
        waited = _age(operation, self._clock.now())
        decision = Decision(verdict="Approved", by=verdict.by, via=verdict.via, at=now, reason=verdict.reason)
        head = self._let_go.get(operation.metadata.name)
        if head is None:
            head = await self._trail.record(
                operation, AuditAction.APPROVE, actor=verdict.by, decision=f"Approved via {verdict.via}"
            )
            self._let_go[operation.metadata.name] = head
            self._metrics.decided(operation.spec.resource_ref.kind, "Approved", verdict.via, waited)
        update = {
            "phase": OperationPhase.RUNNING,
            "decision": decision,
            "epoch": self._epoch(),
            "started_at": now,
            "audit_head": head,
        }
        return operation.model_copy(update={"status": operation.status.model_copy(update=update)})

    async def note_approval(self, operation: Operation, verdict: Approved) -> Operation:
        """Remember when an approval was first seen that cannot begin now: `approvalTTL` counts from here."""
        if operation.status.decision is not None or verdict.via != "Annotation":
            return operation
        at = rfc3339(self._clock.now())
        decision = Decision(verdict="Approved", by=verdict.by, via=verdict.via, at=at, reason=verdict.reason)
        return await self._write(operation, operation.status.model_copy(update={"decision": decision}))

    async def intend(self, operation: Operation, index: int, attempt: int, *, error: str | None = None) -> Operation:
        """Write that a step is about to act, together with the result of the one before."""
        now = rfc3339(self._clock.now())
        old = operation.status.steps[index]
        step = old.model_copy(
            update={
                "state": StepState.RUNNING,
                "attempt": attempt,
                "started_at": old.started_at or now,
                "error": error,
            }
        )
        spec = operation.spec.steps[index]
        if spec.risk.exceeds(Risk.SAFE):
            await self._trail.hold_for_gaps(spec.risk)
            head = await self._trail.record(
                operation,
                AuditAction.STEP,
                outcome=f"begins {index + 1}/{len(operation.spec.steps)}, attempt {attempt}",
                steps=(spec.description,),
            )
        else:
            head = operation.status.audit_head or ""
        message = f"step {index + 1}/{len(operation.spec.steps)}: {spec.description}"
        status = _with_step(operation.status, index, step, message=message, audit_head=head)
        return await self._write(operation, status)

    def stepped(self, operation: Operation, index: int, state: StepState, text: str) -> Operation:
        """Note how a step ended; it is written with the next intent, or with the close."""
        now = rfc3339(self._clock.now())
        field = "result" if state is StepState.SUCCEEDED else "error"
        step = operation.status.steps[index].model_copy(
            update={"state": state, "finished_at": now, "error": None, field: one_line(text, 1024)}
        )
        done = sum(s.state is StepState.SUCCEEDED for s in operation.status.steps) + (state is StepState.SUCCEEDED)
        status = _with_step(operation.status, index, step, progress=f"{done}/{len(operation.spec.steps)}")
        return operation.model_copy(update={"status": status})

    async def keep(self, operation: Operation) -> Operation:
        """Write what only this process knows so far: decisions and results that ride along with the next intent."""
        self._epoch()  # raises StaleLeader: whoever leads no more leaves it as it is
        ref, name = operation.spec.resource_ref, operation.metadata.name
        recorded = self._open[ref.uid].get(name) if ref.uid in self._open else None
        if recorded is None or recorded.status == operation.status:
            return operation
        return await self._write(operation, operation.status)

    async def block(self, operation: Operation, index: int, message: str) -> Operation:
        """A step's end cannot be known: a human must say whether it was done."""
        step = operation.status.steps[index].model_copy(
            update={"state": StepState.IN_DOUBT, "error": one_line(message, 1024)}
        )
        head = await self._trail.record(operation, AuditAction.STEP, outcome=f"in doubt: {message}")
        status = _with_step(
            operation.status,
            index,
            step,
            phase=OperationPhase.BLOCKED,
            message=one_line(message, 1024),
            audit_head=head,
        )
        return await self._write(operation, status)

    async def resolve(self, operation: Operation, index: int, *, done: bool, by: str) -> Operation:
        """A human said whether the step in doubt was done."""
        text = f"{by} says it was {'done' if done else 'not done'}"
        old = operation.status.steps[index]
        update = (
            {"state": StepState.SUCCEEDED, "result": text, "error": None}
            if done
            else {"state": StepState.PENDING, "attempt": old.attempt + 1, "error": text}
        )
        head = await self._trail.record(operation, AuditAction.RESOLVE, actor=by, decision=text)
        status = _with_step(
            operation.status,
            index,
            old.model_copy(update=update),
            phase=OperationPhase.RUNNING,
            epoch=self._epoch(),
            message=text,
            audit_head=head,
        )
        return await self._write(operation, status)

    # ---- closing

    async def close(self, operation: Operation, phase: OperationPhase, message: str) -> Operation:
        """The end: the Operation first, for it is the truth, then the audit record."""
        now = self._clock.now()
        update = {"phase": phase, "message": one_line(message, 1024), "finished_at": rfc3339(now)}
        closed = await self._write(operation, operation.status.model_copy(update=update))
        self._let_go.pop(closed.metadata.name, None)
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
        waited = _age(operation, self._clock.now())
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


def _why_anew(operation: Operation) -> str:
    if (format := operation.spec.plan_format) != FORMAT:
        how = "an older" if format < FORMAT else "a newer"
        return f"{how} AgentMetal made this plan (plan format {format}, now {FORMAT}): the new one needs a new decision"
    return "the plan has changed"


def _with_step(status: OperationStatus, index: int, step: StepStatus, **update: object) -> OperationStatus:
    steps = (*status.steps[:index], step, *status.steps[index + 1 :])
    return status.model_copy(update={"steps": steps, **update})


def _age(operation: Operation, now: datetime) -> float:
    created = operation.metadata.creation_timestamp
    return max(0.0, (now - created).total_seconds()) if created else 0.0


def _duration_ms(operation: Operation, now: datetime) -> int:
    began = moment(operation.status.started_at)
    return max(0, int((now - began).total_seconds() * 1000)) if began else 0
