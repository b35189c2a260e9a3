"""The tool that changes which host key is trusted. Planned by `agents.instance` only when a human named the new key.

Nothing is learned from the network here: what is shown is only compared with what was approved.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from agentmetal.clients.keys import fingerprint
from agentmetal.core.condition import Reason
from agentmetal.core.errors import HostKeyMismatch, NotFound
from agentmetal.core.machine import MachineIdentity, Server
from agentmetal.core.tool import Refusal, Result, StepEnd, ToolContext, tool
from agentmetal_tools.hosts import HOST_PRIVATE, HOST_PUBLIC, pinned
from agentmetal_tools.risks import risk_of
from agentmetal_tools.servers import HostParams, locate, locks, provider_of, tag_of

FINGERPRINT = r"^SHA256:[A-Za-z0-9+/]{43}$"


class RepinParams(HostParams):
    """Which key was trusted, and which one is to be."""

    was: str = Field(pattern=FINGERPRINT, description="Fingerprint of the pinned host key.")
    becomes: str = Field(pattern=FINGERPRINT, description="Fingerprint of the host key that is trusted from then on.")


@dataclass(frozen=True, kw_only=True)
class KeyFacts:
    """What is pinned, and what is shown."""

    exists: bool
    server_id: str = ""
    foreign: str = ""
    """Whose the server is, when that is not us."""
    pinned: str = ""
    shown: str = ""
    machine_id: str = ""
    """Of the machine that was known, for people."""
    shown_by: str = ""
    """Of the machine that shows the new key, as far as it is known."""

    def __str__(self) -> str:
        known = f"; the machine that was known had machine-id {self.machine_id}" if self.machine_id else ""
        says = "the same" if self.shown_by == self.machine_id else self.shown_by
        now = f"; the one that answers says {says}" if self.shown_by else ""
        return f"pinned is {self.pinned}, shown is {self.shown}{known}{now}"


def _repin(params: RepinParams) -> str:
    return f"Trust host key {params.becomes} of server {params.server!r} from now on, and no longer {params.was}"


async def _read(ctx: ToolContext, params: RepinParams) -> KeyFacts:
    server = await locate(await provider_of(ctx, params), params.server, params.server_id)
    if server is None:
        return KeyFacts(exists=False)
    identity = await _identity(ctx, params, server)
    return KeyFacts(
        exists=True,
        server_id=server.id,
        foreign=other_owner(server, str(tag_of(ctx))),
        pinned=fingerprint(identity.host_key),
        shown=fingerprint(await ctx.machines.shown_host_key(identity)),
    )


def other_owner(server: Server, ours: str) -> str:
    """Whose the server is, when it certainly is somebody else's: a machine that took another's place has no mark."""
    return str(server.owner) if server.owner is not None and str(server.owner) != ours else ""


def _as_approved(params: RepinParams, facts: KeyFacts) -> Refusal | None:
    """It is the same server, and exactly the two keys that a human has seen."""
    if not facts.exists or facts.server_id != params.server_id:
        message = f"server {params.server_id!r} does not exist any more"
        return Refusal(reason=Reason.GONE, message=message)
    if facts.foreign:
        message = f"server {params.server!r} belongs to {facts.foreign}: its key is not ours to trust"
        return Refusal(reason=Reason.CLAIMED_BY_OTHER, message=message)
    if facts.shown != params.becomes or facts.pinned not in (params.was, params.becomes):
        message = f"{facts} now, approved was {params.becomes} instead of {params.was}: nothing is trusted"
        return Refusal(reason=Reason.HOST_KEY_MISMATCH, message=message)
    return None


@tool(
    read=_read,
    risk=risk_of("repin_host"),
    holds=_as_approved,
    render=_repin,
    locks=locks,
    idempotent=True,
    proposable=False,
)
async def repin_host(ctx: ToolContext, params: RepinParams) -> StepEnd:
    """Trust another host key, the one that was approved, if it is what the host shows."""
    server = await locate(await provider_of(ctx, params), params.server, params.server_id)
    if server is None or server.id != params.server_id:
        raise NotFound(f"server {params.server_id!r} does not exist any more: it is looked for and planned for anew")
    shown = await ctx.machines.shown_host_key(await _identity(ctx, params, server))
    if fingerprint(shown) != params.becomes:
        raise HostKeyMismatch(f"shown is {fingerprint(shown)}, approved was {params.becomes}: nothing is trusted")
    # Of another key we have no private half: a rebuild makes a new pair.
    change = {HOST_PUBLIC: shown.encode(), HOST_PRIVATE: None}
    await ctx.secrets.change(ctx.resource, params.host_key_secret, change)
    await ctx.machines.forget(ctx.resource.key)
    return Result(message=f"host key {params.becomes} of server {params.server!r} is trusted")


async def _identity(ctx: ToolContext, params: RepinParams, server: Server) -> MachineIdentity:
    """Where to ask for the key."""
    held = await ctx.secrets.read(ctx.resource.metadata.namespace, params.host_key_secret)
    key = held.get(HOST_PUBLIC, b"").decode("ascii", "replace").strip()
    if not key:
        raise NotFound(f"Secret {params.host_key_secret!r} holds no host key that another one could replace")
    return pinned(server, ctx.resource.key, key, params.client_key_secret)
