"""The claim: a file on a host that says whose it is. Created exclusively, so two operators can never hold one host.

Written by `providers/ssh` and by the tools that prepare hosts; read at every look. Its content is untrusted.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from agentmetal.core.machine import OwnerTag
from agentmetal.core.resource import ApiModel

CLAIM_PATH = "/var/lib/agentmetal/claim.json"
UNREADABLE = "somebody whose claim we cannot read"

_Uid = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.-]+$")]


class Claim(ApiModel):
    """What the file says."""

    cluster: _Uid = Field(description="uid of the cluster.")
    namespace: _Uid = Field(description="Namespace of the Instance.")
    uid: _Uid = Field(description="uid of the Instance.")
    server: str = Field(
        default="",
        max_length=63,
        pattern=r"^[a-z0-9.-]*$",
        description="The server's name, where the host itself is the only place that remembers it.",
    )

    @classmethod
    def of(cls, tag: OwnerTag, *, server: str = "") -> Claim:
        """The claim that says what an owner tag says."""
        return cls(cluster=tag.cluster, namespace=tag.namespace, uid=tag.uid, server=server)

    @property
    def tag(self) -> OwnerTag:
        """Whose the host is."""
        return OwnerTag(cluster=self.cluster, namespace=self.namespace, uid=self.uid)

    def file(self) -> bytes:
        """What the file holds."""
        return self.model_dump_json(exclude_defaults=True).encode() + b"\n"


def read_claim(content: str | bytes) -> Claim | None:
    """The claim that a file holds; None when it is no claim of ours at all."""
    try:
        return Claim.model_validate_json(content)
    except ValidationError:
        return None


def claimant(content: str | bytes) -> str:
    """Whom a claim file names, as an owner tag's text."""
    claim = read_claim(content)
    return str(claim.tag) if claim else UNREADABLE
