"""Operation (the journal) and ApprovalPolicy: the two kinds that belong to the engine itself.

Written by the ledger through `kube.journal`; everybody else may only read Operations (admission rule 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from agentmetal.core.plan import Plan, Step, Trigger
from agentmetal.core.resource import (
    ApiModel,
    Column,
    KindInfo,
    Name,
    ObjectMeta,
    Origin,
    Resource,
    StatusModel,
)
from agentmetal.core.risk import Risk

JOURNAL_FORMAT = 1
"""Version of what an Operation says. Older ones are read for ever; raise it when an older program would misread a new
one: that program then leaves it alone and says so (`Unreadable`)."""


class OperationPhase(StrEnum):
    """The life of an operation; design §3.5 has the table."""

    PENDING = "Pending"
    AWAITING_APPROVAL = "AwaitingApproval"
    RUNNING = "Running"
    BLOCKED = "Blocked"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    REJECTED = "Rejected"
    SUPERSEDED = "Superseded"
    WITHDRAWN = "Withdrawn"
    EXPIRED = "Expired"
    CANCELLED = "Cancelled"

    @property
    def closed(self) -> bool:
        """Is it at its end?"""
        return self not in OPEN

    @property
    def waiting(self) -> bool:
        """Is nothing done yet?"""
        return self in (OperationPhase.PENDING, OperationPhase.AWAITING_APPROVAL)


OPEN = (OperationPhase.PENDING, OperationPhase.AWAITING_APPROVAL, OperationPhase.RUNNING, OperationPhase.BLOCKED)


class StepState(StrEnum):
    """The life of a step. Running is written before it acts."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    IN_DOUBT = "InDoubt"
    SKIPPED = "Skipped"


class ResourceRef(ApiModel):
    """The object an operation is about."""

    kind: str = Field(max_length=64, description="Its kind.")
    name: Name = Field(description="Its name, in the operation's namespace.")
    uid: str = Field(max_length=64, description="Its uid: a re-created object is another one.")


class Cause(ApiModel):
    """Why the plan exists."""

    trigger: Trigger = Field(description="Change, Issue, Deletion, Parent or Proposal.")
    issue: str | None = Field(default=None, max_length=64, description="The issue that is healed.")
    operation: str | None = Field(default=None, max_length=253, description="The parent's operation.")


