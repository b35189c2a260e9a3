"""Servers as tools see them: parameters, facts, how one is found again, and what must hold before one is touched.

Used by `instance.py` (the tools), and by `agents.instance`, which fills the same facts from what it observed.
What runs *on* an Instance (every service) reaches its host by `visit`, from tools and from `observe` alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import Field

from agentmetal.clients.keys import fingerprint
from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.condition import Reason
from agentmetal.core.errors import ClaimedByOther, HostKeyMismatch, NotFound, Unavailable
from agentmetal.core.machine import Machines, OwnerTag, Server, ServerProvider, ServerState, Ssh
from agentmetal.core.resource import ApiModel, Key, Name
from agentmetal.core.tool import Providers, Refusal, Secrets, ToolContext
from agentmetal_tools.hosts import identify
from agentmetal_tools.looks import look

NOBODY = "nobody we know"
"""The owner of a server that carries no mark."""


class ServerParams(ApiModel):
    """Which server."""

    provider: Name = Field(description="The Provider it belongs to.")
    server: str = Field(min_length=1, max_length=63, description="Its name at the provider.")
    server_id: str | None = Field(
        default=None, max_length=253, alias="serverID", description="Its id; absent while none is known."
    )


class HostParams(ServerParams):
    """Which server, and how to reach its host."""

    host_key_secret: Name = Field(description="The Secret with its host key.")
    client_key_secret: Name = Field(description="The Secret with the key that logs in.")


class InstanceHost(HostParams):
    """The host of an Instance, for something else that runs on it; `agents.instance.api.host_of` makes it."""

    instance: Name = Field(description="The Instance.")
    instance_uid: str = Field(
        min_length=1, max_length=63, alias="instanceUID", description="Its uid: a re-created Instance is another host."
    )


class UserDataRef(ApiModel):
    """Which user data: the spec's own, by its hash, or what a Secret holds. The text itself is in no plan."""

    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="Of the text in the spec.")
    secret: Name | None = Field(default=None, description="The Secret with the text.")


class ProvisionParams(HostParams):
    """What to order."""

    type: str = Field(max_length=63, description="The size.")
    image: str = Field(max_length=63, description="The image.")
    location: str = Field(default="", max_length=63, description="Where; the provider chooses when empty.")
    failure_domain: str = Field(default="", max_length=63, description="What it must fail with; any when empty.")
    labels: dict[str, str] = Field(default={}, max_length=16, description="What a host of an inventory must carry.")
    hostname: str = Field(
        default="", max_length=63, description="What it calls itself; empty: it exists and keeps its name."
    )
    user_data: UserDataRef | None = Field(default=None, description="What is run once when it is new.")


class PrepareParams(HostParams):
    """What a host must have before anything runs on it."""

    hostname: str = Field(
        default="", max_length=63, description="What it calls itself; stays as it is when empty: we did not make it."
    )
    was: str = Field(
        default="", max_length=512, description="The owner tag whose claim on the host may be replaced; none if empty."
    )


class StopParams(ServerParams):
    """How to stop."""

    force: bool = Field(default=False, description="Cut the power at once.")
    grace_seconds: int = Field(default=30, ge=0, le=120, description="How long a clean shutdown may take.")


