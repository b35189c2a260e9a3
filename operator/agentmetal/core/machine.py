"""Machines: the protocol of providers, the protocol of hosts reached by SSH, and what both talk about.

Implemented by `providers/` (fake, nspawn, ssh, …) and by `clients/ssh` (real) and `providers/fake_hosts.py` (simulated
hosts); used by tools and by agents' `observe`. One contract suite runs on every implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from agentmetal.core.condition import Reason
from agentmetal.core.resource import Key


class ServerState(StrEnum):
    """The life of a server at its provider."""

    REQUESTED = "Requested"
    PROVISIONING = "Provisioning"
    RUNNING = "Running"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    DECOMMISSIONING = "Decommissioning"
    TERMINATED = "Terminated"


@dataclass(frozen=True, kw_only=True)
class OwnerTag:
    """Who a server belongs to. Written at creation, compared before every change."""

    cluster: str
    """uid of the kube-system namespace: two clusters may share one provider account."""
    namespace: str
    uid: str
    """uid of the Instance."""

    def __str__(self) -> str:
        return f"{self.cluster}/{self.namespace}/{self.uid}"

    @classmethod
    def parse(cls, text: str) -> OwnerTag:
        """The tag that `str` made. Raises ValueError for anything else."""
        cluster, namespace, uid = text.split("/")
        return cls(cluster=cluster, namespace=namespace, uid=uid)


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """What to create. The name derives from the owner's uid, so asking twice finds the first one."""

    name: str
    owner: OwnerTag
    type: str
    image: str
    location: str = ""
    hostname: str = ""
    authorized_keys: tuple[str, ...] = ()
    """Public keys, one OpenSSH line each, that may log in as root."""
    host_key: str = field(default="", repr=False)
    """Private ed25519 host key in OpenSSH form, made by us, so that the first connection is already verified."""
    failure_domain: str = ""
    """What must not be shared with others that do the same: a rack, a host. Empty: any."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the server must carry; providers without labels refuse any."""
    user_data: str = field(default="", repr=False)
    """For cloud-init at the first boot; only for images that carry it (`ServerProvider.runs_cloud_init`)."""
    avoid: tuple[str, ...] = ()
    """Ids of servers that others name and do not have yet: of those that exist already, none of these is handed out."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as its provider describes it."""

    id: str
    name: str
    owner: OwnerTag | None
    type: str
    image: str
    location: str
    state: ServerState
    addresses: tuple[str, ...] = ()
    port: int = 22
    user: str = "root"
    """Who logs in: root, or somebody who becomes root by sudo without a password."""
    host_key: str = ""
    """The public host key that the provider vouches for, one OpenSSH line; empty when it knows none."""
    failure_domain: str = ""
    rescue: bool = False
    """It runs its rescue system instead of its own."""
    silent: str = ""
    """Why its owner could not be read now: the mark is on the host itself, and that does not answer. Else empty."""
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ServerType:
    """A size one can order."""

    name: str
    vcpus: int
    memory_mb: int
    disk_gb: int
    available: int | None = None
    """How many more can be had; None when the provider does not say."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """A place one can order in."""

    name: str
    description: str = ""
    failure_domains: tuple[str, ...] = ()
    """What fails together there (racks, hosts), when the provider tells."""


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A server or host of the account that nothing can be claimed on, and why."""

    name: str
    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class FloatingIp:
    """An address that moves between servers."""

    address: str
    server_id: str | None = None
    """Where the provider sends its traffic; None when it is nowhere, or when only the hosts themselves know."""


class Floating(StrEnum):
    """How a floating address comes to a server."""

    NONE = "None"  # there are none
    LOCAL = "Local"  # whoever configures it on his host has it: the tool `hold_address` does; the provider only lists
    ROUTED = "Routed"  # the provider sends its traffic to the server it is assigned to


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a provider's servers can do."""

    hosts: bool
    """They run an operating system that answers SSH with the key we gave."""
    settles_after: float = 0.0
    """Seconds after a request until lists are certain to show it."""
    power: bool = True
    """Their power can be switched from outside: start, stop, reset, and thus a fence."""
    makes_servers: bool = True
    """Servers are made from images with the host key we give, and deleted with their disks. False: they exist already
    (an inventory), are claimed and let go of; the host key is theirs, and who is not listed any more may still run."""
    resize: bool = False
    """Their type can be changed while they are off."""
    rescue: bool = False
    """They can be started into a rescue system."""
    floating: Floating = Floating.NONE