class StepSpec(ApiModel):
    """One typed tool call."""

    tool: str = Field(max_length=64, description="Name of the tool.")
    parameters: dict[str, Any] = Field(
        default={},
        description="Identities and desired values only.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    risk: Risk = Field(description="The risk approved; a higher one found at run time supersedes the plan.")
    optional: bool = Field(default=False, description="The plan goes on when this step fails.")
    description: str = Field(default="", max_length=512, description="What it does, in one line.")


class OperationSpec(ApiModel):
    """What was planned. Immutable."""

    format: int = Field(default=JOURNAL_FORMAT, ge=1, description="Version of this journal's form.")
    plan_format: int = Field(
        default=1, ge=1, description="Version of what planHash covers: another one needs a new decision."
    )
    resource_ref: ResourceRef = Field(description="The object it is about.")
    number: int = Field(ge=1, description="Counts the plans of one object.")
    plan_hash: str = Field(max_length=80, description="Hash of the plan: equal plans of one object have equal hashes.")
    digest: str = Field(max_length=80, description="What an approval names: planHash and number hashed together.")
    risk: Risk = Field(description="The highest risk of the steps.")
    origin: Origin = Field(default=Origin.DETERMINISTIC, description="Who proposed it.")
    cause: Cause = Field(description="Why it exists.")
    generation: int = Field(default=0, description="The generation of the object's spec it was planned for.")
    while_deleting: bool = Field(default=False, description="It was planned for an object already being deleted.")
    spec_hash: str = Field(
        default="", max_length=80, description="Hash of the object's spec without management, to see real changes."
    )
    targets: dict[str, str] = Field(
        default={}, max_length=32, description="Identities of what it acts on; part of planHash."
    )
    reasoning: str = Field(default="", max_length=2048, description="Why this plan.")
    evidence: tuple[str, ...] = Field(default=(), max_length=32, description="What was observed when it was made.")
    steps: tuple[StepSpec, ...] = Field(max_length=64, description="What it does, in order.")


class Decision(StatusModel):
    """Who let it run, or refused it."""

    verdict: str = Field(max_length=16, description="Approved or Rejected.")
    by: str = Field(max_length=256, description="The user, the policy or the parent operation.")
    via: str = Field(max_length=32, description="Risk, Annotation, ApprovalPolicy or Parent.")
    at: str = Field(max_length=32, description="When the operator saw it.")
    reason: str = Field(default="", max_length=1024, description="The annotation agentmetal.io/reason.")


class StepStatus(StatusModel):
    """How a step went."""

    state: StepState = Field(default=StepState.PENDING, description="Running is written before it acts.")
    attempt: int = Field(default=0, description="Counts known failures; a new attempt is a new unit on the host.")
    started_at: str | None = Field(default=None, max_length=32, description="When its first attempt began.")
    finished_at: str | None = Field(default=None, max_length=32, description="When it ended.")
    result: str | None = Field(default=None, max_length=1024, description="What came out, for people.")
    error: str | None = Field(default=None, max_length=1024, description="Why it failed, and who must act.")


class OperationStatus(StatusModel):
    """How it goes. Written by the operator only."""

    phase: OperationPhase = Field(default=OperationPhase.PENDING, description="Where it is in its life.")
    progress: str = Field(default="", max_length=16, description="Steps done of all steps, as 2/3.")
    message: str = Field(default="", max_length=1024, description="The newest news, in one sentence.")
    steps: tuple[StepStatus, ...] = Field(default=(), max_length=64, description="One for each step of the spec.")
    decision: Decision | None = Field(default=None, description="Who let it run.")
    epoch: int = Field(default=0, description="The leader that runs it; hosts refuse older ones.")
    audit_head: str | None = Field(default=None, max_length=80, description="Newest audit hash when this was written.")
    started_at: str | None = Field(default=None, max_length=32, description="When it began to run.")
    finished_at: str | None = Field(default=None, max_length=32, description="When it closed.")
    resumed: int = Field(default=0, description="How often a new leader took it up.")


_IMMUTABLE: list[JsonValue] = [
    {
        "rule": "self.spec == oldSelf.spec",
        "message": "the spec of an Operation records what was planned and cannot be changed: open another one",
        "fieldPath": ".spec",
    }
]


class Operation(Resource[OperationSpec, OperationStatus]):
    """The record of one plan: written before it acts."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _IMMUTABLE})

    info: ClassVar[KindInfo] = KindInfo(
        kind="Operation",
        plural="operations",
        short=("op",),
        description="The journal of one plan: what was planned, who decided, what ran. Written by the operator only.",
        managed=False,
        columns=(
            Column("Resource", ".spec.resourceRef.name"),
            Column("Kind", ".spec.resourceRef.kind"),
            Column("Phase", ".status.phase"),
            Column("Risk", ".spec.risk"),
            Column("Progress", ".status.progress"),
            Column("Decision", ".status.decision.by"),
            Column("Message", ".status.message", wide=True),
            Column("Age", ".metadata.creationTimestamp", type="date"),
        ),
        selectable=(".status.phase",),
    )

    kind: str = "Operation"
    metadata: ObjectMeta
    spec: OperationSpec
    status: OperationStatus = OperationStatus()

    @property
    def phase(self) -> OperationPhase:
        """Where it is in its life."""
        return self.status.phase

    @property
    def digest(self) -> str:
        """What an approval names."""
        return self.spec.digest

    @property
    def short_digest(self) -> str:
        """The first 12 digits of the digest, for columns."""
        return self.spec.digest.removeprefix("sha256:")[:12]

    def plan(self) -> Plan:
        """The plan it records (without the evidence of single steps)."""
        steps = tuple(
            Step(tool=s.tool, parameters=s.parameters, risk=s.risk, description=s.description, optional=s.optional)
            for s in self.spec.steps
        )
        return Plan(
            steps=steps,
            reasoning=self.spec.reasoning,
            origin=self.spec.origin,
            trigger=self.spec.cause.trigger,
            targets=self.spec.targets,
        )


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An Operation that this program may not act on: a newer one wrote it, or somebody changed its form."""

    namespace: str
    name: str
    resource_version: str
    finalizers: tuple[str, ...]
    uid: str
    """Of the object that it is about; empty when not even that can be read."""
    number: int
    phase: str
    why: str

    @property
    def untouched(self) -> bool:
        """Has it certainly not begun, whatever else it says?"""
        return self.phase in (OperationPhase.PENDING, OperationPhase.AWAITING_APPROVAL)

    def __str__(self) -> str:
        return f"Operation {self.name!r} ({self.phase or 'no phase'}) {self.why}"


def read_operation(body: Mapping[str, Any]) -> Operation | Unreadable:
    """An Operation as the API holds it. Who wrote it may have been a newer program than this one."""
    spec = body.get("spec") or {}
    if isinstance(format := spec.get("format", 1), int) and format > JOURNAL_FORMAT:
        return _unreadable(
            body, f"was written by a newer AgentMetal (journal format {format}, this one reads 1 to {JOURNAL_FORMAT})"
        )
    try:
        return Operation.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        return _unreadable(body, f"is not in a form that this AgentMetal reads ({field}: {first['msg']})")


def _unreadable(body: Mapping[str, Any], why: str) -> Unreadable:
    meta, spec, status = (body.get(part) or {} for part in ("metadata", "spec", "status"))
    name = str(meta.get("name", ""))
    last = name.rpartition("-")[2]
    return Unreadable(
        namespace=str(meta.get("namespace", "")),
        name=name,
        resource_version=str(meta.get("resourceVersion", "")),
        finalizers=tuple(meta.get("finalizers") or ()),
        uid=str((spec.get("resourceRef") or {}).get("uid", "")),
        number=int(last) if last.isdecimal() else 0,
        phase=str(status.get("phase", "")),
        why=why,
    )


def operation_name(uid: str, number: int) -> str:
    """The name of an object's n-th operation: creating it is the compare-and-swap for "the next plan"."""
    return f"op-{hashlib.sha256(uid.encode()).hexdigest()[:16]}-{number}"


class ApprovalPolicySpec(ApiModel):
    """Which plans need no human, and which need one although they are Moderate."""

    resources: tuple[str, ...] = Field(
        min_length=1,
        max_length=32,
        description="Plural names as in RBAC (instances). Writing a policy needs `approve` on each.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    names: tuple[Name, ...] = Field(default=(), max_length=256, description="Only these objects; empty means all.")
    tools: tuple[str, ...] = Field(
        default=(), max_length=64, description="Only plans whose steps all use these tools; empty means any."
    )
    max_risk: Risk = Field(description="Plans up to this risk.")
    origins: tuple[Origin, ...] = Field(
        default=(Origin.DETERMINISTIC,), max_length=2, description="Only plans proposed by these."
    )
    require: bool = Field(
        default=False, description="Turns the policy round: plans it matches, Moderate ones too, wait for a human."
    )


class ApprovalPolicy(Resource[ApprovalPolicySpec, StatusModel]):
    """An approval given in advance, in one namespace."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="ApprovalPolicy",
        plural="approvalpolicies",
        short=("apol",),
        description="Approves plans in advance, or asks for approval of Moderate ones, in its own namespace.",
        managed=False,
        columns=(
            Column("Resources", ".spec.resources"),
            Column("MaxRisk", ".spec.maxRisk"),
            Column("Require", ".spec.require", type="boolean"),
            Column("Age", ".metadata.creationTimestamp", type="date"),
        ),
    )

    kind: str = "ApprovalPolicy"
    metadata: ObjectMeta
    spec: ApprovalPolicySpec
    status: StatusModel = StatusModel()


def moment(text: str | None) -> datetime | None:
    """A stored time, or None."""
    return datetime.fromisoformat(text) if text else None