class DecommissionParams(HostParams):
    """What to delete, or, out of an inventory, to let go of. The Secret with the host key is released in the end."""

    kept: bool = Field(default=False, description="It is only let go of: it stands in an inventory.")


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What the provider says about the server."""

    exists: bool
    server_id: str = ""
    state: str = ""
    foreign: str = ""
    """The owner tag, when it is not ours."""
    fenced: bool = False
    """The Instance must stay off."""
    kept: bool = False
    """The provider never deletes: servers of an inventory are only let go of."""
    user: str = ""
    """Who logs in to its host."""

    def __str__(self) -> str:
        server = f"server {self.server_id!r} is {self.state}" if self.exists else "no server exists"
        return server + (f", owned by {self.foreign}" if self.foreign else "") + (", fenced" if self.fenced else "")


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """Whose the host is."""

    foreign: str = ""
    """Whom its claim names, when that is not us."""

    def __str__(self) -> str:
        return f"the host is claimed by {self.foreign}" if self.foreign else "nobody else claims the host"


def server_facts(server: Server | None, tag: OwnerTag, *, fenced: bool, kept: bool = False) -> ServerFacts:
    """The facts about a server as read; for planning and for running alike."""
    if server is None:
        return ServerFacts(exists=False, fenced=fenced, kept=kept)
    # Whose it is stands on a silent host: `ours` asks again before acting.
    foreign = "" if server.owner == tag or unread(server) else str(server.owner or NOBODY)
    return ServerFacts(
        exists=True,
        server_id=server.id,
        state=server.state.value,
        foreign=foreign,
        fenced=fenced,
        kept=kept,
        user=server.user,
    )


async def locate(provider: ServerProvider, name: str, server_id: str | None) -> Server | None:
    """The server: by its id, if it bears the name, else by its name. Lists may be late: only what an id says counts.

    The ids of an inventory are names that its editor may give to other machines; ours is the one whose claim says so.
    """
    known = await by_id(provider, server_id) if server_id else None
    if known is not None and (known.name == name or unread(known)):
        return known
    listed = await provider.find_server(name)
    return (await by_id(provider, listed.id) if listed is not None else None) or known


def unread(server: Server) -> bool:
    """Is it not known whose it is? That stands on its host, which does not answer."""
    return server.owner is None and bool(server.silent)


async def by_id(provider: ServerProvider, server_id: str) -> Server | None:
    """The server of that id, unless it is gone."""
    try:
        server = await provider.get_server(server_id)
    except NotFound:
        return None
    return None if server.state is ServerState.TERMINATED else server


def tag_of(ctx: ToolContext) -> OwnerTag:
    """The owner tag of the Instance the step is for."""
    return OwnerTag(cluster=ctx.cluster, namespace=ctx.resource.metadata.namespace, uid=ctx.resource.uid)


async def provider_of(ctx: ToolContext, params: ServerParams) -> ServerProvider:
    """The provider the step talks to."""
    return await ctx.providers.of(ctx.resource.metadata.namespace, params.provider)


async def read_server(ctx: ToolContext, params: ServerParams) -> ServerFacts:
    """Ask the provider now."""
    provider = await provider_of(ctx, params)
    server = await locate(provider, params.server, params.server_id)
    kept = not provider.capabilities.makes_servers
    return server_facts(server, tag_of(ctx), fenced="fence" in ctx.resource.spec.wire(), kept=kept)


async def read_claim(ctx: ToolContext, params: HostParams) -> HostFacts:
    """Ask the host now."""
    claimed_by = (await look(await connect(ctx, params), ctx.clock)).claimed_by
    return host_facts(claimed_by, tag_of(ctx))


def host_facts(claimed_by: str, tag: OwnerTag) -> HostFacts:
    """The facts about a host as read; for planning and for running alike."""
    return HostFacts(foreign=claimed_by if claimed_by not in ("", str(tag)) else "")


class HostPorts(Protocol):
    """What it takes to reach a host: `core.ports.Ports` (to observe) and `core.tool.ToolContext` (to act) have it."""

    @property
    def cluster(self) -> str: ...
    @property
    def machines(self) -> Machines: ...
    @property
    def providers(self) -> Providers: ...
    @property
    def secrets(self) -> Secrets: ...


async def connect(ctx: ToolContext, params: HostParams) -> Ssh:
    """The host of the Instance the step is for, verified. Raises what `locate`, `identify` and `connect` raise."""
    return await _connect(ctx, ctx.resource.key, ctx.resource.uid, params)


async def visit(ports: HostPorts, namespace: str, host: InstanceHost) -> Ssh:
    """The host of an Instance of that namespace, verified, over the connection that the Instance itself uses.

    Raises NotFound (no such server, or no key to it any more), ClaimedByOther, and what `connect` raises. Whoever
    refers to the Instance is woken when it changes its readiness, thus also when the connection is lost.
    """
    return await _connect(ports, Key("Instance", namespace, host.instance), host.instance_uid, host)


async def _connect(ports: HostPorts, instance: Key, uid: str, params: HostParams) -> Ssh:
    provider = await ports.providers.of(instance.namespace, params.provider)
    tag = OwnerTag(cluster=ports.cluster, namespace=instance.namespace, uid=uid)
    server = await existing(provider, params, tag)
    identity = await identify(
        ports.secrets,
        instance,
        server,
        host_key_secret=params.host_key_secret,
        client_key_secret=params.client_key_secret,
    )
    if not provider.capabilities.makes_servers and differ(server.host_key, identity.host_key):
        raise HostKeyMismatch(
            f"the inventory of {params.provider!r} says another host key of {server.id!r} than the pinned one"
            f" {fingerprint(identity.host_key)}: nothing is done on it until that is decided (condition"
            " HostKeyMismatch)"
        )
    return await ports.machines.connect(identity)


def differ(vouched: str, pinned: str) -> bool:
    """Are these two public keys, and not the same? Comments do not count."""
    return bool(vouched and pinned) and vouched.split()[:2] != pinned.split()[:2]


async def existing(provider: ServerProvider, params: ServerParams, tag: OwnerTag) -> Server:
    """The server the step was planned for. Raises NotFound, ClaimedByOther."""
    server = await locate(provider, params.server, params.server_id)
    if server is None:
        raise NotFound(f"server {params.server!r} does not exist: it is looked for and planned for anew")
    return ours(server, params, tag)


def ours(server: Server, params: ServerParams, tag: OwnerTag) -> Server:
    """The same conditions as in `holds`, at the last moment before acting."""
    if unread(server):
        raise Unavailable(f"whose server {server.name!r} ({server.id!r}) is cannot be read now: {server.silent}")
    if server.owner != tag:
        raise ClaimedByOther(f"server {server.name!r} ({server.id!r}) belongs to {server.owner}: it is left alone")
    if params.server_id is not None and server.id != params.server_id:
        raise NotFound(
            f"server {params.server_id!r} does not exist: {server.name!r} is {server.id!r} now; planned for anew"
        )
    return server


# What must hold: pure, asked when planned and right before running.


def owned(params: ServerParams, facts: ServerFacts) -> Refusal | None:
    """It is ours, and still the very server that was planned for."""
    if facts.foreign:
        message = f"server {params.server!r} belongs to {facts.foreign}: rename this Instance or delete that server"
        return Refusal(reason=Reason.CLAIMED_BY_OTHER, message=message)
    if params.server_id is not None and facts.exists and facts.server_id != params.server_id:
        message = f"server {params.server!r} is {facts.server_id!r} now; this was planned for {params.server_id!r}"
        return Refusal(reason=Reason.GONE, message=message)
    return None


def exists(params: ServerParams, facts: ServerFacts) -> Refusal | None:
    """It is there."""
    if facts.exists:
        return None
    return Refusal(reason=Reason.GONE, message=f"server {params.server!r} does not exist any more")


def not_fenced(params: ServerParams, facts: ServerFacts) -> Refusal | None:
    """Nothing powers on a fenced server."""
    if not facts.fenced:
        return None
    message = f"server {params.server!r} is fenced and stays off: whoever set spec.fence must lift it first"
    return Refusal(reason=Reason.FENCED, message=message)


def anyway(params: ServerParams, facts: ServerFacts) -> Refusal | None:
    """Nothing forbids it."""
    return None


Q = TypeVar("Q", bound=ServerParams)


def all_of(*checks: Callable[[Q, ServerFacts], Refusal | None]) -> Callable[[Q, ServerFacts], Refusal | None]:
    """The first refusal counts."""

    def holds(params: Q, facts: ServerFacts) -> Refusal | None:
        return next((refusal for check in checks if (refusal := check(params, facts))), None)

    return holds


def unclaimed_by_others(params: PrepareParams, facts: HostFacts) -> Refusal | None:
    """The same, but for the one it is taken over from."""
    return None if params.was and facts.foreign == params.was else unclaimed(params, facts)


def unclaimed(params: HostParams, facts: HostFacts) -> Refusal | None:
    """No other Instance has its mark on the host."""
    if not facts.foreign:
        return None
    message = f"the host of {params.server!r} is claimed by {facts.foreign}: remove {CLAIM_PATH} there if that is over"
    return Refusal(reason=Reason.CLAIMED_BY_OTHER, message=message)


def locks(params: ServerParams) -> tuple[str, ...]:
    """One step at a time on one server; many servers of a provider at once."""
    return (f"server/{params.server}",)
