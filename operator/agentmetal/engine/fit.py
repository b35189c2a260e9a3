"""Which plan an object needs, and whether an operation still is that plan. Pure; asked by the loop and the executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agentmetal.core.operation import Operation
from agentmetal.core.plan import Issue, Plan, Trigger, digest
from agentmetal.core.resource import AnyResource
from agentmetal.engine.agent import AnyAgent, Observed


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A plan, and the issue it heals."""

    plan: Plan
    issue: Issue | None = None


def wanted(agent: AnyAgent, resource: AnyResource, observed: Observed) -> Wanted:
    """Teardown, healing or change: the first that applies."""
    if resource.deleting:
        return Wanted(plan=teardown(agent, resource, observed))
    return repair(agent, resource, observed) or Wanted(plan=change(agent, resource, observed))


def repair(agent: AnyAgent, resource: AnyResource, observed: Observed) -> Wanted | None:
    """The plan for the worst issue that the agent can heal, or None."""
    for issue in agent.issues(resource, observed):
        plan = agent.heal(resource, observed, issue)
        if plan:
            return Wanted(plan=_marked(plan, observed, Trigger.ISSUE), issue=issue)
    return None


def change(agent: AnyAgent, resource: AnyResource, observed: Observed) -> Plan:
    """The plan for what the user wants otherwise than it is."""
    changes = agent.diff(resource, observed)
    return _marked(agent.plan(resource, observed, changes), observed, Trigger.CHANGE) if changes else Plan()


def teardown(agent: AnyAgent, resource: AnyResource, observed: Observed) -> Plan:
    """The plan for what must happen before the object may go."""
    return _marked(agent.teardown(resource, observed), observed, Trigger.DELETION)


def still_fits(agent: AnyAgent, operation: Operation, resource: AnyResource, observed: Observed) -> bool:
    """Would the same cause lead to the very same plan now, and are the steps that it names the ones that it records?"""
    if resource.uid != operation.spec.resource_ref.uid or not _is_its_digest(operation, resource):
        return False
    match operation.spec.cause.trigger:
        case Trigger.DELETION:
            plan = teardown(agent, resource, observed) if resource.deleting else Plan()
        case Trigger.ISSUE:
            found = [i for i in agent.issues(resource, observed) if i.type.value == operation.spec.cause.issue]
            plan = _marked(agent.heal(resource, observed, found[0]), observed, Trigger.ISSUE) if found else Plan()
        case Trigger.CHANGE:
            plan = Plan() if resource.deleting else change(agent, resource, observed)
        case Trigger.PARENT | Trigger.PROPOSAL:
            return False  # nothing makes such plans yet; an unknown cause is never carried out
    return bool(plan) and plan.hash_for(resource.key, resource.uid) == operation.spec.plan_hash


def _is_its_digest(operation: Operation, resource: AnyResource) -> bool:
    """Do its own steps have the hash, and that and its number the digest, that it claims and people approve?

    Whoever could write Operations in our name would else put other steps under a digest that was approved.
    """
    recorded = operation.plan().hash_for(resource.key, resource.uid)
    return recorded == operation.spec.plan_hash and digest(recorded, operation.spec.number) == operation.digest


StillFits = Callable[[AnyAgent, Operation, AnyResource, Observed], bool]
"""`still_fits`, as the executor is given it."""


def _marked(plan: Plan, observed: Observed, trigger: Trigger) -> Plan:
    return replace(plan, trigger=trigger, targets=dict(observed.targets)) if plan else plan