class ServerProvider(Protocol):
    """Hands out machines. Every call is idempotent; every call is bounded in time by its implementation.

    Raises only `agentmetal.core.errors`: Unavailable, RateLimited, LimitReached, Invalid (unknown type, image,
    location), ClaimedByOther (the name exists and carries another owner tag), NotFound (unknown id),
    AuthenticationFailed, OutcomeUnknown (the reply to a change was lost).
    Absence from `list_servers` is never proof of deletion: lists may be late by `capabilities.settles_after`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What its servers can do."""

    async def list_servers(self) -> tuple[Server, ...]:
        """All servers of the account that carry an owner tag of ours."""

    async def find_server(self, name: str) -> Server | None:
        """The server of that name, or None. May be late, like the list."""

    async def get_server(self, server_id: str) -> Server:
        """The server of that id, read with certainty. Raises NotFound when it certainly does not exist (any more)."""

    async def provision_server(self, spec: ServerSpec) -> Server:
        """Create it, or return the one that already has this name and owner tag. Returns before it runs."""

    async def decommission_server(self, server_id: str, owner: OwnerTag) -> None:
        """Delete it with its disks; succeeds when it is gone already, goes on with a deletion that somebody began.

        Raises ClaimedByOther for a foreign tag.
        """

    async def start_server(self, server_id: str) -> None:
        """Power on; nothing happens when it runs."""

    async def stop_server(self, server_id: str, *, force: bool = False) -> None:
        """Ask it to shut down, or cut the power. Nothing happens when it is off. Returns before it is off."""

    async def reboot_server(self, server_id: str, *, force: bool = False) -> None:
        """Restart it, by force (reset) if asked."""

    async def rebuild_server(self, server_id: str, spec: ServerSpec) -> None:
        """Replace its disks by the image of the spec; id and addresses stay. Returns before it runs."""

    async def adopt_server(self, server_id: str, name: str, owner: OwnerTag, *, was: OwnerTag | None) -> Server:
        """Make a server that exists its owner's: one that carries the tag `was`, or none (None); again is harmless.

        `name` is what it is found by from then on, where the provider can rename. Raises ClaimedByOther for any other
        tag, NotFound.
        """

    async def resize_server(self, server_id: str, type: str) -> None:
        """Give it another type; it must be off. Raises Invalid where that cannot be."""

    async def rescue_server(self, server_id: str) -> None:
        """Restart it into its rescue system: same address, host key and login, its disks mounted below /mnt.

        Any other start or restart ends that. Raises Invalid where that cannot be.
        """

    def runs_cloud_init(self, image: str) -> bool:
        """Does the image carry cloud-init, so that it takes `ServerSpec.user_data` at its first boot?"""

    async def list_unusable(self) -> tuple[Unusable, ...]:
        """What is in the account and cannot be used, as known from the last look: somebody else's, silent, unfit."""

    async def list_floating_ips(self) -> tuple[FloatingIp, ...]:
        """The addresses that may move between servers."""

    async def assign_floating_ip(self, address: str, server_id: str) -> None:
        """Send its traffic there; where addresses are `Local`, only check both. Raises NotFound, Invalid."""

    async def unassign_floating_ip(self, address: str) -> None:
        """Send its traffic nowhere. Raises NotFound."""

    async def list_server_types(self) -> tuple[ServerType, ...]:
        """What can be ordered."""

    async def list_images(self) -> tuple[str, ...]:
        """The images one can order."""

    async def list_locations(self) -> tuple[Location, ...]:
        """Where it can be ordered."""

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, kw_only=True)
class SecretKey:
    """One value inside a Secret."""

    namespace: str
    name: str
    key: str


