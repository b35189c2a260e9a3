"""An Instance and an operation about it, without any world: for pure tests of the engine."""

from __future__ import annotations

from typing import Any

from agentmetal.agents.instance.api import Instance
from agentmetal.core.operation import Cause, Operation, OperationSpec, ResourceRef, StepSpec
from agentmetal.core.plan import Trigger, digest
from agentmetal.core.resource import FINALIZER, ObjectMeta, spec_hash
from agentmetal.core.risk import Risk

DIGEST = digest("h" * 64, 1)
"""Of that operation."""


def instance(*, annotations: dict[str, str] | None = None, spec: dict[str, Any] | None = None, **meta: Any) -> Instance:
    """As it should be; keywords change its metadata."""
    wire = {f"agentmetal.io/{name}": value for name, value in (annotations or {}).items()}
    metadata = {"name": "web", "namespace": "shop", "uid": "u-1", "finalizers": [FINALIZER], "annotations": wire}
    wanted = {"providerRef": {"name": "cloud"}, "type": "small", "image": "bookworm", **(spec or {})}
    return Instance.model_validate({"metadata": metadata | meta, "spec": wanted})


def operation(trigger: Trigger = Trigger.CHANGE, *, while_deleting: bool = False) -> Operation:
    """A Moderate one, planned for that Instance."""
    spec = OperationSpec(
        resource_ref=ResourceRef(kind="Instance", name="web", uid="u-1"),
        number=1,
        plan_hash="h" * 64,
        digest=DIGEST,
        risk=Risk.MODERATE,
        cause=Cause(trigger=trigger),
        while_deleting=while_deleting,
        spec_hash=spec_hash(instance()),
        steps=(StepSpec(tool="start_instance", risk=Risk.MODERATE),),
    )
    return Operation(metadata=ObjectMeta(name="op-x-1"), spec=spec)
