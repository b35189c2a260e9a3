"""Tools of power: start, stop and reset a server, and replace its disks. Nothing here deletes a server.

Planned by `agents.instance`, run by the executor. All may be called again at any moment: they look before they act
and they touch nothing that carries another owner tag.
"""

from __future__ import annotations

import asyncio

from agentmetal.core.machine import Server, ServerProvider, ServerState
from agentmetal.core.tool import NotYet, Result, StepEnd, ToolContext, tool
from agentmetal_tools.hosts import POLL
from agentmetal_tools.orders import server_spec
from agentmetal_tools.risks import risk_of
from agentmetal_tools.servers import (
    ProvisionParams,
    ServerParams,
    StopParams,
    all_of,
    existing,
    exists,
    locks,
    not_fenced,
    owned,
    provider_of,
    read_server,
    tag_of,
)

# One line for people, in plans and approvals.


def _start(params: ServerParams) -> str:
    return f"Power on server {params.server!r}"


def _stop(params: StopParams) -> str:
    if params.force:
        return f"Cut the power of server {params.server!r}"
    return f"Shut down server {params.server!r}, by force after {params.grace_seconds} s"


def _reset(params: ServerParams) -> str:
    return f"Reset server {params.server!r}"


def _rebuild(params: ProvisionParams) -> str:
    return f"Replace the disks of server {params.server!r} by image {params.image!r}: all data on it is deleted"


# The tools.


@tool(
    read=read_server,
    risk=risk_of("start_instance"),
    holds=all_of(owned, exists, not_fenced),
    render=_start,
    locks=locks,
    idempotent=True,
)
async def start_instance(ctx: ToolContext, params: ServerParams) -> StepEnd:
    """Power a server on."""
    provider = await provider_of(ctx, params)
    return await until_running(provider, await existing(provider, params, tag_of(ctx)))


@tool(
    read=read_server,
    risk=risk_of("stop_instance"),
    holds=all_of(owned, exists),
    render=_stop,
    locks=locks,
    idempotent=True,
    timeout=180.0,
)
async def stop_instance(ctx: ToolContext, params: StopParams) -> StepEnd:
    """Shut a server down, by force after a grace; or cut its power at once."""
    provider, tag = await provider_of(ctx, params), tag_of(ctx)
    server = await existing(provider, params, tag)
    if server.state is not ServerState.STOPPED and not params.force:
        await provider.stop_server(server.id)
        server = await _stopped_within(provider, server, params.grace_seconds)
    if server.state is not ServerState.STOPPED:
        await provider.stop_server(server.id, force=True)
        server = await existing(provider, params, tag)
    if server.state is not ServerState.STOPPED:
        return NotYet(again_in=POLL, message=f"server {params.server!r} is {server.state}")
    await ctx.machines.forget(ctx.resource.key)
    return Result(message=f"server {params.server!r} is off")


@tool(
    read=read_server,
    risk=risk_of("reboot_instance"),
    holds=all_of(owned, exists, not_fenced),
    render=_reset,
    locks=locks,
    idempotent=True,
)
async def reboot_instance(ctx: ToolContext, params: ServerParams) -> StepEnd:
    """Restart a server by force, for its host does not answer."""
    provider = await provider_of(ctx, params)
    server = await existing(provider, params, tag_of(ctx))
    await provider.reboot_server(server.id, force=True)
    await ctx.machines.forget(ctx.resource.key)
    return Result(message=f"server {params.server!r} was reset")


@tool(
    read=read_server,
    risk=risk_of("rebuild_instance"),
    holds=all_of(owned, exists, not_fenced),
    render=_rebuild,
    locks=locks,
    idempotent=True,
    timeout=120.0,
    patience=3600.0,
    releases_while_waiting=True,
    proposable=False,
)
async def rebuild_instance(ctx: ToolContext, params: ProvisionParams) -> StepEnd:
    """Replace a server's disks by an image; what was on them is deleted, its address and host key stay."""
    provider = await provider_of(ctx, params)
    server = await existing(provider, params, tag_of(ctx))
    if server.image != params.image:
        await provider.rebuild_server(server.id, await server_spec(ctx, params))
        await ctx.machines.forget(ctx.resource.key)
        return NotYet(again_in=POLL, message=f"server {params.server!r} gets image {params.image!r}")
    return await until_running(provider, server)


# Parts of tools.


async def until_running(provider: ServerProvider, server: Server) -> StepEnd:
    """It runs; powered on when it is off. The part that ordering, starting and rebuilding share."""
    if server.state is ServerState.RUNNING:
        return Result(message=f"server {server.name!r} ({server.id!r}) runs")
    if server.state is ServerState.STOPPED:
        await provider.start_server(server.id)
    return NotYet(again_in=POLL, message=f"server {server.name!r} is {server.state}")


async def _stopped_within(provider: ServerProvider, server: Server, seconds: float) -> Server:
    """The server once it is off, or as it is when the grace is over. Providers have no events: it is asked."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (server := await provider.get_server(server.id)).state is not ServerState.STOPPED:
        if asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(POLL)
    return server
