"""How somebody who is not root becomes root on a host: by `sudo`, without a password. Called by `host.py`.

SFTP has only the account's rights, so files are moved by commands here, each an argument vector: as atomic and as
exclusive as in `files.py`. Also used by the simulated hosts, for the words of a refusal.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Protocol

from agentmetal.clients.ssh.errors import write_error
from agentmetal.clients.ssh.files import beside
from agentmetal.core.errors import Forbidden
from agentmetal.core.machine import Completed

PREFIX = ("sudo", "-n", "--")
WHO = ("id", "-u")
"""Asked through sudo when a connection is made: root is 0."""


class Run(Protocol):
    """Runs a command as root."""

    def __call__(self, argv: Sequence[str], *, stdin: bytes | None = None) -> Awaitable[Completed]: ...


def check(user: str, answer: Completed) -> None:
    """Is `WHO`, asked through sudo, answered by root? Raises Forbidden, which says what to change on the host."""
    if answer.exit_code == 0 and answer.stdout.strip() == "0":
        return
    if answer.exit_code == 127:
        raise Forbidden(f"{user!r} is not root, and the host has no sudo: install it, or log in as root")
    said = " ".join((answer.stderr.strip() or answer.stdout.strip()).split())[:200]
    raise refusal(user, said)


def may_have_refused(answer: Completed) -> bool:
    """Is this perhaps no answer of the command, but of sudo, or of a shell that finds none? Warnings look alike."""
    return answer.exit_code in (1, 127) and "sudo" in answer.stderr


def refusal(user: str, said: str) -> Forbidden:
    """What it means that sudo refuses, and what to do."""
    return Forbidden(
        f"{user!r} may log in but cannot become root without a password (sudo: {said!r}), and there is nobody to type"
        f" one: put the line `{user} ALL=(root) NOPASSWD: ALL` into /etc/sudoers.d/agentmetal on the host, mode 440"
    )


async def replace(run: Run, path: PurePosixPath, data: bytes, mode: int) -> None:
    """Others see the old file or the new one, never a part."""
    async with _written(run, path, data, mode) as new:
        await _done(run, path, ["mv", "-fT", "--", str(new), str(path)])


async def create(run: Run, path: PurePosixPath, data: bytes, mode: int) -> bytes:
    """Make the file with its whole content, unless it exists; returns what it holds then, at most 48 KiB."""
    async with _written(run, path, data, mode) as new:
        linked = await run(["ln", "-T", "--", str(new), str(path)])  # link(2) never replaces: the first one wins
        if linked.exit_code == 0:
            return data
        there = await run(["base64", "-w", "0", "--", str(path)])  # our output is text, a file may be anything
        if there.exit_code != 0:
            raise write_error(str(path), linked)
        return base64.b64decode(there.stdout)


async def remove(run: Run, path: PurePosixPath) -> None:
    """Nothing happens when it is absent."""
    await _done(run, path, ["rm", "-f", "--", str(path)])


async def swap(run: Run, path: PurePosixPath, was: bytes, data: bytes | None, mode: int) -> bool:
    """Replace the file, or remove it, if it holds exactly `was`. One command compares and acts, so nothing comes
    between but another such command in the same moment. Used by root's accounts too: SFTP cannot compare."""
    compared = ["find", str(path), "-maxdepth", "0", "-type", "f", "-exec", "cmp", "-s", "--", "-", "{}", ";"]
    if data is None:
        return _acted(path, await run([*compared, "-delete", "-print"], stdin=was))
    async with _written(run, path, data, mode) as new:
        moved = ["-exec", "mv", "-fT", "--", str(new), "{}", ";", "-print"]
        return _acted(path, await run([*compared, *moved], stdin=was))


def _acted(path: PurePosixPath, done: Completed) -> bool:
    """Did it come to the end of the line? `find` complains when there is no file, or when it may not act."""
    if done.exit_code != 0 and "No such file or directory" not in done.stderr:
        raise write_error(str(path), done)
    return done.stdout.strip() == str(path)


@asynccontextmanager
async def _written(run: Run, path: PurePosixPath, data: bytes, mode: int) -> AsyncIterator[PurePosixPath]:
    """A new file beside `path` that is on the disk; gone in the end, unless it was renamed."""
    new = beside(path)
    await _done(run, path, ["mkdir", "-p", "--", str(path.parent)])
    try:
        await _done(run, path, ["install", "-m", "600", "/dev/null", str(new)])  # nobody else reads what follows
        await _done(run, path, ["dd", f"of={new}", "conv=notrunc,fsync", "status=none"], data)
        await _done(run, path, ["chmod", f"{mode:o}", "--", str(new)])
        yield new
    finally:
        await run(["rm", "-f", "--", str(new)])


async def _done(run: Run, path: PurePosixPath, argv: Sequence[str], stdin: bytes | None = None) -> None:
    completed = await run(argv, stdin=stdin)
    if completed.exit_code != 0:
        raise write_error(str(path), completed)
