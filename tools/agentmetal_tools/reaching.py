"""All the hosts that a Provider's key opens, and how to visit them all in one step. Used by `rotation`.

Which they are is asked anew at each call: the hosts of the Instances that refer to the Provider, and, where hosts are
not made but listed in an inventory, the free ones too, for claiming them takes the key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentmetal.core.errors import (
    AgentMetalError,
    AuthenticationFailed,
    HostKeyMismatch,
    Invalid,
    NotFound,
    StaleLeader,
)
from agentmetal.core.machine import MachineIdentity, OwnerTag, SecretKey, Server, ServerProvider, ServerState
from agentmetal.core.resource import AnyResource, Key
from agentmetal.core.tool import ToolContext
from agentmetal_tools.hosts import HOST_PUBLIC, host_key_secret_name

PARALLEL = 32
"""Hosts visited at once: a thousand silent ones cost three minutes."""
SHOWN = 8
INSTANCE = "Instance"


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host to visit."""

    name: str
    server: Server
    host_key: str
    """The pin: an Instance's own, else what the provider vouches for."""
    free: bool = False
    """No Instance is on it."""


@dataclass(kw_only=True)
class Hosts:
    """What was found."""

    there: dict[str, Host] = field(default_factory=dict)
    """By name."""
    away: dict[str, str] = field(default_factory=dict)
    """Cannot be visited now, and is waited for: name and why."""
    taken: set[str] = field(default_factory=set)
    """The ids of the servers that Instances are on."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Not ours to touch, or closed to us anyway: name and why."""


def visitor(resource: AnyResource) -> Key:
    """Whom connections made for a rotation are kept for. No object is called so, thus nobody is woken by their end,
    and they can be closed without closing anybody else's."""
    return Key(resource.kind, resource.metadata.namespace, f"{resource.metadata.name}/rotation")


def identity(ctx: ToolContext, host: Host, secret: str, key: str) -> MachineIdentity:
    """How to log in to it with that key of the Secret."""
    return MachineIdentity(
        owner=visitor(ctx.resource),
        server_id=host.server.id,
        address=host.server.addresses[0],
        port=host.server.port,
        user=host.server.user,
        host_key=host.host_key,
        client_key=SecretKey(namespace=ctx.resource.metadata.namespace, name=secret, key=key),
    )


async def together(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Make all calls, a bounded number at a time."""
    slots = asyncio.Semaphore(PARALLEL)

    async def one(call: Coroutine[Any, Any, None]) -> None:
        async with slots:
            await call

    await asyncio.gather(*(one(call) for call in calls))


async def find(ctx: ToolContext) -> Hosts:
    """All of them. Raises what asking the provider raises."""
    provider = await ctx.providers.of(ctx.resource.metadata.namespace, ctx.resource.metadata.name)
    found = Hosts()
    if not provider.capabilities.hosts:
        return found
    by_owner = {server.owner: server for server in await provider.list_servers() if server.owner is not None}
    referring = [key for key in ctx.lookup.referrers(ctx.resource.key) if key.kind == INSTANCE]
    instances = [instance for key in referring if (instance := ctx.lookup.get(key)) is not None]
    await together(_of_instance(ctx, provider, instance, by_owner, found) for instance in instances)
    listed = [name for name in inventory(ctx.resource) if name not in found.taken]
    await together(_of_inventory(provider, name, found) for name in listed)
    return found


def inventory(resource: AnyResource) -> tuple[str, ...]:
    """The names of the hosts that a Provider lists itself."""
    return tuple(host["name"] for host in resource.spec.wire().get("ssh", {}).get("hosts", ()))


async def visit(hosts: Hosts, call: Callable[[Host], Awaitable[object]]) -> None:
    """Call it for each host. Who cannot be visited is noted: a free host that is closed to us anyway as skipped.

    Nothing else is skipped: a full disk, say, passes, and then the host must not be locked.
    """

    async def one(host: Host) -> None:
        try:
            await call(host)
        except StaleLeader:
            raise
        except AgentMetalError as error:
            del hosts.there[host.name]
            closed = host.free and isinstance(error, AuthenticationFailed | HostKeyMismatch)
            (hosts.skipped if closed else hosts.away)[host.name] = error.message

    await together(one(host) for host in list(hosts.there.values()))


def told(named: dict[str, str]) -> str:
    """The first few of them, with the reason, and how many more."""
    shown = [f"{name} ({why[:160]})" for name, why in sorted(named.items())[:SHOWN]]
    more = len(named) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


async def _of_instance(
    ctx: ToolContext,
    provider: ServerProvider,
    instance: AnyResource,
    by_owner: Mapping[OwnerTag, Server],
    found: Hosts,
) -> None:
    name = f"Instance {instance.metadata.name}"
    tag = OwnerTag(cluster=ctx.cluster, namespace=instance.metadata.namespace, uid=instance.uid)
    try:
        server = by_owner.get(tag) or await _known(provider, instance)
        if server is None:
            return  # nothing was ordered yet: what is ordered from now on gets both keys
        found.taken.add(server.id)
        if server.owner not in (None, tag):
            found.skipped[name] = f"its server {server.id!r} belongs to {server.owner}"
        elif why := _unreachable(server):
            found.away[name] = why
        elif server.state is not ServerState.DECOMMISSIONING:
            found.there[name] = Host(name=name, server=server, host_key=await _pin(ctx, instance, server))
    except StaleLeader:
        raise
    except AgentMetalError as error:
        found.away[name] = error.message


async def _known(provider: ServerProvider, instance: AnyResource) -> Server | None:
    """The server that its status or its spec names; None when there is none (any more)."""
    server_id = instance.status.wire().get("providerID") or instance.spec.wire().get("adopt")
    if not server_id:
        return None
    try:
        server = await provider.get_server(server_id)
    except NotFound:
        if provider.capabilities.makes_servers:
            return None
        raise  # taken out of the inventory, but it may come back: then it must not be locked
    return None if server.state is ServerState.TERMINATED else server


async def _of_inventory(provider: ServerProvider, name: str, found: Hosts) -> None:
    place = f"host {name}"
    try:
        server = await provider.get_server(name)
    except StaleLeader:
        raise
    except AgentMetalError as error:
        found.away[place] = error.message
        return
    if server.owner is not None:
        found.skipped[place] = f"it is claimed by {server.owner}"
    else:
        found.there[place] = Host(name=place, server=server, host_key=server.host_key, free=True)


async def _pin(ctx: ToolContext, instance: AnyResource, server: Server) -> str:
    secret = host_key_secret_name(instance.metadata.name)
    try:
        held = await ctx.secrets.read(instance.metadata.namespace, secret)
    except NotFound:
        held = {}
    if pin := held.get(HOST_PUBLIC, b"").decode("ascii", "replace").strip() or server.host_key:
        return pin
    raise Invalid(f"nothing says which host key {server.name!r} has: put it into Secret {secret!r}")


def _unreachable(server: Server) -> str:
    """Why there is no use in dialling it; empty when there is."""
    if server.rescue:
        return "it runs its rescue system"
    if server.state in (ServerState.STOPPED, ServerState.STOPPING):
        return f"it is {server.state}: power it on"
    if server.state in (ServerState.REQUESTED, ServerState.PROVISIONING) or not server.addresses:
        return f"it is {server.state}"
    return ""
