"""Plans and operations as text. Pure: from objects to lines and rows; printed by the command line and the demo."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from agentmetal.core.condition import ConditionStatus, ConditionType
from agentmetal.core.operation import Operation
from agentmetal.core.plan import Plan
from agentmetal.core.resource import AnyResource, Origin, PlanView
from agentmetal.engine.explain import duration
from agentmetal.engine.status import approve_line, plan_view, reject_line


def plan_lines(resource: AnyResource, *, how_to_decide: bool = True) -> tuple[str, ...]:
    """The plan that an object shows, and the lines that let it run or refuse it."""
    place, plan = str(resource.key), resource.status.plan
    if plan is None:
        return (f"{place}: no plan; {_no_plan(resource)}",)
    head = f"{place}: {plan.risk} plan" + (f" {plan.short_digest} ({plan.operation})" if plan.digest else ", a preview")
    lines = [head, *_body(plan)]
    if plan.digest is None:
        return (*lines, "Preview only: it cannot be approved, and nothing is done")
    digest = f"Digest:    {plan.digest}"
    if not waits(resource):
        return (*lines, digest, "It runs already, or is about to: nobody need approve it")
    if not how_to_decide:
        return (*lines, digest)
    approve, reject = approve_line(resource, plan.digest), reject_line(resource, plan.digest)
    return (*lines, digest, f"Approve:   {approve}", f"Reject:    {reject}")


def waits(resource: AnyResource) -> bool:
    """Does its plan wait for a human?"""
    found = resource.condition(ConditionType.AWAITING_APPROVAL)
    return found is not None and found.status is ConditionStatus.TRUE


def preview_lines(place: str, plan: Plan) -> tuple[str, ...]:
    """A plan that was only thought about."""
    if not plan:
        return (f"{place}: nothing to do, the world is as the spec says",)
    return (f"{place}: {plan.risk} plan, if it were applied now", *_body(plan_view(plan)))


def operation_facts(operation: Operation, now: datetime) -> dict[str, Any]:
    """What `operations` shows, in its order; also its JSON."""
    ref, status = operation.spec.resource_ref, operation.status
    created = operation.metadata.creation_timestamp
    decision = status.decision
    return {
        "name": operation.metadata.name,
        "resource": f"{ref.kind}/{ref.name}",
        "phase": status.phase.value,
        "risk": operation.spec.risk.value,
        "progress": status.progress,
        "decision": f"{decision.verdict} by {decision.by} via {decision.via}" if decision else "",
        "age": duration((now - created).total_seconds()) if created else "",
        "message": status.message,
    }


def _body(plan: PlanView) -> tuple[str, ...]:
    unverified = " (by a model, unverified)" if plan.origin is Origin.MODEL else ""
    width = max((len(step.tool) for step in plan.steps), default=0)
    steps = [
        f"  {number}. {step.risk:<9}  {step.tool:<{width}}  {step.description}{' (optional)' if step.optional else ''}"
        for number, step in enumerate(plan.steps, start=1)
    ]
    evidence = [f"Evidence:  {text}" for text in plan.evidence]
    return (f"Why:       {plan.reasoning or 'not told'}{unverified}", *steps, *evidence)


def _no_plan(resource: AnyResource) -> str:
    if resource.status.observed_generation != resource.metadata.generation:
        return "the operator has not looked at the newest spec yet"
    return f"it is {resource.status.phase or 'not looked at yet'}"
