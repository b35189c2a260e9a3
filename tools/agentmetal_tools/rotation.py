"""Tools of the Provider domain that rotate its client key, with an overlap: make, spread, switch, revoke.

Planned by `agents.provider.rotation`, run by the executor. Each looks where the rotation is before it acts, so it may
be called again at any moment. Nobody is ever locked out: the key is switched only once all hosts accepted the next
one, the old one is taken off a host only over a login with the new one, and both private halves are kept till the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydantic import Field

from agentmetal.clients.keys import make_key_pair
from agentmetal.core.clock import rfc3339
from agentmetal.core.condition import Reason
from agentmetal.core.errors import AuthenticationFailed, Conflict, NotFound, Transient
from agentmetal.core.machine import Ssh
from agentmetal.core.tool import NotYet, Refusal, Result, StepEnd, ToolContext, tool
from agentmetal_tools import login_keys, reaching
from agentmetal_tools.hosts import CLIENT_PRIVATE, CLIENT_PUBLIC
from agentmetal_tools.login_keys import NEXT_PRIVATE, NEXT_PUBLIC, PREVIOUS_PRIVATE, PREVIOUS_PUBLIC, Stage, text
from agentmetal_tools.provider import ProviderKeyParams
from agentmetal_tools.risks import risk_of

PATIENCE = 3600.0
LOOK_AGAIN = 10.0
"""Seconds between two rounds while hosts are away."""
CLOCKS_DIFFER = timedelta(seconds=5)
"""By so much the clock of the leader before us may have been ahead."""
REST = 0.06
"""Seconds more for each host that is there: a round reads its pin and its claim again, and one dead host among a
thousand must not keep us busy with the others."""
ROUND = 600.0
"""Seconds of one round: a thousand silent hosts need three minutes."""


class RotationParams(ProviderKeyParams):
    """Which key, and which rotation of it."""

    rotation: str = Field(max_length=64, description="The value of agentmetal.io/rotate that asked for it.")


class RevokeParams(RotationParams):
    """When the old key may go."""

    overlap_seconds: int = Field(
        ge=0, le=86400, description="How long new servers must have got both keys: longer than any order takes."
    )


@dataclass(frozen=True, kw_only=True)
class RotationFacts:
    """Where the rotation is."""

    stage: Stage
    ours: bool
    """We made the Secret."""

    def __str__(self) -> str:
        return self.stage.value if self.ours else "the client key is not ours"


def refusal(secret: str, facts: RotationFacts) -> Refusal | None:
    """A key that we made can be rotated, and no other."""
    if facts.stage is Stage.NONE:
        return Refusal(reason=Reason.SECRET_MISSING, message=f"Secret {secret!r} holds no key pair to rotate")
    if not facts.ours:
        text = f"Secret {secret!r} was not made by AgentMetal: rotate the key in it yourself, or delete it, then one of"
        return Refusal(reason=Reason.SECRET_NOT_USABLE, message=f"{text} our own is made")
    return None


async def read_rotation(ctx: ToolContext, params: ProviderKeyParams) -> RotationFacts:
    """Ask the Secret now."""
    try:
        held = await ctx.secrets.read(ctx.resource.metadata.namespace, params.secret)
    except NotFound:
        return RotationFacts(stage=Stage.NONE, ours=True)
    return RotationFacts(stage=login_keys.stage_of(held), ours=await ctx.secrets.ours(ctx.resource, params.secret))


def _holds(params: ProviderKeyParams, facts: RotationFacts) -> Refusal | None:
    return refusal(params.secret, facts)


def _locks(params: ProviderKeyParams) -> tuple[str, ...]:
    return (f"provider/{params.provider}",)


async def _hang_up(ctx: ToolContext, params: ProviderKeyParams) -> None:
    await ctx.machines.forget(reaching.visitor(ctx.resource))


# One line for people, in plans and approvals.


def _make(params: RotationParams) -> str:
    return f"Make the next key of {params.provider!r} beside the current one, in Secret {params.secret!r}"


def _spread(params: RotationParams) -> str:
    return f"Let the next key of {params.provider!r} log in to every host, and prove it"


def _switch(params: RotationParams) -> str:
    return f"Log in to servers of {params.provider!r} with the next key from now on"


def _revoke(params: RevokeParams) -> str:
    when = f"{params.overlap_seconds} s after the next one was made at the earliest"
    return f"Take the previous key of {params.provider!r} off every host, {when}"


# The tools.


@tool(
    read=read_rotation,
    risk=risk_of("make_next_key"),
    holds=_holds,
    render=_make,
    locks=_locks,
    idempotent=True,
    timeout=30.0,
    proposable=False,
)
async def make_next_key(ctx: ToolContext, params: RotationParams) -> StepEnd:
    """Make a provider's next client key beside the current one; one that was made before is kept."""
    held = await ctx.secrets.read(ctx.resource.metadata.namespace, params.secret)
    if login_keys.stage_of(held) is not Stage.STEADY:
        return Result(message=f"Secret {params.secret!r} holds the next key already")
    if params.rotation and login_keys.rotation_done(held) == params.rotation:
        return Result(message=f"rotation {params.rotation!r} is done already")
    pair = make_key_pair(
        f"agentmetal {ctx.resource.metadata.namespace}/{params.provider} {params.rotation[:32]}".strip()
    )
    made = {
        NEXT_PRIVATE: pair.private_openssh.encode(),
        NEXT_PUBLIC: pair.public_line.encode(),
        login_keys.NEXT_SINCE: rfc3339(ctx.clock.now()).encode(),
    }
    await _hang_up(ctx, params)  # what an earlier next key opened would pass for a login with this one
    await ctx.secrets.change(ctx.resource, params.secret, made)
    return Result(message=f"Secret {params.secret!r} holds the next key {pair.fingerprint}")


