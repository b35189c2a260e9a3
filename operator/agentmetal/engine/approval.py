"""May this plan run? Pure: called by the loop, and once more by the executor before the first step.

Reads only the stamp that the API server wrote (`agentmetal.io/decision`), never the annotation a user typed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from agentmetal.core.lines import one_line
from agentmetal.core.operation import ApprovalPolicy, Operation, moment
from agentmetal.core.plan import Plan
from agentmetal.core.quantity import seconds
from agentmetal.core.resource import Annotation, AnyResource
from agentmetal.core.risk import Risk


@dataclass(frozen=True, kw_only=True)
class Approved:
    """It may run."""

    by: str
    via: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A human refused it."""

    by: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A human is needed."""


@dataclass(frozen=True, kw_only=True)
class Expired:
    """It was approved, and could not be started within `approvalTTL`."""

    by: str


Verdict = Approved | Rejected | Waiting | Expired


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """`approve sha256:... by ann`, as the admission policy writes it."""

    verb: str
    digest: str
    by: str


def stamp_of(resource: AnyResource) -> Stamp | None:
    """The decision on the object, or None when there is none that we can read."""
    verb, _, rest = resource.annotation(Annotation.DECISION).partition(" ")
    digest, _, by = rest.partition(" by ")
    if verb not in ("approve", "reject") or not digest or not by:
        return None
    return Stamp(verb=verb, digest=digest, by=by)


def decide(operation: Operation, resource: AnyResource, policies: Iterable[ApprovalPolicy], now: datetime) -> Verdict:
    """The verdict on an operation that has not begun."""
    stamp = stamp_of(resource)
    reason = one_line(resource.annotation(Annotation.REASON), 1024)
    if stamp is not None and stamp.digest == operation.digest:
        if stamp.verb == "reject":
            return Rejected(by=stamp.by, reason=reason)
        if _expired(operation, resource, now):
            return Expired(by=stamp.by)
        return Approved(by=stamp.by, via="Annotation", reason=reason)
    return without_human(operation.plan(), resource, policies)


def without_human(plan: Plan, resource: AnyResource, policies: Iterable[ApprovalPolicy]) -> Approved | Waiting:
    """The verdict as long as no human has said anything about the plan."""
    if plan.risk is Risk.SAFE:
        return Approved(by="risk Safe", via="Risk")
    matching = [policy for policy in policies if _concerns(policy, plan, resource)]
    if any(policy.spec.require for policy in matching):
        return Waiting()
    if not plan.risk.exceeds(Risk.MODERATE):
        return Approved(by=f"risk {plan.risk}", via="Risk")
    for policy in matching:
        return Approved(by=policy.metadata.name, via="ApprovalPolicy")
    return Waiting()


Decide = Callable[[Operation, AnyResource, Iterable[ApprovalPolicy], datetime], Verdict]
"""`decide`, as the loop and the executor are given it."""


def _expired(operation: Operation, resource: AnyResource, now: datetime) -> bool:
    decision = operation.status.decision
    seen = moment(decision.at) if decision and decision.verdict == "Approved" else None
    # Seen in the future: our clock was set back, and must not make an approval live for ever.
    return seen is not None and abs(now - seen) > timedelta(seconds=seconds(resource.management.approval_ttl))


def _concerns(policy: ApprovalPolicy, plan: Plan, resource: AnyResource) -> bool:
    spec = policy.spec
    used = {step.tool for step in plan.steps}
    if spec.require:
        tools_fit = not spec.tools or not used.isdisjoint(spec.tools)
    else:
        tools_fit = not spec.tools or used.issubset(spec.tools)
    return (
        tools_fit
        and policy.metadata.namespace == resource.metadata.namespace
        and resource.info.plural in spec.resources
        and (not spec.names or resource.metadata.name in spec.names)
        and plan.origin in spec.origins
        and not plan.risk.exceeds(spec.max_risk)
    )
