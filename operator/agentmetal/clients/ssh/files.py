"""Files on a host, over SFTP: replaced in one moment, created once. Called by `host.py`.

Paths travel as they are, nothing is quoted. Making the directory entry durable is the caller's `sync`: SFTP has none.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import cast

import asyncssh

from agentmetal.core.errors import Invalid

READ_LIMIT = 64 * 1024


def absolute(path: str) -> PurePosixPath:
    """The path, if it is one we may write to. Raises Invalid."""
    parsed = PurePosixPath(path)
    if not parsed.is_absolute() or not parsed.name or ".." in parsed.parts or "\0" in path:
        raise Invalid(f"{path!r} is no file path: give an absolute one without `..`")
    return parsed


async def replace(sftp: asyncssh.SFTPClient, path: PurePosixPath, data: bytes, mode: int) -> None:
    """Others see the old file or the new one, never a part."""
    async with _written(sftp, path, data, mode) as new:
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


@asynccontextmanager
async def _written(
    sftp: asyncssh.SFTPClient, path: PurePosixPath, data: bytes, mode: int
) -> AsyncIterator[PurePosixPath]:
    """A new file beside `path` that is on the disk; gone in the end, unless it was renamed."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.agentmetal")
    await sftp.makedirs(str(path.parent), exist_ok=True)
    try:
        async with sftp.open(str(new), "xb", asyncssh.SFTPAttrs(permissions=0o600)) as file:
            await file.write(data)
            await file.setstat(asyncssh.SFTPAttrs(permissions=mode))  # the host's umask has no say
            await file.fsync()
        yield new
    finally:
        await remove(sftp, new)
