"""The Instance kind: one server. The CRD is generated from it; any domain may import it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, JsonValue

from agentmetal.agents.provider.api import MAX_ADDRESS, key_secret_name
from agentmetal.core.machine import ServerState
from agentmetal.core.resource import (
    Annotation,
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
from agentmetal.core.saying import Says
from agentmetal_tools.hosts import host_key_secret_name as host_key_secret_name
from agentmetal_tools.servers import InstanceHost

Choice = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]*$"),
    Says("write a name that the Provider's status lists: letters, digits and ._/:- behind a letter or a digit"),
]
"""A name out of a provider's catalogue."""


class PowerState(StrEnum):
    """Should it run?"""

    ON = "On"
    OFF = "Off"
    RESCUE = "Rescue"


MAX_EPOCH = 2**53 - 1
"""Larger integers have no canonical JSON, so no plan of theirs could have a hash."""


class Fence(ApiModel):
    """An order to keep a server off, whatever else is wanted."""

    holder: str = Field(min_length=1, max_length=253, description="Who fenced it, as `Kind namespace/name`.")
    epoch: int = Field(
        ge=0, le=MAX_EPOCH, description="Counts the holder's fences; a later one replaces an earlier one."
    )
    reason: str = Field(default="", max_length=256, description="Why, for people.")


def _unchangeable(field: str, rule: str) -> JsonValue:
    return {"rule": rule, "message": f"{field} cannot be changed: create another Instance"}


def _unchangeable_option(field: str) -> JsonValue:
    return _unchangeable(
        field,
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
    )


_RULES: list[JsonValue] = [
    _unchangeable("providerRef", "self.providerRef.name == oldSelf.providerRef.name"),
    _unchangeable_option("location"),
    _unchangeable_option("failureDomain"),
    _unchangeable_option("hostSelector"),
    _unchangeable_option("adopt"),
    {
        "rule": "!has(self.userData) || !has(self.userDataSecretRef)",
        "message": "userData and userDataSecretRef say the same: keep one of them",
    },
    {
        "rule": "!has(self.adopt) || !(has(self.hostSelector) || has(self.failureDomain) || has(self.location))",
        "message": "adopt names the very server: leave hostSelector, failureDomain and location out",
    },
    {
        "rule": "!has(self.securityGroupRefs) || size(self.securityGroupRefs) == 0",
        "message": "securityGroupRefs cannot be honoured yet: leave it out; nothing would filter the traffic",
    },
]


