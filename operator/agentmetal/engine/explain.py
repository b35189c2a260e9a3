"""Why an object is in its state, what happens next, and who must act: sentences from status and journal. Pure.

Called by `agentmetal explain` and by the development system when something does not become ready. It reads what the
operator wrote and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agentmetal.core.clock import rfc3339
from agentmetal.core.condition import ConditionStatus, ConditionType, Reason
from agentmetal.core.operation import Operation, OperationPhase, StepState, StepStatus, moment
from agentmetal.core.resource import Annotation, AnyResource, ConditionModel
from agentmetal.engine.status import approve_line
from agentmetal.engine.verbs import place_in_doubt

C = ConditionType
ABNORMAL = (C.HOST_KEY_MISMATCH, C.FENCED, C.DEGRADED, C.DRIFTED, C.PAUSED, C.BLOCKED, C.STALLED)
UNKNOWN_CHOICES = (Reason.UNKNOWN_IMAGE, Reason.UNKNOWN_TYPE, Reason.UNKNOWN_LOCATION)
OF_THE_SPEC = (Reason.INVALID_SPEC, Reason.NOT_SUPPORTED, Reason.REFERENCE_CYCLE)
"""Nothing changes before the spec does."""
OF_PEOPLE = (
    Reason.SECRET_MISSING,
    Reason.SECRET_NOT_USABLE,
    Reason.CLAIMED_BY_OTHER,
    Reason.AUTHENTICATION_FAILED,
    Reason.NEEDS_ROOT,
    Reason.NOT_IN_INVENTORY,
    Reason.ADDRESS_NOT_ALLOWED,
    Reason.DUPLICATE_MACHINE,
    Reason.PROVIDER_TYPE_DISABLED,
)
"""Something outside of the spec must be mended, which no plan does."""
CHECKING = "checking the result"
"""What goes on after the last step, until the world was looked at again."""
LATE = 120.0
"""Seconds after which a spec that nobody has looked at means that nobody works."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The three answers, and what was seen of the world."""

    why: tuple[str, ...]
    next: tuple[str, ...]
    who: str
    seen: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """For people."""
        return (
            *(f"Why:  {line}" for line in self.why),
            *(f"Seen: {line}" for line in self.seen),
            *(f"Next: {line}" for line in self.next),
            f"Who:  {self.who}",
        )


def explain(
    resource: AnyResource,
    operations: Sequence[Operation],
    now: datetime,
    *,
    leaderless_since: datetime | None = None,
) -> Explanation:
    """All of it; `operations` are the object's own, in any order. `leaderless_since`: when the last operator ended."""
    mine = sorted((op for op in operations if op.spec.resource_ref.uid == resource.uid), key=lambda op: op.spec.number)
    under_way = [op for op in mine if op.phase in (OperationPhase.RUNNING, OperationPhase.BLOCKED)]
    waiting = [op for op in mine if op.phase.waiting]
    return Explanation(
        why=_why(resource, under_way, mine, now),
        next=_next(resource, under_way, waiting, now),
        who=_nobody_leads(leaderless_since) if leaderless_since else _who(resource, under_way, waiting, now),
        seen=resource.status.seen(),
    )


def unseen(resource: AnyResource) -> bool:
    """Has the operator not looked at the newest spec yet?"""
    return resource.status.observed_generation != resource.metadata.generation


def step_line(operation: Operation, now: datetime) -> str:
    """The step that an operation is at: `step 2 of 3, wait until it answers, since 12 s`."""
    if all_done(operation):
        return CHECKING
    for number, (step, status) in enumerate(zip(operation.spec.steps, operation.status.steps, strict=False), start=1):
        if status.state in (StepState.RUNNING, StepState.IN_DOUBT, StepState.FAILED):
            what = f"step {number} of {len(operation.spec.steps)}, {step.description or step.tool}"
            return what + _since(status, now) + (f", attempt {status.attempt}" if status.attempt > 1 else "")
    return f"{operation.status.progress or f'0/{len(operation.spec.steps)}'} steps done"


def all_done(operation: Operation) -> bool:
    """Has every step been done, so that only the look at the result is missing?"""
    done = [step.state in (StepState.SUCCEEDED, StepState.SKIPPED) for step in operation.status.steps]
    return len(done) == len(operation.spec.steps) and all(done)


def taken_up(operation: Operation) -> str:
    """`, taken up by a new leader twice`, for the end of a sentence; empty when one process did all of it."""
    times = operation.status.resumed
    often = {1: "once", 2: "twice"}.get(times, f"{times} times")
    return f", taken up by a new leader {often}" if times else ""


def _why(
    resource: AnyResource, under_way: Sequence[Operation], mine: Sequence[Operation], now: datetime
) -> tuple[str, ...]:
    said = [_deleting(resource, now)] if resource.deleting else []
    if unseen(resource):
        generation = resource.metadata.generation
        said.append(f"the operator has seen generation {resource.status.observed_generation} of {generation} so far")
    ready = resource.condition(C.READY)
    said.extend([_sentence(ready)] if ready else [])
    said.extend(_sentence(found) for type in ABNORMAL if (found := resource.condition(type)) and _is_true(found))
    for operation in under_way:
        why = operation.spec.reasoning or operation.spec.cause.trigger.value
        said.append(f"{operation.metadata.name} is {operation.phase} ({why}){taken_up(operation)}")
    closed = [op for op in mine if op.phase.closed]
    if closed and closed[-1].phase is not OperationPhase.SUCCEEDED and not under_way:
        said.append(f"the last plan, {closed[-1].metadata.name}, is {closed[-1].phase}: {closed[-1].status.message}")
    return tuple(said)


