"""The Provider kind: where servers come from. The CRD is generated from it; any domain may import it."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict, Field, JsonValue

from agentmetal.core.resource import (
    ApiModel,
    Column,
    KindInfo,
    ManagedResource,
    ManagedSpec,
    ManagedStatus,
    ObjectMeta,
    Ref,
    StatusModel,
)


class ProviderType(StrEnum):
    """The provider types that work."""

    NSPAWN = "Nspawn"
    FAKE = "Fake"


class NspawnSpec(ApiModel):
    """Machines are systemd containers on the operator's own host. For development: whoever may use it is root there."""


class FakeSpec(ApiModel):
    """Machines exist in the operator's memory only. For tests and for trying things out."""

    hosts: bool = Field(default=True, description="The servers answer as hosts do (SSH, files, units).")
    boot_seconds: int = Field(default=5, ge=0, le=3600, description="How long a server needs to boot.")
    max_servers: int = Field(default=1000, ge=0, le=1_000_000, description="How many servers the account may have.")


_RULES: list[JsonValue] = [
    {
        "rule": "has(self.nspawn) == (self.type == 'Nspawn')",
        "message": "the block nspawn belongs to type Nspawn: with that type write `nspawn: {}`, with any other leave"
        " it out",
    },
    {
        "rule": "has(self.fake) == (self.type == 'Fake')",
        "message": "the block fake belongs to type Fake: with that type write `fake: {}`, with any other leave it out",
    },
    {
        "rule": "self.type == oldSelf.type",
        "message": "type cannot be changed: create another Provider",
    },
]


class ProviderSpec(ManagedSpec):
    """Which account or which hosts."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _RULES})

    type: ProviderType = Field(
        description="Nspawn: systemd containers on the operator's host. Fake: simulated servers."
        " Both are for development and must be enabled by the operator's settings."
    )
    secret_ref: Ref | None = Field(
        default=None,
        description='Secret with the account\'s credentials, labelled agentmetal.io/usable: "true".'
        " Nspawn and Fake need none; when one is named it must exist and be usable.",
    )
    nspawn: NspawnSpec | None = Field(default=None, description="Settings of type Nspawn; required with it.")
    fake: FakeSpec | None = Field(default=None, description="Settings of type Fake; required with it.")


class ServerTypeStatus(StatusModel):
    """A size one can order."""

    name: str = Field(max_length=63, description="What Instance.spec.type says.")
    vcpus: int = Field(description="Processors.")
    memory_mb: int = Field(alias="memoryMB", description="Memory in MiB.")
    disk_gb: int = Field(alias="diskGB", description="Disk in GiB.")


class LocationStatus(StatusModel):
    """A place one can order in."""

    name: str = Field(max_length=63, description="What Instance.spec.location says.")
    description: str = Field(default="", max_length=256, description="Where that is.")


class ProviderStatus(ManagedStatus):
    """What the provider offers, and the key with which its servers are reached."""

    types: tuple[ServerTypeStatus, ...] = Field(default=(), max_length=512, description="The sizes one can order.")
    images: tuple[str, ...] = Field(default=(), max_length=512, description="The images one can order.")
    locations: tuple[LocationStatus, ...] = Field(default=(), max_length=256, description="Where one can order.")
    key_secret_ref: Ref | None = Field(default=None, description="Secret with the key that logs in to its servers.")
    public_key: str | None = Field(default=None, max_length=1024, description="The public part of that key.")


class Provider(ManagedResource[ProviderSpec, ProviderStatus]):
    """Where servers come from."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="Provider",
        plural="providers",
        short=("prov",),
        description="An account or a set of hosts that servers come from, and the key that logs in to them.",
        columns=(
            Column("Type", ".spec.type"),
            Column("Images", ".status.images", wide=True),
        ),
    )

    kind: str = "Provider"
    metadata: ObjectMeta
    spec: ProviderSpec
    status: ProviderStatus = ProviderStatus()


def key_secret_name(provider: str) -> str:
    """The Secret with the client key of a Provider."""
    return f"{provider}-ssh"