class InstanceSpec(ManagedSpec):
    """The server one wants."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _RULES})

    provider_ref: Ref = Field(description="The Provider it comes from. Cannot be changed.")
    type: Choice = Field(
        description="Its size, out of the Provider's status.types. Another one means a resize, with the server off for"
        " a while; not every provider can."
    )
    image: Choice = Field(
        description="What runs on it, out of the Provider's status.images. Another image means a rebuild:"
        " the data on its disks is deleted, after approval."
    )
    location: Choice | None = Field(
        default=None,
        description="Where it stands, out of the Provider's status.locations; the provider chooses when absent."
        " Cannot be changed.",
    )
    failure_domain: Choice | None = Field(
        default=None,
        description="What it must fail with, out of the Provider's status.locations; services spread their members"
        " over these. Cannot be changed.",
    )
    host_selector: dict[str, Choice] | None = Field(
        default=None,
        max_length=16,
        description="Labels that the host must carry, for Providers with an inventory. Cannot be changed.",
    )
    adopt: Choice | None = Field(
        default=None,
        description="The server to take over instead of getting a new one: a host's name in the inventory, or the"
        " providerID of a server that was released. With management.mode Observe it is only looked at. Cannot be"
        " changed.",
    )
    user_data: str | None = Field(
        default=None,
        max_length=32768,
        description="cloud-init user data (#cloud-config), run once when the server is new. Without cloud-init in the"
        " image a part of it is understood: users, ssh_authorized_keys, packages, write_files, runcmd.",
    )
    user_data_secret_ref: Ref | None = Field(
        default=None,
        description='Secret with the user data under the key userData, labelled agentmetal.io/usable: "true".',
    )
    security_group_refs: tuple[Ref, ...] = Field(
        default=(), max_length=16, description="Not available yet: refused, so that nobody believes in a filter."
    )
    power_state: PowerState = Field(
        default=PowerState.ON,
        description="On, Off (shut down and kept) or Rescue (runs a rescue system, its disks below /mnt). Quote it:"
        " YAML takes a bare Off for false.",
    )
    fence: Fence | None = Field(
        default=None,
        description="Keeps the server off, whatever powerState says. Set and lifted by the operator only, for the"
        " services that run on it.",
    )


class HostFacts(StatusModel):
    """What the host says about itself."""

    os: str = Field(default="", max_length=128, description="Operating system, as in /etc/os-release.")
    kernel: str = Field(default="", max_length=128, description="Kernel release.")
    architecture: str = Field(default="", max_length=32, description="Machine architecture, as in uname -m.")
    cpus: int = Field(default=0, ge=0, description="Processors online.")
    memory_mb: int = Field(default=0, ge=0, alias="memoryMB", description="Memory in MiB.")
    reboot_required: bool = Field(default=False, description="Packages ask for a reboot (/run/reboot-required).")
    packages_from: str | None = Field(
        default=None, max_length=10, description="Day on which packages were last changed, as YYYY-MM-DD."
    )
    failed_units: tuple[str, ...] = Field(
        default=(), max_length=8, description="systemd units that failed: the first 8 by name."
    )

    def told(self) -> tuple[str, ...]:
        """For people."""
        size = f"{self.cpus} processor{'' if self.cpus == 1 else 's'}, {self.memory_mb} MiB of memory"
        lines = [", ".join(text for text in (self.os, f"kernel {self.kernel}", self.architecture, size) if text)]
        if self.packages_from:
            lines.append(f"packages were last changed on {self.packages_from}")
        if self.reboot_required:
            lines.append(f"packages ask for a reboot: annotate it with {Annotation.REBOOT_AT}=<RFC 3339 time>")
        if self.failed_units:
            lines.append(f"failed units: {', '.join(self.failed_units)}")
        return tuple(lines)


class UserDataStatus(StatusModel):
    """What became of spec.userData."""

    state: str = Field(default="", max_length=32, description="Pending, Running, Done or Failed.")
    sha256: str = Field(default="", max_length=64, description="Which user data that was; empty when out of a Secret.")
    ignored: tuple[str, ...] = Field(
        default=(), max_length=32, description="Keys that are not understood without cloud-init in the image."
    )


MAX_ADDRESSES = 32


class InstanceStatus(ManagedStatus):
    """The server one has."""

    provider_id: str | None = Field(
        default=None, max_length=253, alias="providerID", description="Its id at the provider."
    )
    state: ServerState | None = Field(default=None, description="Where it is in its life, as the provider says.")
    addresses: tuple[str, ...] = Field(
        default=(), max_length=MAX_ADDRESSES, description="Its IP addresses; a DNS name where the inventory says one."
    )
    private_ip: str | None = Field(
        default=None, max_length=64, alias="privateIP", description="Its first private address."
    )
    public_ip: str | None = Field(
        default=None,
        max_length=MAX_ADDRESS,
        alias="publicIP",
        description="Its first public one; a DNS name where the inventory says one.",
    )
    host_key_fingerprint: str | None = Field(
        default=None, max_length=128, description="Fingerprint of the pinned host key."
    )
    machine_id: str | None = Field(default=None, max_length=64, alias="machineID", description="Its /etc/machine-id.")
    image: str | None = Field(default=None, max_length=63, description="The image on its disks.")
    failure_domain: str | None = Field(default=None, max_length=63, description="What it fails together with.")
    user_data: UserDataStatus | None = Field(default=None, description="What became of spec.userData.")
    facts: HostFacts | None = Field(default=None, description="What the host says about itself.")

    def seen(self) -> tuple[str, ...]:
        """What the host said last, and what its user data asked for in vain."""
        left_out = self.user_data.ignored if self.user_data else ()
        told = self.facts.told() if self.facts else ()
        return (*told, f"left out of the user data: {', '.join(left_out)}") if left_out else told


class Instance(ManagedResource[InstanceSpec, InstanceStatus]):
    """One server."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="Instance",
        plural="instances",
        short=("inst",),
        description="One server: provisioned, prepared, kept running, and decommissioned after approval.",
        columns=(
            Column("Type", ".spec.type", wide=True),
            Column("Image", ".spec.image", wide=True),
            Column("IP", ".status.addresses[0]", wide=True),
            Column("State", ".status.state", wide=True),
        ),
    )

    kind: str = "Instance"
    metadata: ObjectMeta
    spec: InstanceSpec
    status: InstanceStatus = InstanceStatus()

    @property
    def fenced(self) -> bool:
        """Must it stay off?"""
        return self.spec.fence is not None


MAX_NAME = 40
MAX_HOSTNAME = 63


def server_name(instance: Instance) -> str:
    """The server's name at its provider: the same whenever it is asked, another one for a re-created Instance."""
    return f"{instance.metadata.name[:MAX_NAME].rstrip('-.')}-{instance.uid[:8]}"


def hostname(instance: Instance) -> str:
    """What the host calls itself: the Instance's name, or the server's where that is too long."""
    return instance.metadata.name if len(instance.metadata.name) <= MAX_HOSTNAME else server_name(instance)


def host_of(instance: Instance) -> InstanceHost:
    """How tools and observations of other kinds name this Instance's host: parameters for `visit`."""
    return InstanceHost(
        instance=instance.metadata.name,
        instance_uid=instance.uid,
        provider=instance.spec.provider_ref.name,
        server=server_name(instance),
        server_id=instance.status.provider_id,
        host_key_secret=host_key_secret_name(instance.metadata.name),
        client_key_secret=key_secret_name(instance.spec.provider_ref.name),
    )