def _next(
    resource: AnyResource, under_way: Sequence[Operation], waiting: Sequence[Operation], now: datetime
) -> tuple[str, ...]:
    said = [f"{step_line(op, now)} ({op.metadata.name})" for op in under_way if op.phase is OperationPhase.RUNNING]
    for operation in waiting:
        plan = "; ".join(step.description or step.tool for step in operation.spec.steps)
        said.append(f"after approval, the {operation.spec.risk} plan {operation.short_digest}: {plan}")
        said.append(f"to let it run: {approve_line(resource, operation.digest)}")
    if said:
        return tuple(said)
    preview = resource.status.plan
    if preview is not None and preview.digest is None:
        return (f"nothing, although there is a plan: {'; '.join(step.description for step in preview.steps)}",)
    reconciling = resource.condition(C.RECONCILING)
    if reconciling and _is_true(reconciling):
        return (reconciling.message,)
    return (f"it is looked at every {resource.management.resync_interval}, and at once when something changes",)


def _nobody_leads(since: datetime) -> str:
    return f"no operator leads since {rfc3339(since)}: start it (agentmetal dev up, or its Deployment)"


def _who(resource: AnyResource, under_way: Sequence[Operation], waiting: Sequence[Operation], now: datetime) -> str:
    if unseen(resource) and _age(resource, now) > LATE:
        return "the administrator: the operator does not seem to run (agentmetal dev status, or its Deployment)"
    for operation in under_way:
        if operation.phase is OperationPhase.BLOCKED:
            return f"an approver: look at the host, then say what happened: {_resolve_line(resource, operation)}"
    if waiting:
        return "an approver (the verb approve on this kind): approve or reject the plan"
    if resource.paused:
        return f"whoever paused it: kubectl annotate {_place(resource)} {Annotation.PAUSED}-"
    for type in (C.HOST_KEY_MISMATCH, C.STALLED):
        if (found := resource.condition(type)) and _is_true(found):
            return f"a human: what to do stands after {type}"
    drifted = resource.condition(C.DRIFTED)
    if drifted and _is_true(drifted) and drifted.reason == Reason.PLAN_REJECTED:
        return f"whoever wants it after all, to have it proposed again: {_replan_line(resource)}"
    if drifted and _is_true(drifted) and drifted.reason == Reason.OBSERVE_ONLY:
        return "nobody: it is only looked at; with management.mode Manage the plan is carried out"
    if drifted and _is_true(drifted):
        return f"whoever wants it repaired: {drifted.message}"
    ready = resource.condition(C.READY)
    if ready is None or not _is_true(ready):
        return _who_is_waited_for(ready.reason if ready else "")
    degraded = resource.condition(C.DEGRADED)
    if degraded and _is_true(degraded):
        return "whoever can mend what Degraded says; it is usable meanwhile"
    return "nobody: all is well"


def _who_is_waited_for(reason: str) -> str:
    """Who must act before an object that is not ready can go on, from the reason of its Ready."""
    if reason == Reason.WAITING_FOR_REFERENCE:
        return "whoever makes or mends what it waits for; then the operator goes on by itself"
    if reason == Reason.WAITING_FOR_REFERRERS:
        return "whoever deletes the referrers; then the operator goes on by itself"
    if reason in UNKNOWN_CHOICES:
        return "whoever writes the spec: choose something that is offered"
    if reason in OF_THE_SPEC:
        return "whoever writes the spec: correct it as Ready says"
    if reason in OF_PEOPLE:
        return "whoever can do what Ready says; then the operator goes on by itself"
    if reason == Reason.PLAN_FAILED:
        return "whoever can mend what failed; it is tried again meanwhile"
    if reason in (Reason.AS_SPECIFIED, Reason.OBSERVE_ONLY):
        return "nobody: it is as the spec says"
    return "nobody: the operator goes on by itself"


def _resolve_line(resource: AnyResource, operation: Operation) -> str:
    value = f"{place_in_doubt(operation)}=done"
    return f"kubectl annotate --overwrite {_place(resource)} {Annotation.RESOLVE}={value} (or =not-done)"


def _replan_line(resource: AnyResource) -> str:
    return f"kubectl annotate --overwrite {_place(resource)} {Annotation.REPLAN}=$(date +%s)"


def _place(resource: AnyResource) -> str:
    return f"{resource.kind.lower()} {resource.metadata.name} -n {resource.metadata.namespace}"


def _deleting(resource: AnyResource, now: datetime) -> str:
    since = resource.metadata.deletion_timestamp or now
    return f"it is being deleted since {duration((now - since).total_seconds())}"


def _sentence(condition: ConditionModel) -> str:
    message = f": {condition.message}" if condition.message else ""
    return f"{condition.type} is {condition.status} ({condition.reason}){message}"


def _is_true(condition: ConditionModel) -> bool:
    return condition.status is ConditionStatus.TRUE


def _since(status: StepStatus, now: datetime) -> str:
    began = moment(status.started_at)
    return f", since {duration((now - began).total_seconds())}" if began else ""


def _age(resource: AnyResource, now: datetime) -> float:
    created = resource.metadata.creation_timestamp
    return (now - created).total_seconds() if created else 0.0


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `5 h 12 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{minutes} min {rest:02d} s"
    return f"{hours} h {minutes_left:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
