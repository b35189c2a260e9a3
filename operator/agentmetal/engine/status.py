"""The status composer: what an outcome and a report look like to people and to `kubectl wait`. Pure.

Called by the publisher for every pass; the status writer in `kube/` writes only what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from agentmetal.core.clock import rfc3339
from agentmetal.core.condition import Condition, ConditionStatus, ConditionType, Reason
from agentmetal.core.lines import one_line
from agentmetal.core.operation import Operation, OperationPhase
from agentmetal.core.outcome import AwaitingApproval, Failed, Outcome, Preview, Progressing, Settled
from agentmetal.core.plan import Plan, Trigger
from agentmetal.core.resource import (
    Annotation,
    AnyResource,
    ConditionModel,
    Handled,
    LastOperation,
    Phase,
    PlanView,
    Rejected,
    StepView,
)
from agentmetal.engine.agent import Report

C, R = ConditionType, Reason
ALWAYS = (C.READY, C.RECONCILING, C.STALLED, C.AWAITING_APPROVAL, C.DRIFTED, C.PAUSED, C.BLOCKED)
"""Restated at each generation, whether they apply or not: `kubectl wait` ignores older ones."""
UNDISTURBED = frozenset({R.KEY_ROTATION})
"""Issues whose repair leaves an object as ready as it was: reasons of a Ready that is True all the same."""
MAX_MESSAGE = 2048


@dataclass(frozen=True, kw_only=True)
class Story:
    """Everything the status of an object is made of."""

    outcome: Outcome
    report: Report | None = None
    missing: Condition | None = None
    waiting: Operation | None = None
    """The operation that waits for a human, also while another one runs."""
    last: Operation | None = None
    refused_hash: str = ""
    refused_by: str = ""
    handled: Handled | None = None
    """The verbs that this pass acted on: what was annotated since then is for the next one."""


def compose(resource: AnyResource, story: Story, now: datetime) -> dict[str, Any]:
    """The status, in wire form, without the fields that are the kind's own and were not reported."""
    conditions = _conditions(resource, story)
    status: dict[str, Any] = {
        "phase": _phase(resource, story, conditions).value,
        "observedGeneration": resource.metadata.generation,
        "conditions": _stamped(resource, conditions, now),
        "plan": _plan(story),
        "lastOperation": _last(resource, story),
        "handled": story.handled.wire() if story.handled else None,
        "rejected": _rejected(resource, story),
    }
    return {**status, **(story.report.fields if story.report else {})}


def approve_line(resource: AnyResource, digest: str) -> str:
    """The exact line that lets the plan with that digest run."""
    return _annotate_line(resource, Annotation.APPROVE, digest)


def reject_line(resource: AnyResource, digest: str) -> str:
    """The exact line that refuses the plan with that digest."""
    return _annotate_line(resource, Annotation.REJECT, digest)


def _annotate_line(resource: AnyResource, annotation: str, digest: str) -> str:
    place = f"{resource.kind.lower()} {resource.metadata.name} -n {resource.metadata.namespace}"
    return f"kubectl annotate --overwrite {place} {annotation}={digest}"


def plan_view(plan: Plan, operation: Operation | None = None) -> PlanView:
    """A plan as people see it; without an operation it is a preview and cannot be approved."""
    return PlanView(
        digest=operation.digest if operation else None,
        short_digest=operation.short_digest if operation else None,
        risk=plan.risk,
        origin=plan.origin,
        operation=operation.metadata.name if operation else None,
        reasoning=plan.reasoning[:2048],
        steps=tuple(
            StepView(tool=s.tool, description=s.description[:512], risk=s.risk, optional=s.optional) for s in plan.steps
        ),
        evidence=tuple(text[:512] for text in (operation.spec.evidence if operation else plan.evidence)[:32]),
    )


