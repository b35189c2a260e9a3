"""Tools of the Instance domain: order a server, prepare it, decommission or release it.

Planned by `agents.instance`, run by the executor. All may be called again at any moment: they look before they act,
they touch nothing that carries another owner tag, and they find what earlier steps made by its name.
"""

from __future__ import annotations

import asyncio

from agentmetal.core.claim import CLAIM_PATH, Claim, claimant
from agentmetal.core.condition import Reason
from agentmetal.core.errors import ClaimedByOther, CommandFailed, Forbidden, NotFound, Permanent, Transient, Unavailable
from agentmetal.core.machine import Server, ServerProvider
from agentmetal.core.tool import NotYet, Refusal, Result, StepEnd, ToolContext, tool
from agentmetal_tools.adoption import clear_if_possible, give_back, let_go, mark, pin
from agentmetal_tools.hosts import POLL, end_of
from agentmetal_tools.orders import server_spec
from agentmetal_tools.power import until_running
from agentmetal_tools.risks import risk_of
from agentmetal_tools.servers import (
    DecommissionParams,
    HostParams,
    PrepareParams,
    ProvisionParams,
    ServerFacts,
    ServerParams,
    all_of,
    anyway,
    connect,
    existing,
    locate,
    locks,
    not_fenced,
    ours,
    owned,
    provider_of,
    read_claim,
    read_server,
    tag_of,
    unclaimed_by_others,
)
from agentmetal_tools.userdata import forget_units

# One line for people, in plans and approvals.


def _order(params: ProvisionParams) -> str:
    if not params.hostname:
        return f"Claim a machine of type {params.type!r} in the inventory of {params.provider!r} as {params.server!r}"
    return f"Order server {params.server!r} of type {params.type!r} with image {params.image!r} at {params.provider!r}"


def _await(params: HostParams) -> str:
    return f"Wait until server {params.server!r} answers and proves who it is"


def _prepare(params: PrepareParams) -> str:
    name = f", call it {params.hostname!r}" if params.hostname else ""
    return f"Claim the host of server {params.server!r}, install the command wrapper{name}"


def _decommission(params: DecommissionParams) -> str:
    if params.kept:
        return f"Let go of {params.server_id or params.server!r}: all of ours is removed, the rest stays as it is"
    if params.server_id is None:
        return f"Make sure that there is no server {params.server!r}"
    return f"Delete server {params.server!r} ({params.server_id}) and its disks"


def _release(params: HostParams) -> str:
    return f"Let go of server {params.server!r}: it stays as it is"


# The tools.


def _as_said(params: DecommissionParams, facts: ServerFacts) -> Refusal | None:
    """Who was told that a machine is only let go of never finds it deleted."""
    if params.kept == facts.kept:
        return None
    return Refusal(reason=Reason.NOT_SUPPORTED, message=f"Provider {params.provider!r} is another one: planned anew")


@tool(
    read=read_server,
    risk=risk_of("provision_instance"),
    holds=all_of(owned, not_fenced),
    render=_order,
    locks=locks,
    idempotent=True,
    timeout=120.0,
    patience=3600.0,
    releases_while_waiting=True,
)
async def provision_instance(ctx: ToolContext, params: ProvisionParams) -> StepEnd:
    """Order a server, or find the one ordered before, and see that it runs."""
    provider = await provider_of(ctx, params)
    if not provider.capabilities.makes_servers:
        claimed = await _claimed(ctx, params, provider)
        return Result(message=f"server {claimed.id!r} of the inventory is ours")
    listed = await locate(provider, params.server, params.server_id)
    ordered = listed or await provider.provision_server(await server_spec(ctx, params))
    server = ours(ordered, params, tag_of(ctx))
    ended = await until_running(provider, server)
    if listed is None and await locate(provider, params.server, None) is None:  # the next steps look for it by its name
        return NotYet(again_in=POLL, message=f"server {server.name!r} ({server.id!r}) is not listed yet")
    return ended


@tool(
    read=read_server,
    risk=risk_of("wait_for_ready"),
    holds=all_of(owned, not_fenced),
    render=_await,
    idempotent=True,
    patience=600.0,
    releases_while_waiting=True,
)
async def wait_for_ready(ctx: ToolContext, params: HostParams) -> StepEnd:
    """Wait until the host answers SSH with the pinned key."""
    try:
        host = await connect(ctx, params)
        await host.run(["true"])
    except Unavailable as error:
        return NotYet(again_in=POLL, message=f"server {params.server!r} does not answer yet: {error.message}")
    return Result(message=f"server {params.server!r} answers with the pinned host key")


