"""AuditCheckpoint: what the newest audit record was, kept where the audit store is not. Made by `kube.checkpoints`.

Create-only: nobody changes one, and the operator, which makes them, cannot delete them either (RBAC and admission). So
whoever has the store, the operator's account or both cannot make a lost or rewritten trail look whole.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from agentmetal.core.audit import Head
from agentmetal.core.resource import ApiModel, Column, KindInfo, ObjectMeta, Resource, StatusModel
from agentmetal.core.saying import Says


class AuditCheckpointSpec(ApiModel):
    """The newest record at a moment, and who led then."""

    sequence: int = Field(ge=0, description="Number of the newest record.")
    hash: Annotated[str, Says("write a sha256 as 64 hexadecimal digits")] = Field(
        min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$", description="Its hash: it stands for all before it."
    )
    at: str = Field(max_length=32, description="When it was the newest.")
    epoch: int = Field(default=0, ge=0, description="The leader's epoch: a restored store never gives it out again.")


class AuditCheckpoint(Resource[AuditCheckpointSpec, StatusModel]):
    """A head of the audit trail, seen from outside of it."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="AuditCheckpoint",
        plural="auditcheckpoints",
        short=("acp",),
        description="What the newest audit record was: `agentmetal audit verify` proves the trail against it."
        " Made by the operator in its own namespace, changed by nobody; administrators delete old ones.",
        managed=False,
        columns=(
            Column("Sequence", ".spec.sequence", type="integer"),
            Column("Hash", ".spec.hash", wide=True),
            Column("At", ".spec.at"),
            Column("Epoch", ".spec.epoch", type="integer"),
        ),
    )
    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.spec == oldSelf.spec",
                    "message": "a checkpoint records what was seen and cannot be changed",
                    "fieldPath": ".spec",
                }
            ]
        }
    )

    kind: str = "AuditCheckpoint"
    metadata: ObjectMeta
    spec: AuditCheckpointSpec
    status: StatusModel = StatusModel()

    @property
    def head(self) -> Head:
        """The record that it vouches for."""
        return Head(sequence=self.spec.sequence, hash=self.spec.hash)


def checkpoint_name(head: Head, epoch: int) -> str:
    """One name for one place in the chain and one leader: who makes it twice finds it made."""
    return f"{head.sequence:012d}-{head.hash[:12]}-{epoch}"