@tool(
    read=read_rotation,
    risk=risk_of("spread_key"),
    holds=_holds,
    render=_spread,
    locks=_locks,
    idempotent=True,
    timeout=ROUND,
    patience=PATIENCE,
    releases_while_waiting=True,
    proposable=False,
    clean_up=_hang_up,
)
async def spread_key(ctx: ToolContext, params: RotationParams) -> StepEnd:
    """Let a provider's next client key log in to all its hosts, and prove on each that it does."""
    held = await ctx.secrets.read(ctx.resource.metadata.namespace, params.secret)
    if login_keys.stage_of(held) is not Stage.SPREADING:
        return Result(message="there is no next key to spread")
    return await _round(ctx, _accepting(ctx, params, held, CURRENT), "the next key is accepted")


@tool(
    read=read_rotation,
    risk=risk_of("switch_key"),
    holds=_holds,
    render=_switch,
    locks=_locks,
    idempotent=True,
    timeout=ROUND,
    patience=PATIENCE,
    releases_while_waiting=True,
    proposable=False,
    clean_up=_hang_up,
)
async def switch_key(ctx: ToolContext, params: RotationParams) -> StepEnd:
    """Make a provider's next client key the current one, once every host accepts it."""
    held = await ctx.secrets.read(ctx.resource.metadata.namespace, params.secret)
    if login_keys.stage_of(held) is not Stage.SPREADING:
        return Result(message="there is no next key to switch to")
    # Once more, for hosts may have come since: those that were visited cost nothing now.
    ended = await _round(ctx, _accepting(ctx, params, held, CURRENT), "the next key is accepted")
    if isinstance(ended, NotYet):
        return ended
    # The write below must replace exactly the pair that was just proved.
    if (await ctx.secrets.read(ctx.resource.metadata.namespace, params.secret)) != held:
        raise Conflict(f"Secret {params.secret!r} was changed by somebody else meanwhile: looked at again")
    await ctx.secrets.change(ctx.resource, params.secret, login_keys.switched(held, params.rotation))
    return Result(message="the next key is the current one")