@tool(
    read=read_claim,
    risk=risk_of("prepare_host"),
    holds=unclaimed_by_others,
    render=_prepare,
    locks=locks,
    idempotent=True,
    timeout=90.0,
    clean_up=forget_units,
)
async def prepare_host(ctx: ToolContext, params: PrepareParams) -> StepEnd:
    """Claim the host, install the command wrapper and set the hostname."""
    host, tag = await connect(ctx, params), tag_of(ctx)
    # The claim comes first: on a host that is somebody else's nothing is installed.
    held = await host.create_file(CLAIM_PATH, Claim.of(tag).file())
    if claimant(held) == params.was:  # approved with the server itself: whoever that was is gone
        await host.swap_file(CLAIM_PATH, held, Claim.of(tag).file())
        held = await host.create_file(CLAIM_PATH, Claim.of(tag).file())
    holder = claimant(held)
    if holder != str(tag):
        raise ClaimedByOther(f"the host of {params.server!r} is claimed by {holder}: it is left alone")
    await host.install_wrapper(epoch=ctx.epoch)
    if not params.hostname:
        return Result(message=f"prepared the host of {params.server!r}; its name stays as it is")
    state = await ctx.unit(host, ("hostnamectl", "set-hostname", "--", params.hostname), timeout=60.0)
    return end_of(state, doing=f"setting the hostname {params.hostname!r}", done=f"prepared {params.hostname!r}")


@tool(
    read=read_server,
    risk=risk_of("decommission_instance"),
    holds=all_of(owned, _as_said),
    render=_decommission,
    locks=locks,
    idempotent=True,
    timeout=300.0,
    proposable=False,
)
async def decommission_instance(ctx: ToolContext, params: DecommissionParams) -> StepEnd:
    """Delete a server with its disks, make sure that it is gone, and let go of its host key."""
    provider, tag = await provider_of(ctx, params), tag_of(ctx)
    if not provider.capabilities.makes_servers:
        message = await let_go(ctx, provider, params)
        await _forget(ctx, params)
        return Result(message=f"server {params.server!r} is let go of: {message}")
    server = await locate(provider, params.server, params.server_id)
    if server is None:
        server = await _shows_up(provider, params)
    if server is None:
        await _forget(ctx, params)
        return Result(message=f"server {params.server!r} does not exist")
    if params.server_id is None:
        # Planned as harmless, for nothing was there: deleting this one takes another plan and its approval.
        raise CommandFailed(f"server {params.server!r} ({server.id!r}) has shown up late: planned for anew")
    # Also when it is being deleted already: whoever began may have died, and only another call goes on where he was.
    await provider.decommission_server(ours(server, params, tag).id, tag)
    return NotYet(again_in=POLL, message=f"server {params.server!r} is being deleted")


async def _read_if_possible(ctx: ToolContext, params: HostParams) -> ServerFacts:
    """Letting go must be possible when the Provider is gone or disabled, too."""
    try:
        return await read_server(ctx, params)
    except (NotFound, Forbidden):
        return ServerFacts(exists=False)


@tool(
    read=_read_if_possible,
    risk=risk_of("release_instance"),
    holds=anyway,
    render=_release,
    locks=locks,
    idempotent=True,
    proposable=False,
)
async def release_instance(ctx: ToolContext, params: HostParams) -> StepEnd:
    """Take everything of ours off a host and let go of its key; the server and its data stay."""
    message = await clear_if_possible(ctx, params)
    await _give_back_if_possible(ctx, params)
    await _forget(ctx, params)
    return Result(message=f"server {params.server!r} is released: {message}")


# Parts of tools.


async def _forget(ctx: ToolContext, params: HostParams) -> None:
    """No connection and no key of its are kept: whether a teardown is over is seen by the Secret."""
    await ctx.machines.forget(ctx.resource.key)
    await ctx.secrets.release(ctx.resource.metadata.namespace, params.host_key_secret)


async def _claimed(ctx: ToolContext, params: ProvisionParams, provider: ServerProvider) -> Server:
    """A machine of the inventory, with the key pinned that the inventory says. After a crash it is the same one."""
    await mark(ctx, params)
    ordered = await provider.provision_server(await server_spec(ctx, params, host_key=""))
    server = ours(ordered, params, tag_of(ctx))
    await pin(ctx, params, server)
    return server


async def _give_back_if_possible(ctx: ToolContext, params: HostParams) -> None:
    try:
        provider = await provider_of(ctx, params)
        server = None if provider.capabilities.makes_servers else await existing(provider, params, tag_of(ctx))
        if server is not None:
            await give_back(ctx, provider, params, server)
    except (Transient, Permanent):
        pass  # its host is as free as it can be made now; `clear_if_possible` has said so


async def _shows_up(provider: ServerProvider, params: ServerParams) -> Server | None:
    """A server that was ordered a moment ago and that lists did not show yet."""
    deadline = asyncio.get_running_loop().time() + provider.capabilities.settles_after
    while (server := await locate(provider, params.server, params.server_id)) is None:
        if asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(POLL)
    return server
