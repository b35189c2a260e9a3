"""What every custom resource has in common: envelope, management, status. The CRDs are generated from these models.

Agents define their kinds from `ManagedResource[Spec, Status]`; the generator is `agentmetal.kube.crds`.
Names are snake_case here and camelCase on the wire. Specs refuse unknown fields; statuses and metadata ignore them,
because other programs may write there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from agentmetal.core.canonical import sha256_hex
from agentmetal.core.condition import ConditionStatus, ConditionType
from agentmetal.core.quantity import Duration, seconds
from agentmetal.core.risk import Risk
from agentmetal.core.saying import Says

GROUP = "agentmetal.io"
VERSION = "v1alpha1"
FINALIZER = f"{GROUP}/operator"
PREFIX = f"{GROUP}/"

Name = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
    Says("write the name of an object: a-z, 0-9, '-' and '.', with a letter or a digit at both ends"),
]
"""The name of a Kubernetes object."""


class Annotation:
    """The annotations of api.md."""

    APPROVE = f"{PREFIX}approve"
    REJECT = f"{PREFIX}reject"
    DECISION = f"{PREFIX}decision"
    REASON = f"{PREFIX}reason"
    PAUSED = f"{PREFIX}paused"
    RECONCILE_AT = f"{PREFIX}reconcile-at"
    REPLAN = f"{PREFIX}replan"
    RESOLVE = f"{PREFIX}resolve"
    RESOLVED = f"{PREFIX}resolved"
    REBOOT_AT = f"{PREFIX}reboot-at"
    REPIN = f"{PREFIX}repin"
    ROTATE = f"{PREFIX}rotate"


class Label:
    """Labels that the operator sets or reads."""

    UID = f"{PREFIX}uid"
    USABLE = f"{PREFIX}usable"


class ApiModel(BaseModel):
    """Part of a spec: frozen, camelCase on the wire, unknown fields refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")

    def wire(self) -> dict[str, Any]:
        """The JSON form: camelCase, absent instead of null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(ApiModel):
    """Part of a status: as ApiModel, but unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class Ref(ApiModel):
    """Another object in the same namespace."""

    name: Name = Field(description="Name of the object; it is in the same namespace.")


@dataclass(frozen=True, order=True)
class Key:
    """The place of an object: what the queue, the locks and the cache are keyed by."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class ResourceType:
    """Where the API server keeps a kind."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`group/version`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""


@dataclass(frozen=True)
class KindInfo:
    """What the CRD of a kind says beside its schema."""

    kind: str
    plural: str
    short: tuple[str, ...] = ()
    description: str = ""
    managed: bool = True
    """Has an agent: category `agentmetal`, common columns, status subresource, decision stamps."""
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()

    @property
    def type(self) -> ResourceType:
        """Where the API server keeps it."""
        return ResourceType(GROUP, VERSION, self.kind, self.plural)


class OwnerReference(StatusModel):
    """metadata.ownerReferences[]"""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(StatusModel):
    """The part of metadata that we read."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class Mode(StrEnum):
    """May the operator act?"""

    MANAGE = "Manage"
    OBSERVE = "Observe"


class DeletionPolicy(StrEnum):
    """What deleting the object does to the infrastructure."""

    DELETE = "Delete"
    RETAIN = "Retain"


def _at_least(field: str, least: str, why: str) -> JsonValue:
    message = f"{field} must be at least {least}: {why}"
    # `has`: a server also tries the rule on the default {} of the whole block, before the fields have theirs.
    return {"rule": f"!has(self.{field}) || duration(self.{field}) >= duration('{least}')", "message": message}


_LEAST: list[JsonValue] = [
    _at_least("resyncInterval", "1s", "changes are seen at once, however long it is"),
    _at_least("retryBackoff", "1s", "what has just failed needs a moment"),
    _at_least("approvalTTL", "1m", "or no approval could ever be used"),
]


class Management(ApiModel):
    """How the operator treats an object."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _LEAST})

    mode: Mode = Field(
        default=Mode.MANAGE,
        description="Manage: plan and act. Observe: plan and show a preview, never act; deleting only releases.",
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.DELETE,
        description="Delete: removing the object removes the infrastructure, after approval."
        " Retain: it is released untouched.",
    )
    deletion_protection: bool = Field(
        default=False, description="While true, deleting the object is refused at admission."
    )
    resync_interval: Duration = Field(
        default="5m", description="How often the world is looked at when nothing changed."
    )
    retries: int = Field(default=3, ge=0, le=100, description="How often a failed step is tried again.")
    retry_backoff: Duration = Field(
        default="5s", description="Wait before the first retry of a step; doubles with each one."
    )
    approval_ttl: Duration = Field(
        default="24h",
        alias="approvalTTL",
        description="An approval not started within this time of being seen expires. A waiting plan never expires.",
    )


class ManagedSpec(ApiModel):
    """What every managed kind has in its spec."""

    management: Management = Field(default=Management(), description="How the operator treats this object.")


class Phase(StrEnum):
    """A summary of the conditions for people; never read by code."""

    PENDING = "Pending"
    CREATING = "Creating"
    RUNNING = "Running"
    UPDATING = "Updating"
    DELETING = "Deleting"
    ERROR = "Error"


class Origin(StrEnum):
    """Who proposed a plan."""

    DETERMINISTIC = "Deterministic"
    MODEL = "Model"