def _conditions(resource: AnyResource, story: Story) -> dict[ConditionType, Condition]:
    found = {type: Condition.false(type, R.NOT_APPLICABLE) for type in ALWAYS}
    found[C.READY] = Condition.unknown(C.READY, R.FIRST_VISIT, "not looked at yet")
    for condition in story.report.conditions if story.report else ():
        found[condition.type] = _with(found.get(condition.type), condition)
    if resource.paused:
        found[C.PAUSED] = Condition.true(C.PAUSED, R.PAUSED, 'no step begins while agentmetal.io/paused is "true"')
    if story.waiting is not None:
        found[C.AWAITING_APPROVAL] = _awaiting(resource, story.waiting)
    undisturbed = _undisturbed(resource, story)
    for condition in _told(resource, story):
        if condition.type is C.READY and undisturbed:
            continue
        found[condition.type] = condition
    if undisturbed:
        found[C.READY] = undisturbed
    return found


def _undisturbed(resource: AnyResource, story: Story) -> Condition | None:
    """Ready as it is, while a plan waits, runs or rests that takes nothing away from who uses the object.

    The agent says so by the reason; while nobody looks, because it runs, what it said last counts.
    """
    if story.report is not None:
        ready = next((c for c in story.report.conditions if c.type is C.READY), None)
        return ready if ready and ready.status is ConditionStatus.TRUE and ready.reason in UNDISTURBED else None
    operation, last = getattr(story.outcome, "operation", None), resource.condition(C.READY)
    issue = operation.spec.cause.issue if isinstance(operation, Operation) else None
    if last is None or last.status is not ConditionStatus.TRUE or issue not in {reason.value for reason in UNDISTURBED}:
        return None
    return Condition.true(C.READY, R(issue), last.message)


def _with(before: Condition | None, condition: Condition) -> Condition:
    """Two reasons for the same condition are both told; the first one names it."""
    both = (before, condition)
    if before is None or any(c is None or c.status is not ConditionStatus.TRUE for c in both) or before == condition:
        return condition
    return replace(before, message=f"{before.message}; {condition.message}")


def _awaiting(resource: AnyResource, operation: Operation) -> Condition:
    what = f"the {operation.spec.risk} plan {operation.short_digest} waits for a human"
    return Condition.true(
        C.AWAITING_APPROVAL, R.APPROVAL_REQUIRED, f"{what}; to let it run: {approve_line(resource, operation.digest)}"
    )


def _told(resource: AnyResource, story: Story) -> tuple[Condition, ...]:
    """What the outcome says, beside the report."""
    match story.outcome:
        case Settled():
            return ()
        case Progressing(reason=reason, message=message):
            return (
                Condition.true(C.RECONCILING, reason, message),
                *_not_ready(story, story.missing or Condition.false(C.READY, reason, message)),
            )
        case AwaitingApproval(operation=operation):
            message = f"{operation.spec.reasoning}: waits for approval"
            return _not_ready(story, Condition.false(C.READY, R.APPROVAL_REQUIRED, message))
        case Preview(reason=reason, message=message, plan=plan):
            drift = f"{plan.reasoning}; nothing is done: {message}"
            return (
                Condition.true(C.DRIFTED, reason, drift),
                *_not_ready(story, Condition.false(C.READY, reason, drift)),
            )
        case Failed(reason=reason, message=message):
            return _failed(story, story.outcome, reason, message)


def _failed(story: Story, outcome: Failed, reason: Reason, message: str) -> tuple[Condition, ...]:
    human = outcome.who_must_act != "nobody"
    said = message.endswith("must act)")  # a failed step has said it already, and better
    text = f"{message} ({outcome.who_must_act} must act)" if human and not said else message
    again = outcome.again_in is not None
    told = [
        Condition.true(C.STALLED, reason, text) if human else Condition.false(C.STALLED, R.NOT_APPLICABLE),
        Condition.true(C.RECONCILING, R.RETRYING, text)
        if again and not human
        else Condition.false(C.RECONCILING, reason),
        *_not_ready(
            story,
            Condition.unknown(C.READY, reason, text) if not story.report else Condition.false(C.READY, reason, text),
        ),
    ]
    if reason is R.STEP_IN_DOUBT:
        told.append(Condition.true(C.BLOCKED, reason, text))
    return tuple(told)


