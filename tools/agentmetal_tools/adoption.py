"""The tool that takes over a machine that exists already, and the parts by which one is let go of.

Planned by `agents.instance`, run by the executor. All may be called again at any moment; `instance.py` uses the parts.
A host key is pinned from what the provider vouches for, once; whoever changes that later changes no pin.
"""

from __future__ import annotations

import contextlib

from pydantic import Field

from agentmetal.clients.keys import fingerprint
from agentmetal.clients.ssh.wrapper import PATH as WRAPPER_PATH
from agentmetal.core.claim import CLAIM_PATH, claimant
from agentmetal.core.condition import Reason
from agentmetal.core.errors import (
    ClaimedByOther,
    CommandFailed,
    HostKeyMismatch,
    NotFound,
    Permanent,
    Transient,
    Unavailable,
)
from agentmetal.core.machine import OwnerTag, Server, ServerProvider, Ssh
from agentmetal.core.tool import Refusal, Result, StepEnd, ToolContext, tool
from agentmetal_tools.hosts import HOST_PUBLIC, HOST_SERVER, USER_DATA_LOG
from agentmetal_tools.looks import USER_DATA_PATH, look
from agentmetal_tools.risks import risk_of
from agentmetal_tools.servers import (
    NOBODY,
    HostParams,
    ServerFacts,
    ServerParams,
    all_of,
    connect,
    differ,
    exists,
    locate,
    locks,
    not_fenced,
    provider_of,
    read_server,
    tag_of,
    unread,
)

DIRECTORY = "/var/lib/agentmetal"
"""Where everything of ours is on a host but the wrapper itself."""


class AdoptParams(HostParams):
    """What to take over, from whom."""

    server_id: str = Field(min_length=1, max_length=253, alias="serverID", description="Its id at the provider.")
    was: str = Field(default="", max_length=512, description="The owner tag it carries; empty: it is nobody's.")
    host_key: str = Field(
        default="", max_length=128, description="Fingerprint of the host key to pin; empty where there are no hosts."
    )


# One line for people, in plans and approvals.


def _adopt(params: AdoptParams) -> str:
    whose = f"which carries the mark of {params.was}" if params.was else "which is nobody's"
    key = f", and trust its host key {params.host_key}" if params.host_key else ""
    return f"Take over server {params.server_id!r} of {params.provider!r}, {whose}{key}"


# What must hold.


def _as_planned(params: AdoptParams, facts: ServerFacts) -> Refusal | None:
    """It is still whose it was when this was planned (and approved)."""
    if facts.foreign in ("", params.was) or (not params.was and facts.foreign == NOBODY):
        return None
    message = f"server {params.server_id!r} belongs to {facts.foreign} now: it is left alone"
    return Refusal(reason=Reason.CLAIMED_BY_OTHER, message=message)


# The tool.


@tool(
    read=read_server,
    risk=risk_of("adopt_instance"),
    holds=all_of(_as_planned, exists, not_fenced),
    render=_adopt,
    locks=locks,
    idempotent=True,
    timeout=60.0,
    proposable=False,
)
async def adopt_instance(ctx: ToolContext, params: AdoptParams) -> StepEnd:
    """Make a server that exists this Instance's, and pin the host key that its provider vouches for."""
    provider = await provider_of(ctx, params)
    server = await provider.get_server(params.server_id)
    shown = fingerprint(server.host_key) if server.host_key else ""
    if shown != params.host_key:
        raise HostKeyMismatch(
            f"provider {params.provider!r} says host key {shown or 'none'} of {params.server_id!r} now, planned was"
            f" {params.host_key or 'none'}: planned for anew"
        )
    await mark(ctx, params)
    was = OwnerTag.parse(params.was) if params.was else None
    adopted = await provider.adopt_server(params.server_id, params.server, tag_of(ctx), was=was)
    await pin(ctx, params, adopted)
    return Result(message=f"server {params.server_id!r} is ours")


# Parts of tools: the beginning and the end of what we hold of a server that we did not make.


async def mark(ctx: ToolContext, params: HostParams) -> None:
    """Note, before anything is claimed, that something may have been. What the Secret holds already stays."""
    await ctx.secrets.create_once(ctx.resource, params.host_key_secret, {})