class ConditionModel(StatusModel):
    """A condition as Kubernetes stores it."""

    type: ConditionType = Field(description="What the condition is about.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=64, description="Why, in one CamelCase word.")
    message: str = Field(default="", max_length=4096, description="Why, and who must do what.")
    observed_generation: int = Field(default=0, description="The generation of the spec this was said about.")
    last_transition_time: str = Field(max_length=32, description="When the status last changed.")


class StepView(StatusModel):
    """A step of the plan shown in status."""

    tool: str = Field(max_length=64, description="Name of the tool; `agentmetal tools` explains it.")
    description: str = Field(max_length=512, description="What the step does, in one line.")
    risk: Risk = Field(description="Safe, Moderate or Dangerous.")
    optional: bool = Field(default=False, description="The plan goes on when this step fails.")


class PlanView(StatusModel):
    """The plan that waits or runs. A preview has no digest: it cannot be approved."""

    digest: str | None = Field(default=None, max_length=80, description="What an approval names: sha256:...")
    short_digest: str | None = Field(default=None, max_length=16, description="The first 12 digits of the digest.")
    risk: Risk = Field(description="The highest risk of the steps.")
    origin: Origin = Field(description="Deterministic, or proposed by a Model and checked by code.")
    operation: str | None = Field(default=None, max_length=253, description="The Operation that records it.")
    reasoning: str = Field(default="", max_length=2048, description="Why this plan.")
    steps: tuple[StepView, ...] = Field(default=(), max_length=64, description="What it does, in order.")
    evidence: tuple[str, ...] = Field(
        default=(), max_length=32, description="What was observed; not part of the digest."
    )


class LastOperation(StatusModel):
    """How the newest closed operation of this object ended."""

    name: str = Field(max_length=253, description="Name of the Operation.")
    number: int = Field(default=0, description="Its number.")
    result: str = Field(max_length=32, description="Its phase.")
    message: str = Field(default="", max_length=1024, description="How it ended, in one sentence.")


class Handled(StatusModel):
    """The last values of the verbs that were acted on."""

    reconcile_at: str | None = Field(default=None, max_length=256, description="agentmetal.io/reconcile-at")
    replan: str | None = Field(default=None, max_length=256, description="agentmetal.io/replan")


class Rejected(StatusModel):
    """A plan that a human refused: not proposed again until it, the spec or `replan` changes."""

    plan_hash: str = Field(max_length=80, description="Hash of the refused plan.")
    generation: int = Field(description="The generation it was refused at.")
    by: str = Field(default="", max_length=256, description="Who refused it.")


class ManagedStatus(StatusModel):
    """What every managed kind has in its status. Written by the operator only."""

    phase: Phase | None = Field(default=None, description="A summary of the conditions for people.")
    observed_generation: int = Field(default=0, description="The generation of the spec this status is about.")
    conditions: tuple[ConditionModel, ...] = Field(
        default=(),
        max_length=16,
        description="What is so, by type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    plan: PlanView | None = Field(default=None, description="The plan that waits or runs.")
    last_operation: LastOperation | None = Field(default=None, description="How the last plan ended.")
    handled: Handled | None = Field(default=None, description="The verbs acted on.")
    rejected: Rejected | None = Field(default=None, description="A plan not to be proposed again.")
    teardown: dict[str, Any] | None = Field(
        default=None,
        description="Journal of the teardown while the namespace is going away and nothing can be created in it.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )

    def seen(self) -> tuple[str, ...]:
        """What the kind's own fields say of the world, in sentences for `agentmetal explain`."""
        return ()


S = TypeVar("S", bound=ApiModel, covariant=True)
T = TypeVar("T", bound=StatusModel, covariant=True)


class Resource(StatusModel, Generic[S, T]):
    """A custom resource: envelope, spec, status."""

    info: ClassVar[KindInfo]

    api_version: str = f"{GROUP}/{VERSION}"
    kind: str
    metadata: ObjectMeta
    spec: S
    status: T

    @property
    def key(self) -> Key:
        """Its place."""
        return Key(self.kind, self.metadata.namespace, self.metadata.name)

    @property
    def uid(self) -> str:
        """Its identity: a re-created object has another one."""
        return self.metadata.uid

    @property
    def deleting(self) -> bool:
        """Has somebody deleted it?"""
        return self.metadata.deletion_timestamp is not None

    def annotation(self, name: str) -> str:
        """An annotation's value, or the empty string."""
        return self.metadata.annotations.get(name, "")


MS = TypeVar("MS", bound=ManagedSpec, covariant=True)
MT = TypeVar("MT", bound=ManagedStatus, covariant=True)


class ManagedResource(Resource[MS, MT], Generic[MS, MT]):
    """A custom resource with an agent."""

    @property
    def management(self) -> Management:
        """How the operator treats it."""
        return self.spec.management

    @property
    def paused(self) -> bool:
        """Has somebody asked to stop between two steps?"""
        return self.annotation(Annotation.PAUSED) == "true"

    @property
    def observe_only(self) -> bool:
        """May nothing be changed?"""
        return self.spec.management.mode is Mode.OBSERVE

    @property
    def releases(self) -> bool:
        """Does deleting the object leave the infrastructure as it is?"""
        return self.observe_only or self.management.deletion_policy is DeletionPolicy.RETAIN

    @property
    def resync_seconds(self) -> float:
        """How long nothing need be looked at when nothing changes."""
        return max(1.0, seconds(self.spec.management.resync_interval))  # an object may be older than the rule

    def condition(self, type: ConditionType) -> ConditionModel | None:
        """The condition of that type as last written."""
        return next((condition for condition in self.status.conditions if condition.type is type), None)


AnyResource = ManagedResource[ManagedSpec, ManagedStatus]


def spec_hash(resource: AnyResource) -> str:
    """Hash of what the user wants: of management only the deletion policy, for retries and intervals change no plan.

    While it is being deleted, Observe means Retain.
    """
    wire = resource.spec.wire()
    policy = DeletionPolicy.RETAIN if resource.deleting and resource.releases else resource.management.deletion_policy
    wire["management"] = policy.value
    return sha256_hex(wire)
