"""What people say by annotation and history: replan, pause, refuse, resolve; and when to rest. Asked by the loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from agentmetal.core.condition import Reason
from agentmetal.core.operation import ApprovalPolicy, Operation, OperationPhase, StepState
from agentmetal.core.outcome import Failed, Preview
from agentmetal.core.plan import Plan, Trigger
from agentmetal.core.resource import Annotation, AnyResource
from agentmetal.engine.approval import Approved, Waiting, decide, stamp_of
from agentmetal.engine.fit import Wanted
from agentmetal.engine.ledger import Ledger

STALLED_AFTER = 3
"""Failures in a row after which a human is asked to look."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """A human's word on a step in doubt."""

    step: int
    done: bool
    by: str


def wants_replan(resource: AnyResource) -> bool:
    """Has somebody set a new value of `agentmetal.io/replan`?"""
    handled = resource.status.handled
    asked = resource.annotation(Annotation.REPLAN)[:256]  # as much of it as status keeps
    return bool(asked) and asked != (handled.replan if handled else None)


async def replan(resource: AnyResource, ledger: Ledger) -> None:
    """Discard what waits, when asked to."""
    if wants_replan(resource):
        ledger.settle_down(resource.uid)
        await ledger.withdraw(resource.uid, "replan was asked for")


async def note_approval(resource: AnyResource, ledger: Ledger) -> None:
    """An approval that cannot begin now begins to age when it is first seen."""
    stamp = stamp_of(resource)
    for operation in ledger.waiting(resource.uid):
        if stamp and stamp.verb == "approve" and stamp.digest == operation.digest:
            await ledger.note_approval(operation, Approved(by=stamp.by, via="Annotation"))


async def held(resource: AnyResource, plan: Plan, ledger: Ledger) -> Preview | None:
    """Nothing may be done about the plan: paused, only observed, or refused by a human."""
    if resource.paused:
        await note_approval(resource, ledger)
        return Preview(plan=plan, reason=Reason.PAUSED, message="paused by the annotation agentmetal.io/paused")
    if resource.observe_only and not resource.deleting:
        await ledger.withdraw(resource.uid, "spec.management.mode is Observe")
        return Preview(plan=plan, reason=Reason.OBSERVE_ONLY, message="spec.management.mode is Observe")
    refused = ledger.refused(resource, plan.hash_for(resource.key, resource.uid))
    if refused is not None and not wants_replan(resource):
        message = f"rejected by {refused}: not proposed again until the spec changes or agentmetal.io/replan is set"
        return Preview(plan=plan, reason=Reason.PLAN_REJECTED, message=message)
    return None


def stands(
    resource: AnyResource, plan: Plan, ledger: Ledger, policies: Iterable[ApprovalPolicy], now: datetime
) -> bool:
    """Does a teardown wait for a human, or has one refused it?"""
    plan_hash = plan.hash_for(resource.key, resource.uid)
    if ledger.refused(resource, plan_hash) is not None and not wants_replan(resource):
        return True
    waiting = [op for op in ledger.waiting(resource.uid) if op.spec.plan_hash == plan_hash]
    return any(isinstance(decide(op, resource, policies, now), Waiting) for op in waiting)


def resting(resource: AnyResource, need: Wanted, ledger: Ledger, now: datetime) -> Failed | None:
    """Plans failed, or keep changing: wait before the next one, unless a human has changed something."""
    plan, urgent = need.plan, need.issue is not None and need.issue.urgent
    if not urgent and (restless := _restless(resource, plan, ledger, now)):
        return restless
    failures = ledger.failures(resource.uid)
    last, wait = failures.last, failures.wait(now)
    if last is None or wait <= 0 or wants_replan(resource):
        return None
    if last.spec.generation != resource.metadata.generation or _teardown(plan) != _teardown_of(last):
        return None
    who = "somebody" if failures.count >= STALLED_AFTER else "nobody"
    return Failed(
        reason=Reason.PLAN_FAILED, message=last.status.message, who_must_act=who, again_in=wait, operation=last
    )


def _restless(resource: AnyResource, plan: Plan, ledger: Ledger, now: datetime) -> Failed | None:
    """The plan does not last, or does not help."""
    if flips := ledger.unstable(resource, now):
        message = f"the plan changed three times within ten minutes: {flips}"
        return Failed(
            reason=Reason.PLAN_UNSTABLE, message=message, who_must_act="AgentMetal's developers", again_in=600
        )
    repeat = ledger.repeated(resource.uid, plan.hash_for(resource.key, resource.uid))
    if repeat and (rest := repeat.wait(now)) > 0 and not wants_replan(resource):
        message = f"the same plan succeeded {repeat.count} times in a row and is needed again: {plan.reasoning}"
        who = "somebody" if repeat.count >= STALLED_AFTER else "nobody"
        return Failed(reason=Reason.PLAN_UNSTABLE, message=message, who_must_act=who, again_in=rest)
    return None


def place_in_doubt(operation: Operation) -> str:
    """How people name the step in doubt: `<operation>/<step>`, and `/<attempt>` from the second attempt on.

    A word said about one attempt must not count for the next one, which nobody has looked at.
    """
    doubtful = (n for n, step in enumerate(operation.status.steps, start=1) if step.state is StepState.IN_DOUBT)
    number = next(doubtful, 1)
    attempt = operation.status.steps[number - 1].attempt
    return f"{operation.metadata.name}/{number}" + (f"/{attempt}" if attempt > 1 else "")


def resolution(resource: AnyResource, operation: Operation) -> Resolution | None:
    """The stamp `<operation>/<step>=done by <user>`, when it is about this operation's step in doubt."""
    what, _, by = resource.annotation(Annotation.RESOLVED).partition(" by ")
    place, _, verdict = what.partition("=")
    fits = operation.phase is OperationPhase.BLOCKED and verdict in ("done", "not-done")
    if not fits or not by or place != place_in_doubt(operation):
        return None
    return Resolution(step=int(place.split("/")[1]), done=verdict == "done", by=by)


def _teardown(plan: Plan) -> bool:
    return plan.trigger is Trigger.DELETION


def _teardown_of(operation: Operation) -> bool:
    return operation.spec.cause.trigger is Trigger.DELETION