async def pin(ctx: ToolContext, params: HostParams, server: Server) -> None:
    """Store the host key that the provider vouches for, once. Raises HostKeyMismatch when another one is pinned."""
    held = await ctx.secrets.read(ctx.resource.metadata.namespace, params.host_key_secret)
    pinned = held.get(HOST_PUBLIC, b"").decode("ascii", "replace").strip()
    if differ(server.host_key, pinned):
        raise HostKeyMismatch(
            f"pinned is {fingerprint(pinned)}, provider {params.provider!r} says {fingerprint(server.host_key)} of"
            f" {server.id!r}: the pin stays until a human decides (annotation agentmetal.io/repin)"
        )
    if not pinned or HOST_SERVER not in held:
        data = {HOST_PUBLIC: (pinned or server.host_key).encode(), HOST_SERVER: server.id.encode()}
        await ctx.secrets.change(ctx.resource, params.host_key_secret, data)


async def clear_host(ctx: ToolContext, params: HostParams) -> str:
    """Take everything of ours off a host, the claim last; a sentence about it. Raises what `connect` raises."""
    host = await connect(ctx, params)
    holder = (await look(host, ctx.clock)).claimed_by
    if holder and holder != str(tag_of(ctx)):
        return f"it is claimed by {holder}"
    await host.remove_wrapper(epoch=ctx.epoch)
    for path in (USER_DATA_PATH, USER_DATA_LOG):
        await host.remove_file(path)
    if holder:  # where there was none, one that is there now is somebody else's
        held = await host.run(["cat", "--", CLAIM_PATH])
        if held.exit_code != 0:
            raise Unavailable(f"the claim {CLAIM_PATH} cannot be read: {held.stderr.strip()[:200]!r}")
        if claimant(held.stdout) == holder:
            await host.swap_file(CLAIM_PATH, held.stdout.encode(), None)
    await _remove_directory(host)
    return "nothing of ours is left on it"


async def _remove_directory(host: Ssh) -> None:
    """Ours, when nothing is in it: another operator may have claimed the host in this very moment."""
    await host.run(["rmdir", "--ignore-fail-on-non-empty", "--", DIRECTORY])


async def clear_if_possible(ctx: ToolContext, params: HostParams) -> str:
    """The same as far as the host lets us: nobody should be kept by a dead host from letting go of it."""
    try:
        return await clear_host(ctx, params)
    except (Transient, Permanent, CommandFailed) as error:  # whatever is wrong with it: it is said, and it stays
        return f"its claim {CLAIM_PATH} may still be there ({error.message})"


async def give_back(ctx: ToolContext, provider: ServerProvider, params: ServerParams, server: Server) -> None:
    """Tell the provider of an inventory that a server is nobody's any more; by then it may be somebody else's."""
    with contextlib.suppress(ClaimedByOther):
        await provider.decommission_server(server.id, tag_of(ctx))


async def let_go(ctx: ToolContext, provider: ServerProvider, params: HostParams) -> str:
    """The end of a claim in an inventory: only a host that answers is certainly free afterwards.

    Raises Unavailable while it does not answer, NotFound while it is not listed.
    """
    server = await locate(provider, params.server, params.server_id)
    if server is None:
        raise NotFound(
            f"server {params.server_id or params.server!r} is not in the inventory of {params.provider!r}: put its"
            " entry back, or set deletionPolicy Retain"
        )
    if unread(server):
        raise Unavailable(f"server {server.id!r} does not answer: {server.silent}")
    if server.owner != tag_of(ctx):
        return "it was not ours any more"
    message = await _cleared(ctx, params)
    await give_back(ctx, provider, params, server)
    return message


async def _cleared(ctx: ToolContext, params: HostParams) -> str:
    """What became of our files. Without a pin nobody logs in to remove them; the provider takes the claim off."""
    try:
        held = await ctx.secrets.read(ctx.resource.metadata.namespace, params.host_key_secret)
    except NotFound:
        return f"its Secret is gone, so what we installed is still there: remove {DIRECTORY} and {WRAPPER_PATH}"
    return await clear_host(ctx, params) if held.get(HOST_PUBLIC) else "nothing was installed on it"