@dataclass(frozen=True, kw_only=True)
class MachineIdentity:
    """Where a host is and how it proves who it is. Everything a connection needs; no secrets in it."""

    owner: Key
    """The object that is woken when the connection is lost."""
    server_id: str
    address: str
    port: int
    user: str
    host_key: str
    """The pinned public key, as one OpenSSH line. Any other key ends the connection with HostKeyMismatch."""
    client_key: SecretKey
    """Where our private key is."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A command that ended."""

    exit_code: int
    stdout: str
    stderr: str


class UnitPhase(StrEnum):
    """What the host wrapper knows of a command."""

    NEVER = "never"  # certainly not started
    RUNNING = "running"
    ENDED = "ended"
    INTERRUPTED = "interrupted"  # the machine went down while it ran
    UNKNOWN = "unknown"  # it ran, but how it ended is lost: never run again by itself


@dataclass(frozen=True, kw_only=True)
class UnitState:
    """State of a remote command that runs as a systemd unit."""

    phase: UnitPhase
    exit_code: int | None = None
    """When ended by itself."""
    killed_by: str = ""
    """When ended by a signal or a timeout: its name."""
    output: str = ""
    """The last 1 KiB of stdout and stderr."""


class Ssh(Protocol):
    """One verified connection to a host. Untrusted answers: nothing read here becomes a command, path or name.

    Raises Unavailable (connection lost or timed out), HostKeyMismatch, AuthenticationFailed, StaleLeader.
    """

    async def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 10.0) -> Completed:
        """Run a command that reads, or that may run twice. What changes the host goes through `start_unit`."""

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file atomically."""

    async def create_file(self, path: str, data: bytes, *, mode: int = 0o644) -> bytes:
        """Create a file exclusively; returns what it holds then: ours, or what was there before."""

    async def remove_file(self, path: str) -> None:
        """Remove a file; nothing happens when it is absent."""

    async def swap_file(self, path: str, was: bytes, data: bytes | None, *, mode: int = 0o644) -> bool:
        """Replace a file, or remove it (None), if it holds exactly `was`; whether it did.

        The host itself compares, in one command: said late, by a leader that was frozen, it does no harm.
        """

    async def start_unit(self, name: str, argv: Sequence[str], *, epoch: int, timeout: float) -> UnitState:
        """Run a command once, as unit `agentmetal-<name>`; a name that exists is asked for its state instead.

        The host refuses an epoch lower than the highest it has seen (StaleLeader).
        """

    async def unit_state(self, name: str) -> UnitState:
        """Never started, running, or how it ended."""

    async def forget_units(self, operation: str) -> None:
        """Drop what the host keeps about the units of a closed operation."""

    async def install_wrapper(self, *, epoch: int) -> None:
        """Put the program behind `start_unit` on the host, or renew it. May run twice.

        Where it is new the host knows that leader's epoch before anything can be started.
        """

    async def remove_wrapper(self, *, epoch: int) -> None:
        """Take it off again, with all it remembers for this cluster. May run twice. Raises StaleLeader."""

    async def authorized(self) -> tuple[str, ...]:
        """The public keys that may log in as we do, one OpenSSH line each."""

    async def authorize(self, public_key: str, *, like: str = "") -> None:
        """Let a key log in as we do; what else may log in stays as it is. May run twice.

        `like`: another key, whose options (`from=`, `restrict` ...) it gets where that one has some.
        """

    async def revoke(self, public_key: str) -> None:
        """Let it log in no longer. May run twice."""


class Machines(Protocol):
    """Kept, verified connections, with keepalive: one for each way to log in to a host, shared by all its owners."""

    async def connect(self, identity: MachineIdentity) -> Ssh:
        """The kept connection, or a new one. Bounded in time (5 s).

        Raises Unavailable, HostKeyMismatch, AuthenticationFailed; Forbidden when who logs in cannot become root.
        """

    async def forget(self, owner: Key) -> None:
        """Close what is kept for an object and nobody else, for it is gone or changes its address."""

    async def shown_host_key(self, identity: MachineIdentity) -> str:
        """The public host key that is shown at an address now, one OpenSSH line; nobody logs in, nothing is trusted.

        Only for showing a human what a re-pin would trust, and for comparing it with what he approved.
        """
