"""The tool that removes a user's files and accounts from a host before it is let go of. Planned by `agents.instance`.

What is removed is exactly what a human read in the plan: nothing is followed elsewhere. A path that leads through a
symbolic link, on which something is mounted, or which holds what the operator itself needs is refused, by name, before
anything is touched; and `find -execdir` removes in a directory that it has entered without following a link, so that
whoever exchanges one meanwhile gains nothing. It removes none of our own files: those go with the claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field

from agentmetal.clients.ssh.wrapper import PATH as WRAPPER_PATH
from agentmetal.clients.ssh.wrapper import STATE
from agentmetal.core.condition import Reason
from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.core.machine import Ssh, UnitPhase
from agentmetal.core.tool import Refusal, Result, StepEnd, ToolContext, tool
from agentmetal_tools.hosts import clean, end_of
from agentmetal_tools.risks import risk_of
from agentmetal_tools.servers import (
    HostParams,
    ServerFacts,
    all_of,
    connect,
    existing,
    exists,
    locks,
    owned,
    provider_of,
    read_server,
    tag_of,
)

WIPEABLE = (
    r"^/(srv|opt|home|data|mnt|media|var/lib|var/log|var/cache|var/tmp|tmp|usr/local)"
    r"(/[A-Za-z0-9_][A-Za-z0-9._-]*){1,8}$"
)
"""Paths that may be wiped: below places for data, never such a place itself, no `..`, nothing hidden at its start."""
OURS = (STATE, str(PurePosixPath(WRAPPER_PATH).parent))
"""Directories of ours on a host: they go with the claim, after everything that needs them."""
NO_SUCH_USER = 6
"""Exit code of userdel for an account that does not exist."""
HOME_STAYS = 12
"""Exit code of userdel when the account is gone and its home directory, or its mail, could not be removed."""
READ_TIMEOUT = 5.0


class WipeParams(HostParams):
    """What to remove from a host."""

    paths: tuple[Annotated[str, Field(max_length=255, pattern=WIPEABLE)], ...] = Field(
        default=(), max_length=32, description="Files and directories, with all below them."
    )
    user: str = Field(
        default="", max_length=32, pattern=r"^([a-z_][a-z0-9_-]*)?$", description="An account, with its home directory."
    )


def _wipe(params: WipeParams) -> str:
    what = [f"{path} with all below" for path in params.paths]
    what += [f"account {params.user!r} with its home directory"] if params.user else []
    return f"Remove from the host of server {params.server!r}: {', '.join(what) or 'nothing'}"


def within(path: str, place: str) -> bool:
    """Is it that place, or below it?"""
    return f"{path}/".startswith(f"{place}/")


# What must hold.


def _of_a_user(params: WipeParams, facts: ServerFacts) -> Refusal | None:
    """Never the account that everything depends on."""
    if params.user != "root" and (not params.user or params.user != facts.user):
        return None
    message = f"account {params.user!r} logs in to server {params.server!r}: take it out of spec.ssh.wipe.users"
    return Refusal(reason=Reason.INVALID_SPEC, message=message)


def _not_ours(params: WipeParams, facts: ServerFacts) -> Refusal | None:
    """Never the program that removes, nor what it remembers: how the step ended could not be known."""
    found = [path for path in params.paths for place in OURS if within(path, place) or within(place, path)]
    if not found:
        return None
    message = f"{found[0]!r} holds what the operator itself needs there: name what is below it in spec.ssh.wipe.paths"
    return Refusal(reason=Reason.INVALID_SPEC, message=message)


async def _forget_units(ctx: ToolContext, params: WipeParams) -> None:
    """What the wrapper keeps about this operation's commands is of use only while the operation is open."""
    await (await connect(ctx, params)).forget_units(ctx.operation)


@tool(
    read=read_server,
    risk=risk_of("wipe_host"),
    holds=all_of(owned, exists, _of_a_user, _not_ours),
    render=_wipe,
    locks=locks,
    idempotent=True,
    timeout=60.0,
    patience=3600.0,
    proposable=False,
    clean_up=_forget_units,
)
async def wipe_host(ctx: ToolContext, params: WipeParams) -> StepEnd:
    """Remove files or an account from a host that is about to be let go of; what is absent already is fine."""
    if params.user and params.paths:
        raise Invalid("one step of wipe_host removes paths or an account, not both: plan two")
    if not params.user and not params.paths:
        return Result(message="there is nothing to remove")
    host = await connect(ctx, params)
    return await (_paths(ctx, host, params) if params.paths else _account(ctx, host, params.user))


