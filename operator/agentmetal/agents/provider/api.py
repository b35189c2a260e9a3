"""The Provider kind: where servers come from. The CRD is generated from it; any domain may import it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

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
from agentmetal.core.saying import Says
from agentmetal_tools.wiping import WIPEABLE

OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4 = rf"^({OCTET}\.){{3}}{OCTET}$"
"""Other addresses would be refused where they are held, which is too late."""


class ProviderType(StrEnum):
    """The provider types that work."""

    SSH = "SSH"
    NSPAWN = "Nspawn"
    FAKE = "Fake"


class NspawnSpec(ApiModel):
    """Machines are systemd containers on the operator's own host. For development: whoever may use it is root there."""


class FakeSpec(ApiModel):
    """Machines exist in the operator's memory only. For tests and for trying things out."""

    hosts: bool = Field(default=True, description="The servers answer as hosts do (SSH, files, units).")
    boot_seconds: int = Field(default=5, ge=0, le=3600, description="How long a server needs to boot.")
    max_servers: int = Field(default=1000, ge=0, le=1_000_000, description="How many servers the account may have.")


Word = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
    Says("write one word: letters, digits and ._- behind a letter or a digit"),
]
"""A name that people choose: a type, a location, a failure domain, a label."""
LoginName = Annotated[
    str,
    Field(min_length=1, max_length=32, pattern=r"^[a-z_][a-z0-9_-]*$"),
    Says("write the name of an account: a-z, 0-9, '_' and '-' behind a letter or '_'"),
]
"""The name of a Unix account."""
HostName = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    Says("write a host name without dots: a-z, 0-9 and '-', with a letter or a digit at both ends"),
]
MAX_ADDRESS = 253
"""Of a DNS name."""
Address = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ADDRESS, pattern=r"^[A-Za-z0-9.:-]+$"),
    Says("write an IP address or a DNS name, without port and without user"),
]
HostKey = Annotated[
    str,
    Field(
        min_length=16,
        max_length=1024,
        pattern=r"^(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/]+={0,3}( .*)?$",
    ),
    Says(
        "write the host's public key as one line, like `ssh-ed25519 AAAA...`: take it from"
        " /etc/ssh/ssh_host_ed25519_key.pub on the host, or by a way you trust"
    ),
]
IPv4 = Annotated[str, Field(max_length=15, pattern=IPV4), Says("write an IPv4 address, like 10.0.0.7")]
WipePath = Annotated[
    str,
    Field(max_length=255, pattern=WIPEABLE),
    Says(
        "write an absolute path below /srv, /opt, /home, /data, /mnt, /media, /var/lib, /var/log, /var/cache, /var/tmp,"
        " /tmp or /usr/local, not such a directory itself, at most eight deep, without `..` and without hidden names"
    ),
]
MAX_HOSTS = 1024


class SshHostSpec(ApiModel):
    """A machine that exists."""

    name: HostName = Field(description="What it is called here; it becomes the Instance's status.providerID.")
    address: Address = Field(
        description="IP address or DNS name. Loopback, link-local and the cluster's own ranges are refused.",
    )
    port: int = Field(default=22, ge=1, le=65535, description="Where sshd listens.")
    user: LoginName = Field(
        default="root", description="Who logs in: root, or an account that may run everything by sudo without password."
    )
    host_key: HostKey = Field(
        description="Its public host key, one line as in /etc/ssh/ssh_host_ed25519_key.pub. Any other key is refused."
        " Editing it does not change what an Instance trusts: that takes agentmetal.io/repin and an approval.",
    )
    labels: dict[str, Word] = Field(
        default={}, max_length=16, description="What Instance.spec.hostSelector can ask for."
    )
    type: Word = Field(default="host", description="What Instance.spec.type says.")
    location: Word = Field(default="default", description="What Instance.spec.location says.")
    failure_domain: Word | None = Field(
        default=None, description="What fails together (a rack, a feed); the host's own name when absent."
    )