def _not_ready(story: Story, otherwise: Condition) -> tuple[Condition, ...]:
    """Ready as the agent sees it, unless the outcome says more: a human is asked for, or a plan is under way."""
    reported = next((c for c in story.report.conditions if c.type is C.READY), None) if story.report else None
    if reported is None or (reported.status is ConditionStatus.TRUE and not _of_teardown(story)):
        return (otherwise,)
    if reported.status is ConditionStatus.TRUE:  # it still answers; the column says what its deletion waits for
        return (replace(reported, reason=otherwise.reason, message=f"{reported.message}; {otherwise.message}"),)
    if isinstance(story.outcome, AwaitingApproval) or R.PLAN_PENDING is reported.reason or _stopped(story.outcome):
        said = [reported.message, otherwise.message if isinstance(story.outcome, Failed) else ""]
        message = "; ".join(text for text in said if text) or otherwise.message
        return (replace(otherwise, status=reported.status, message=message),)
    return ()


def _stopped(outcome: Outcome) -> bool:
    """Has a human stopped it?"""
    return isinstance(outcome, Preview) and outcome.reason in (R.PAUSED, R.PLAN_REJECTED)


def _of_teardown(story: Story) -> bool:
    """An object whose deletion waits or was refused still answers as before."""
    match story.outcome:
        case AwaitingApproval(operation=operation):
            return operation.spec.cause.trigger is Trigger.DELETION
        case Preview(plan=plan):
            return plan.trigger is Trigger.DELETION
        case _:
            return False


def _stamped(
    resource: AnyResource, conditions: Mapping[ConditionType, Condition], now: datetime
) -> list[dict[str, Any]]:
    """With times: a condition's time moves only when its status does."""
    before = {condition.type: condition for condition in resource.status.conditions}
    stamped = []
    for type in ConditionType:
        if type not in conditions:
            continue
        condition, old = conditions[type], before.get(type)
        same = old is not None and old.status is condition.status
        since = old.last_transition_time if old is not None and same else rfc3339(now)
        stamped.append(
            ConditionModel(
                type=type,
                status=condition.status,
                reason=condition.reason.value,
                message=one_line(condition.message, MAX_MESSAGE),
                observed_generation=resource.metadata.generation,
                last_transition_time=since,
            ).wire()
        )
    return stamped


def _phase(resource: AnyResource, story: Story, conditions: Mapping[ConditionType, Condition]) -> Phase:
    if resource.deleting:
        return Phase.DELETING
    if conditions[C.READY].status is ConditionStatus.TRUE:
        return Phase.RUNNING
    match story.outcome:
        case Failed():
            return Phase.ERROR
        case Progressing(operation=None):
            return Phase.PENDING if resource.status.phase in (None, Phase.PENDING) else Phase.UPDATING
        case _:
            pass
    begun = resource.status.phase not in (None, Phase.PENDING, Phase.CREATING)
    return Phase.UPDATING if begun else Phase.CREATING


def _plan(story: Story) -> dict[str, Any] | None:
    match story.outcome:
        case _ if story.waiting is not None:
            return plan_view(story.waiting.plan(), story.waiting).wire()
        case Preview(plan=plan):
            return plan_view(plan).wire()
        case Progressing(operation=Operation() as operation):
            return plan_view(operation.plan(), operation).wire()
        case Failed(operation=Operation() as operation) if operation.phase is OperationPhase.BLOCKED:
            return plan_view(operation.plan(), operation).wire()
        case _:
            return None


def _last(resource: AnyResource, story: Story) -> dict[str, Any] | None:
    if story.last is None:
        return resource.status.last_operation.wire() if resource.status.last_operation else None
    last = story.last
    return LastOperation(
        name=last.metadata.name,
        number=last.spec.number,
        result=last.phase.value,
        message=one_line(last.status.message, 1024),
    ).wire()


def handled(resource: AnyResource) -> Handled | None:
    """The verbs that a pass over this very object has acted on."""
    reconcile_at = resource.annotation(Annotation.RECONCILE_AT) or None
    replan = resource.annotation(Annotation.REPLAN) or None
    if reconcile_at is None and replan is None:
        return resource.status.handled
    return Handled(reconcile_at=reconcile_at and reconcile_at[:256], replan=replan and replan[:256])


def _rejected(resource: AnyResource, story: Story) -> dict[str, Any] | None:
    if not story.refused_hash:
        return None
    return Rejected(
        plan_hash=story.refused_hash, generation=resource.metadata.generation, by=story.refused_by[:256]
    ).wire()
