"""A plan as an Operation that is not recorded yet. Pure; called by the ledger when it opens one."""

from __future__ import annotations

from agentmetal.core.operation import (
    Cause,
    Operation,
    OperationPhase,
    OperationSpec,
    OperationStatus,
    ResourceRef,
    StepSpec,
    StepStatus,
    operation_name,
)
from agentmetal.core.plan import FORMAT, Plan, digest
from agentmetal.core.resource import AnyResource, ObjectMeta, spec_hash


def draft(
    resource: AnyResource, plan: Plan, number: int, *, needs_human: bool, issue: str | None, epoch: int
) -> Operation:
    """The object's operation of that number, for this plan."""
    plan_hash = plan.hash_for(resource.key, resource.uid)
    spec = OperationSpec(
        plan_format=FORMAT,
        resource_ref=ResourceRef(kind=resource.kind, name=resource.metadata.name, uid=resource.uid),
        number=number,
        plan_hash=plan_hash,
        digest=digest(plan_hash, number),
        risk=plan.risk,
        origin=plan.origin,
        cause=Cause(trigger=plan.trigger, issue=issue),
        generation=resource.metadata.generation,
        while_deleting=resource.deleting,
        spec_hash=spec_hash(resource),
        targets=dict(plan.targets),
        reasoning=plan.reasoning[:2048],
        evidence=tuple(text[:512] for text in plan.evidence[:32]),
        steps=tuple(
            StepSpec(
                tool=step.tool,
                parameters=dict(step.parameters),
                risk=step.risk,
                optional=step.optional,
                description=step.description[:512],
            )
            for step in plan.steps
        ),
    )
    phase = OperationPhase.AWAITING_APPROVAL if needs_human else OperationPhase.PENDING
    status = OperationStatus(
        phase=phase,
        progress=f"0/{len(spec.steps)}",
        message="waits for approval" if needs_human else "is about to begin",
        steps=tuple(StepStatus() for _ in spec.steps),
        epoch=epoch,
    )
    meta = ObjectMeta(name=operation_name(resource.uid, number), namespace=resource.metadata.namespace)
    return Operation(metadata=meta, spec=spec, status=status)
