"""The ledger: the life of operations (design §3.5), and the audit record of each turn. Called by the loop and executor.

Order of every turn: audit intent, Operation intent, effect (the executor's), Operation result, audit result.
The Operation is the truth for resuming; the audit is the evidence. The ledger decides nothing. Its ends stand in
`writing`, what others left in `recovery`, what it knows in `known`.
"""

from __future__ import annotations

import asyncio

from agentmetal.core.audit import AuditAction
from agentmetal.core.clock import rfc3339
from agentmetal.core.errors import (
    AgentMetalError,
    AlreadyExists,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RateLimited,
    Unavailable,
)
from agentmetal.core.lines import one_line
from agentmetal.core.operation import Decision, Operation, OperationPhase, OperationStatus, StepState, StepStatus
from agentmetal.core.plan import FORMAT, Plan, Trigger
from agentmetal.core.resource import AnyResource
from agentmetal.core.risk import Risk
from agentmetal.engine.approval import Approved
from agentmetal.engine.draft import draft
from agentmetal.engine.recovery import Recovery
from agentmetal.engine.writing import age

CREATE_DELAYS = (0.1, 0.3, 1.0)
"""Seconds between tries to record a new operation; then the pass gives up and comes again."""


class ForeignOperation(Permanent):
    """An Operation with our name belongs to another object: its number was forged, or two uids collide."""

    reason = "ForeignOperation"
    who_must_act = "the administrator"


class DigestUsed(Permanent):
    """This approval was used before, or its plan was over; a restored etcd brings old approvals back."""

    reason = "DigestUsed"


class Ledger(Recovery):
    """Opens, moves and closes operations. One per process; only this process writes Operations."""

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
        waited = age(operation, self._clock.now())
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

    async def take_back(self, operation: Operation, index: int) -> Operation:
        """The step whose intent is written did not act after all: after a crash it must not look as if it had."""
        old, spec = operation.status.steps[index], operation.spec.steps[index]
        began = old.started_at if old.attempt > 1 else None
        step = old.model_copy(update={"state": StepState.PENDING, "started_at": began})
        place = f"{index + 1}/{len(operation.spec.steps)}"
        status = _with_step(operation.status, index, step, message=f"step {place} did not begin: it is asked for again")
        written = await self._write(operation, status)
        if spec.risk.exceeds(Risk.SAFE):
            why = "what was asked right before it acts was not go"
            await self._trail.note(
                written, AuditAction.STEP, outcome=f"did not begin {place}: {why}", steps=(spec.description,)
            )
        return written

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


def _why_anew(operation: Operation) -> str:
    if (format := operation.spec.plan_format) != FORMAT:
        how = "an older" if format < FORMAT else "a newer"
        return f"{how} AgentMetal made this plan (plan format {format}, now {FORMAT}): the new one needs a new decision"
    return "the plan has changed"


def _with_step(status: OperationStatus, index: int, step: StepStatus, **update: object) -> OperationStatus:
    steps = (*status.steps[:index], step, *status.steps[index + 1 :])
    return status.model_copy(update={"steps": steps, **update})