@tool(
    read=read_rotation,
    risk=risk_of("revoke_old_key"),
    holds=_holds,
    render=_revoke,
    locks=_locks,
    idempotent=True,
    timeout=ROUND,
    patience=PATIENCE,
    releases_while_waiting=True,
    proposable=False,
    clean_up=_hang_up,
)
async def revoke_old_key(ctx: ToolContext, params: RevokeParams) -> StepEnd:
    """Take a provider's previous client key off all its hosts, over a login with the current one, and forget it."""
    held = await ctx.secrets.read(ctx.resource.metadata.namespace, params.secret)
    if login_keys.stage_of(held) is not Stage.REVOKING:
        return Result(message="there is no previous key to revoke")
    since, now = login_keys.next_since(held), ctx.clock.now()
    if since is not None and since - now > CLOCKS_DIFFER:  # our clock was set back: the wait begins anew
        await ctx.secrets.change(ctx.resource, params.secret, {login_keys.NEXT_SINCE: rfc3339(now).encode()})
        return NotYet(again_in=LOOK_AGAIN, message=f"both keys log in for {params.overlap_seconds} s")
    if since is not None and (left := params.overlap_seconds - (now - since).total_seconds()) > 0:
        # An order that began before the next key was made knows only the old one: it must be seen before that goes.
        return NotYet(again_in=min(left, LOOK_AGAIN), message=f"both keys log in for {params.overlap_seconds} s")
    login = _accepting(ctx, params, held, PREVIOUS)

    async def revoke(host: reaching.Host) -> Ssh:
        ssh = await login(host)
        # It logs in already; this is about the file that is changed next.
        await ssh.authorize(text(held, NEXT_PUBLIC), like=text(held, PREVIOUS_PUBLIC))
        await ssh.revoke(text(held, PREVIOUS_PUBLIC))
        return ssh

    ended = await _round(ctx, revoke, "the previous key is revoked")
    if isinstance(ended, Result):
        await ctx.secrets.change(ctx.resource, params.secret, login_keys.OVER)
    return ended


# Parts of tools.


@dataclass(frozen=True)
class Pair:
    """Where in the Secret a key pair is."""

    private: str
    public: str


CURRENT, PREVIOUS = Pair(CLIENT_PRIVATE, CLIENT_PUBLIC), Pair(PREVIOUS_PRIVATE, PREVIOUS_PUBLIC)
Login = Callable[[reaching.Host], Awaitable[Ssh]]


def _accepting(ctx: ToolContext, params: RotationParams, held: Mapping[str, bytes], other: Pair) -> Login:
    """Logs in with the next key; where that is not known yet, it is made known with the other one first."""

    async def login(host: reaching.Host) -> Ssh:
        next_key = reaching.identity(ctx, host, params.secret, NEXT_PRIVATE)
        try:
            return await ctx.machines.connect(next_key)
        except AuthenticationFailed:
            ssh = await ctx.machines.connect(reaching.identity(ctx, host, params.secret, other.private))
        # A connection that was made earlier may outlive the permission: whoever took that away meant it.
        if not _listed(text(held, other.public), await ssh.authorized()):
            raise AuthenticationFailed(
                f"the authorized_keys of {host.server.user!r} on {host.server.id!r} lack our key: add it there"
            )
        await ssh.authorize(text(held, NEXT_PUBLIC), like=text(held, other.public))
        return await ctx.machines.connect(next_key)

    return login


def _listed(public_key: str, lines: Sequence[str]) -> bool:
    """Comments do not count."""
    return public_key.split()[:2] in [line.split()[:2] for line in lines]


async def _round(ctx: ToolContext, call: Login, done: str) -> StepEnd:
    """Visit every host once; the step is over when none is away."""
    try:
        hosts = await reaching.find(ctx)
    except Transient as error:  # a round among many: no failure of the step
        return NotYet(again_in=LOOK_AGAIN, message=f"the hosts cannot be listed: {error.message}"[:1000])
    await reaching.visit(hosts, call)
    count = len(hosts.there)
    if hosts.away:
        total = count + len(hosts.away)
        message = f"{done} on {count} of {total} hosts; waiting for {reaching.told(hosts.away)}"
        return NotYet(again_in=LOOK_AGAIN + REST * count, message=message[:1000])
    skipped = f"; not touched: {reaching.told(hosts.skipped)}" if hosts.skipped else ""
    return Result(message=f"{done} on all {count} hosts{skipped}"[:1000])