async def _paths(ctx: ToolContext, host: Ssh, params: WipeParams) -> StepEnd:
    if (await ctx.unit_state(host)).phase is UnitPhase.NEVER:
        server = await existing(await provider_of(ctx, params), params, tag_of(ctx))
        await _refuse_links(host, params.paths)
        await _refuse_mounts(host, params.paths)
        await _refuse_home(host, params.paths, server.user)
    state = await ctx.unit(host, removal(params.paths), timeout=3600.0)
    return end_of(state, doing="removing files", done=f"removed {', '.join(params.paths)}")


async def _account(ctx: ToolContext, host: Ssh, user: str) -> StepEnd:
    state = await ctx.unit(host, ("userdel", "--remove", "--", user), timeout=600.0)
    if state.phase is UnitPhase.ENDED and state.exit_code == NO_SUCH_USER:
        return Result(message=f"there is no account {user!r}")
    if state.phase is UnitPhase.ENDED and state.exit_code == HOME_STAYS:
        raise Invalid(f"account {user!r} is removed, files of its are not: {clean(state.output, 400)}; remove them")
    return end_of(state, doing=f"removing account {user!r}", done=f"removed account {user!r}")


def removal(paths: Iterable[str]) -> tuple[str, ...]:
    """The command: down from / by the directories on the way only, to each path, and there `rm`."""
    wanted = sorted(set(paths))
    way = sorted({str(parent) for path in wanted for parent in PurePosixPath(path).parents})
    return (
        *("find", "-P", "/", "-ignore_readdir_race"),
        *(*_either(wanted), "-prune", "-execdir", "rm", "-rf", "--one-file-system", "--", "{}", "+"),
        *("-o", "!", *_either(way), "-prune"),
    )


def _either(paths: Iterable[str]) -> tuple[str, ...]:
    """Find's test for one of these; WIPEABLE leaves no character in them that is a pattern."""
    tests = [word for path in paths for word in ("-o", "-path", path)][1:]
    return ("(", *tests, ")")


async def _refuse_links(host: Ssh, paths: tuple[str, ...]) -> None:
    """A link's removal would leave the data; one on the way leads to what nobody named. Raises Invalid."""
    done = await host.run(["realpath", "-m", "-z", "--", *paths], timeout=READ_TIMEOUT)
    real = done.stdout.split("\0")[:-1]
    if done.exit_code != 0 or len(real) != len(paths):
        raise Unavailable(f"where {', '.join(paths)} lead cannot be read: {clean(done.stderr, 200)!r}")
    for path, leads_to in zip(paths, real, strict=True):
        if leads_to != path:
            raise Invalid(
                f"{path!r} leads to {clean(leads_to, 255)!r} by a symbolic link; nothing was removed: name what is"
                " meant in spec.ssh.wipe.paths"
            )


async def _refuse_mounts(host: Ssh, paths: tuple[str, ...]) -> None:
    """What is mounted is another disk, or another directory of this one. Raises Invalid."""
    done = await host.run(["cat", "--", "/proc/self/mounts"], timeout=READ_TIMEOUT)
    if done.exit_code != 0:
        raise Unavailable(f"what is mounted cannot be read: {clean(done.stderr, 200)!r}")
    mounted = [_unescaped(fields[1]) for line in done.stdout.splitlines() if len(fields := line.split(" ")) > 1]
    for path in paths:
        if found := next((place for place in mounted if within(place, path)), None):
            raise Invalid(
                f"something is mounted at {clean(found, 255)!r}; nothing was removed: unmount it, or name the"
                " directories on it in spec.ssh.wipe.paths"
            )


async def _refuse_home(host: Ssh, paths: tuple[str, ...], user: str) -> None:
    """With the keys of who logs in we would lock ourselves out, before the claim is off. Raises Invalid."""
    done = await host.run(["getent", "passwd", "--", user], timeout=READ_TIMEOUT)
    fields = done.stdout.split("\n", 1)[0].split(":")
    if done.exit_code != 0 or len(fields) < 7:
        raise Unavailable(f"the home directory of {user!r} cannot be read: {clean(done.stderr, 200)!r}")
    for path in paths:
        if within(fields[5], path):
            raise Invalid(f"{path!r} holds the home of {user!r}, who logs in there: take it out of spec.ssh.wipe.paths")


def _unescaped(place: str) -> str:
    """The kernel writes blanks in a path as an octal number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)
