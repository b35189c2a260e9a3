"""Tools of power: start, stop, reset, reboot, resize and rescue a server, and replace its disks. None deletes a server.

Planned by `agents.instance`, run by the executor. All may be called again at any moment: they look before they act
and they touch nothing that carries another owner tag.
"""

from __future__ import annotations

import asyncio

from pydantic import Field

from agentmetal.core.errors import AuthenticationFailed, CommandFailed, Permanent, Unavailable
from agentmetal.core.machine import Server, ServerProvider, ServerState, Ssh, UnitPhase, UnitState
from agentmetal.core.tool import NotYet, Result, StepEnd, ToolContext, tool
from agentmetal_tools.hosts import POLL, boot_of
from agentmetal_tools.orders import server_spec
from agentmetal_tools.risks import risk_of
from agentmetal_tools.servers import (
    HostParams,
    ProvisionParams,
    ServerParams,
    StopParams,
    all_of,
    connect,
    existing,
    exists,
    locks,
    not_fenced,
    owned,
    provider_of,
    read_server,
    tag_of,
)

# What they are told.


class RebootParams(HostParams):
    """Which boot is to end, and since when that is wanted."""

    asked_for: str = Field(max_length=64, description="The time of agentmetal.io/reboot-at, in UTC.")
    boot_id: str = Field(
        max_length=64, alias="bootID", description="The boot that was seen; another one ends the step."
    )


class ResizeParams(ServerParams):
    """What it shall be."""

    type: str = Field(max_length=63, description="The size.")
    on: bool = Field(default=True, description="Power it on again when it cannot have that type.")


# One line for people, in plans and approvals.


def _start(params: ServerParams) -> str:
    return f"Power on server {params.server!r}"


def _stop(params: StopParams) -> str:
    if params.force:
        return f"Cut the power of server {params.server!r}"
    return f"Shut down server {params.server!r}, by force after {params.grace_seconds} s"


def _reset(params: ServerParams) -> str:
    return f"Reset server {params.server!r}"


def _reboot(params: RebootParams) -> str:
    return f"Reboot the host of server {params.server!r}, as asked for at {params.asked_for}"


def _resize(params: ResizeParams) -> str:
    return f"Make server {params.server!r} one of type {params.type!r}"


def _rescue(params: ServerParams) -> str:
    return f"Restart server {params.server!r} into its rescue system, its disks below /mnt"


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
    leave_after=False,  # whoever stops a server to start it again must not be left in between
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


async def _forget_units(ctx: ToolContext, params: RebootParams) -> None:
    await (await connect(ctx, params)).forget_units(ctx.operation)


@tool(
    read=read_server,
    risk=risk_of("reboot_host"),
    holds=all_of(owned, exists, not_fenced),
    render=_reboot,
    locks=locks,
    idempotent=True,
    timeout=90.0,
    patience=900.0,
    releases_while_waiting=True,
    clean_up=_forget_units,
)
async def reboot_host(ctx: ToolContext, params: RebootParams) -> StepEnd:
    """Reboot a host through its own system, and wait until another boot of it answers."""
    try:
        host = await connect(ctx, params)
        boot = await boot_of(host)
        if boot.id and boot.id != params.boot_id:
            return Result(message=f"the host of server {params.server!r} has rebooted")
        return await _reboot_by_unit(ctx, host, params)
    except (Unavailable, AuthenticationFailed) as error:  # users other than root are refused while it goes down
        return NotYet(again_in=POLL, message=f"server {params.server!r} does not answer yet: {error.message}")


@tool(
    read=read_server,
    risk=risk_of("resize_instance"),
    holds=all_of(owned, exists, not_fenced),
    render=_resize,
    locks=locks,
    idempotent=True,
    timeout=120.0,
    leave_after=False,
)
async def resize_instance(ctx: ToolContext, params: ResizeParams) -> StepEnd:
    """Give a server that is off another type; one that cannot have it is powered on again."""
    provider, tag = await provider_of(ctx, params), tag_of(ctx)
    server = await existing(provider, params, tag)
    if server.type == params.type:
        return Result(message=f"server {params.server!r} is of type {params.type!r}")
    try:
        await provider.resize_server(server.id, params.type)
    except Permanent:  # the plan ends here, and nobody is left switched off
        if params.on:
            await provider.start_server(server.id)
        raise
    return NotYet(again_in=POLL, message=f"server {params.server!r} gets type {params.type!r}")


@tool(
    read=read_server,
    risk=risk_of("rescue_instance"),
    holds=all_of(owned, exists, not_fenced),
    render=_rescue,
    locks=locks,
    idempotent=True,
    timeout=120.0,
)
async def rescue_instance(ctx: ToolContext, params: ServerParams) -> StepEnd:
    """Restart a server into its rescue system."""
    provider = await provider_of(ctx, params)
    server = await existing(provider, params, tag_of(ctx))
    if server.rescue:
        return await until_running(provider, server)
    await provider.rescue_server(server.id)
    await ctx.machines.forget(ctx.resource.key)
    return NotYet(again_in=POLL, message=f"server {params.server!r} goes into its rescue system")


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


async def _reboot_by_unit(ctx: ToolContext, host: Ssh, params: RebootParams) -> StepEnd:
    """Order the reboot, once for this attempt. However the command ends: done it is when another boot answers."""
    state = await ctx.unit(host, ("systemctl", "reboot"), timeout=60.0)
    if state.phase is UnitPhase.ENDED and not _carried_out(state):
        how = f"killed by {state.killed_by}" if state.killed_by else f"exit code {state.exit_code}"
        raise CommandFailed(f"the host of server {params.server!r} does not reboot ({how}): {state.output[-400:]!r}")
    return NotYet(again_in=POLL, message=f"the host of server {params.server!r} is still in the boot that is to end")


def _carried_out(state: UnitState) -> bool:
    """A host on its way down kills what runs, also the command that sent it there."""
    return state.exit_code == 0 or state.killed_by in ("TERM", "KILL", "HUP")


async def _stopped_within(provider: ServerProvider, server: Server, seconds: float) -> Server:
    """The server once it is off, or as it is when the grace is over. Providers have no events: it is asked."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (server := await provider.get_server(server.id)).state is not ServerState.STOPPED:
        if asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(POLL)
    return server
