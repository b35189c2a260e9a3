"""Files on a host, over SFTP: replaced in one moment, created once. Called by `host.py` for those who log in as root.

Paths travel as they are, nothing is quoted. Making the directory entry durable is the caller's `sync`: SFTP has none.
What an account without root's rights cannot do this way is done by commands: `sudo.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import cast

import asyncssh

from agentmetal.core.errors import AgentMetalError, Forbidden, Invalid, LimitReached

READ_LIMIT = 64 * 1024
READ_ONLY = 1
"""Flag of a file system: nothing can be written."""


def absolute(path: str) -> PurePosixPath:
    """The path, if it is one we may write to. Raises Invalid."""
    parsed = PurePosixPath(path)
    if not parsed.is_absolute() or not parsed.name or ".." in parsed.parts or "\0" in path:
        raise Invalid(f"{path!r} is no file path: give an absolute one without `..`")
    return parsed


def beside(path: PurePosixPath) -> PurePosixPath:
    """Where its new content is written first: a name that nobody else takes."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.agentmetal")


async def replace(
    sftp: asyncssh.SFTPClient, path: PurePosixPath, data: bytes, mode: int, *, directory_mode: int | None = None
) -> None:
    """Others see the old file or the new one, never a part."""
    async with _written(sftp, path, data, mode, directory_mode=directory_mode) as new:
        await sftp.posix_rename(str(new), str(path))


async def create(sftp: asyncssh.SFTPClient, path: PurePosixPath, data: bytes, mode: int) -> bytes:
    """Make the file with its whole content, unless it exists; returns what it holds then."""
    async with _written(sftp, path, data, mode) as new:
        try:
            await sftp.link(str(new), str(path))  # link(2) never replaces: the first one wins
        except asyncssh.SFTPError:
            # Old protocol versions say "failure" for everything, also for "exists".
            if not await sftp.lexists(str(path)):
                raise
            async with sftp.open(str(path), "rb") as file:
                return cast(bytes, await file.read(READ_LIMIT))
    return data


async def remove(sftp: asyncssh.SFTPClient, path: PurePosixPath) -> None:
    """Nothing happens when it is absent."""
    try:
        await sftp.remove(str(path))
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return


async def whole(sftp: asyncssh.SFTPClient, path: PurePosixPath, limit: int) -> bytes:
    """All of a file; nothing when it is absent. Raises Invalid for one that is too large to be read and replaced."""
    try:
        async with sftp.open(str(path), "rb") as file:
            content = cast(bytes, await file.read(limit + 1))
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return b""
    if len(content) > limit:
        raise Invalid(f"{str(path)!r} is larger than {limit} bytes: it is left alone")
    return content


async def trouble(sftp: asyncssh.SFTPClient, path: PurePosixPath, size: int) -> AgentMetalError | None:
    """Why that file cannot be written, as far as its file system tells: OpenSSH calls every reason just "Failure"."""
    for directory in path.parents:
        try:
            space = await sftp.statvfs(str(directory))
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            continue
        if space.flags & READ_ONLY:
            return Forbidden(f"{str(path)!r} cannot be written: its file system is mounted read-only, look at the disk")
        blocks = -(-size // space.frsize) + 2 if space.frsize else 0  # two for what the directory may need
        if space.bavail < blocks or (space.files and not space.favail):
            return LimitReached(f"{str(path)!r} cannot be written: no space is left on its file system, free some")
        return None
    return None


@asynccontextmanager
async def _written(
    sftp: asyncssh.SFTPClient, path: PurePosixPath, data: bytes, mode: int, *, directory_mode: int | None = None
) -> AsyncIterator[PurePosixPath]:
    """A new file beside `path` that is on the disk; gone in the end, unless it was renamed."""
    new = beside(path)
    await sftp.makedirs(str(path.parent), asyncssh.SFTPAttrs(permissions=directory_mode), exist_ok=True)
    try:
        async with sftp.open(str(new), "xb", asyncssh.SFTPAttrs(permissions=0o600)) as file:
            await file.write(data)
            await file.setstat(asyncssh.SFTPAttrs(permissions=mode))  # the host's umask has no say
            await file.fsync()
        yield new
    finally:
        await remove(sftp, new)