_WIPE_RULES: list[JsonValue] = [
    {
        "rule": "!has(self.paths) || !self.paths.exists(path, path == '/usr/local/lib'"
        " || path.startsWith('/usr/local/lib/agentmetal') || path.startsWith('/var/lib/agentmetal'))",
        "message": "what we need on a host until the end cannot be wiped: leave out /usr/local/lib and what is ours"
        " (/usr/local/lib/agentmetal, /var/lib/agentmetal); that goes by itself",
    },
    {
        "rule": "!has(self.users) || !('root' in self.users)",
        "message": "root cannot be wiped: name the accounts that services used",
    },
]


class WipeSpec(ApiModel):
    """What is removed from a host when an Instance on it is deleted."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _WIPE_RULES})

    paths: tuple[WipePath, ...] = Field(
        default=(), max_length=32, description="Files and directories, removed with all below them."
    )
    users: tuple[LoginName, ...] = Field(
        default=(), max_length=32, description="Accounts, removed with their home directories; never root."
    )


class SshSpec(ApiModel):
    """Machines that exist already, reached by SSH: an inventory."""

    hosts: tuple[SshHostSpec, ...] = Field(
        default=(),
        max_length=MAX_HOSTS,
        description="The machines. Removing a claimed one changes nothing on it: its Instance says so and waits.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    wipe: WipeSpec | None = Field(
        default=None,
        description="What deleting an Instance removes from its host, after approval. Absent: only our own files.",
    )
    floating_addresses: tuple[IPv4, ...] = Field(
        default=(),
        max_length=64,
        description="IPv4 addresses in the hosts' common network that services may move between them.",
    )


_RULES: list[JsonValue] = [
    {
        "rule": "has(self.ssh) == (self.type == 'SSH')",
        "message": "the block ssh belongs to type SSH: with that type write `ssh: {hosts: [...]}`, with any other leave"
        " it out",
    },
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
        description="SSH: an inventory of machines that exist. Nspawn: systemd containers on the operator's host."
        " Fake: simulated servers. Each must be enabled by the operator's settings; the last two are for development."
    )
    secret_ref: Ref | None = Field(
        default=None,
        description='Secret with the account\'s credentials, labelled agentmetal.io/usable: "true".'
        " SSH, Nspawn and Fake need none; when one is named it must exist and be usable.",
    )
    ssh: SshSpec | None = Field(default=None, description="Settings of type SSH; required with it.")
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
    failure_domains: tuple[str, ...] = Field(
        default=(), max_length=256, description="What fails together there: Instance.spec.failureDomain."
    )


class UnusableStatus(StatusModel):
    """A host of the account that nothing can be claimed on."""

    name: str = Field(max_length=253, description="Its name.")
    reason: str = Field(max_length=64, description="Why, in one CamelCase word.")
    message: str = Field(max_length=512, description="Why, and who must do what.")


class ProviderStatus(ManagedStatus):
    """What the provider offers, and the key with which its servers are reached."""

    types: tuple[ServerTypeStatus, ...] = Field(default=(), max_length=512, description="The sizes one can order.")
    images: tuple[str, ...] = Field(default=(), max_length=512, description="The images one can order.")
    locations: tuple[LocationStatus, ...] = Field(default=(), max_length=256, description="Where one can order.")
    key_secret_ref: Ref | None = Field(default=None, description="Secret with the key that logs in to its servers.")
    unusable: tuple[UnusableStatus, ...] = Field(
        default=(), max_length=32, description="Hosts that cannot be used, and why: the first 32 by name."
    )
    public_key: str | None = Field(default=None, max_length=1024, description="The public part of that key.")

    def seen(self) -> tuple[str, ...]:
        """Why hosts cannot be used."""
        return tuple(f"{host.name} cannot be used ({host.reason}): {host.message}" for host in self.unusable)


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
