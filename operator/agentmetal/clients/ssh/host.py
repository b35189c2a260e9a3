"""One host over one kept connection: implements `core.machine.Ssh`. Made by `machines.py`, used by tools and agents.

Whoever does not log in as root becomes root by `sudo` for every command. It never connects again by itself: when the
connection is gone every call raises Unavailable, and the caller asks `Machines.connect` for a new one.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import PurePosixPath
from typing import TypeVar

import asyncssh

from agentmetal.clients.ssh import authorized, files, sudo, wrapper
from agentmetal.clients.ssh.command import command_line
from agentmetal.clients.ssh.errors import ssh_errors, write_error
from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.core.machine import Completed, MachineIdentity, UnitState

ROOT = "root"
SESSIONS = 8
"""Commands at once on one connection. One more session is kept for files; sshd's default is 10."""
REFUSED_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds before a refused session is asked for again."""
OUTPUT_LIMIT = 64 * 1024
"""Bytes kept of stdout, and of stderr; the rest is read and dropped, so that the command can end."""
FILE_TIMEOUT = 20.0
WRAPPER_TIMEOUT = 20.0
"""Longer than the wrapper waits for its lock."""

T = TypeVar("T")


class SshHost:
    """A verified host. Its answers are untrusted."""

    def __init__(self, connection: asyncssh.SSHClientConnection, identity: MachineIdentity, cluster: str) -> None:
        self._connection = connection
        self._where = f"{identity.user}@{identity.address}:{identity.port}"
        self._user = identity.user
        self._becomes_root = sudo.PREFIX if identity.user != ROOT else ()
        self._cluster = cluster
        self._sessions = asyncio.Semaphore(SESSIONS)
        self._files: asyncssh.SFTPClient | None = None
        self._opening_files = asyncio.Lock()
        self._changing_logins = asyncio.Lock()

    async def check_root(self, timeout: float) -> None:
        """Once for a connection: do our commands run as root? Raises Forbidden, which says what to change."""
        if self._becomes_root:
            sudo.check(self._user, await self.run(sudo.WHO, timeout=timeout))

    async def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 10.0) -> Completed:
        """Run a command that reads, or that may run twice. Raises Forbidden where sudo has begun to refuse."""
        done = await self._ran(argv, stdin=stdin, timeout=timeout)
        if self._becomes_root and sudo.may_have_refused(done):  # then it would say nothing about the command
            sudo.check(self._user, await self._ran(sudo.WHO, timeout=timeout))
        return done

    async def _ran(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float) -> Completed:
        line = f"{command_line([*self._becomes_root, *_limit(timeout)])} {command_line(argv)}"
        async with self._within(f"running {argv[0]!r}", timeout), self._sessions:
            process: asyncssh.SSHClientProcess[bytes] = await self._opened(
                lambda: self._connection.create_process(line, encoding=None, request_pty=False)
            )
            try:
                return await _completed(process, stdin or b"")
            finally:
                process.close()

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file atomically; on the disk when it returns."""
        target = files.absolute(path)
        if self._becomes_root:
            await sudo.replace(self._plainly, target, data, mode)
        else:
            async with self._writing(target, len(data)) as sftp:
                await files.replace(sftp, target, data, mode)
        await self._sync(target.parent)

    async def create_file(self, path: str, data: bytes, *, mode: int = 0o644) -> bytes:
        """Create a file exclusively; returns what it holds then (at most 48 KiB when it was there before)."""
        target = files.absolute(path)
        if self._becomes_root:
            held = await sudo.create(self._plainly, target, data, mode)
        else:
            async with self._writing(target, len(data)) as sftp:
                held = await files.create(sftp, target, data, mode)
        await self._sync(target.parent)
        return held

    async def remove_file(self, path: str) -> None:
        """Remove a file; nothing happens when it is absent."""
        target = files.absolute(path)
        if self._becomes_root:
            await sudo.remove(self._plainly, target)
        else:
            async with self._writing(target, 0) as sftp:
                await files.remove(sftp, target)

    async def swap_file(self, path: str, was: bytes, data: bytes | None, *, mode: int = 0o644) -> bool:
        """Replace a file, or remove it (None), if it holds exactly `was`; whether it did."""
        target = files.absolute(path)
        done = await sudo.swap(self._plainly, target, was, data, mode)
        if done:
            await self._sync(target.parent)
        return done

    async def start_unit(self, name: str, argv: Sequence[str], *, epoch: int, timeout: float) -> UnitState:
        """Run a command once; a name that exists is asked for its state instead."""
        command_line(argv)  # refuses what cannot be said before anything is sent
        start = wrapper.start_argv(self._cluster, name, argv, epoch=epoch, timeout=timeout)
        return wrapper.read_start(await self.run(start, timeout=WRAPPER_TIMEOUT), name)

    async def unit_state(self, name: str) -> UnitState:
        """Never started, running, or how it ended."""
        argv = wrapper.state_argv(self._cluster, name)
        return wrapper.read_state(await self.run(argv, timeout=WRAPPER_TIMEOUT), name)

    async def forget_units(self, operation: str) -> None:
        """Drop what the host keeps about the units of a closed operation; what still runs is kept."""
        argv = wrapper.forget_argv(self._cluster, operation)
        wrapper.read_forgotten(await self.run(argv, timeout=WRAPPER_TIMEOUT), operation)

    async def install_wrapper(self, *, epoch: int) -> None:
        """Put the program behind `start_unit` on the host, if another one or none is there."""
        program = wrapper.program()
        there = await self.run(["sha256sum", "--", wrapper.PATH])
        if there.exit_code != 0 or there.stdout.split(" ", 1)[0] != hashlib.sha256(program).hexdigest():
            await self.create_file(wrapper.epoch_file(self._cluster), f"{epoch}\n".encode(), mode=0o600)
            await self.write_file(wrapper.PATH, program, mode=0o755)

    async def remove_wrapper(self, *, epoch: int) -> None:
        """Take it off again, with all it remembers for this cluster; what others keep there stays."""
        if (await self.run(["test", "-e", wrapper.PATH])).exit_code == 0:
            await self.install_wrapper(epoch=epoch)  # an older version's program does not know how to leave
            leave = wrapper.leave_argv(self._cluster, epoch=epoch)
            wrapper.read_left(await self._plainly(leave))
        place = wrapper.own_place(self._cluster)  # a crash may have come between the two
        done = await self._plainly(["rm", "-rf", "--", place])
        if done.exit_code != 0:
            raise write_error(place, done)
        for place in wrapper.shared_places():
            await self._plainly(["rmdir", "--", place])  # refused when anything is in it, or when it is gone already

    async def authorized(self) -> tuple[str, ...]:
        """The public keys that may log in as we do, one OpenSSH line each."""
        async with self._sftp(f"reading {str(authorized.PATH)!r}") as sftp:
            return authorized.keys_in(await files.whole(sftp, authorized.PATH, authorized.LIMIT))

    async def authorize(self, public_key: str, *, like: str = "") -> None:
        """Let a key log in as we do, with the options of another one. Raises Invalid for what is no public key."""
        await self._change_logins(lambda content: authorized.with_key(content, public_key, like=like))

    async def revoke(self, public_key: str) -> None:
        """Let it log in no longer. Raises Invalid for what is no public key."""
        await self._change_logins(lambda content: authorized.without_key(content, public_key))

    async def close(self) -> None:
        """End the connection at once; nothing is awaited from the host."""
        self._connection.abort()
        await self._connection.wait_closed()

    async def _change_logins(self, changed: Callable[[bytes], bytes]) -> None:
        """The file is our account's own, below the directory a login starts in: no path comes from the host."""
        path = authorized.PATH
        async with self._changing_logins, self._writing(path, authorized.LIMIT) as sftp:
            if await sftp.islink(str(path)):
                raise Invalid(f"{str(path)!r} on {self._where} is a symbolic link: it is left alone, make it a file")
            content = await files.whole(sftp, path, authorized.LIMIT)
            new = changed(content)
            if new == content:
                return
            mode, directory_mode = authorized.MODE, authorized.DIRECTORY_MODE
            await files.replace(sftp, path, new, mode, directory_mode=directory_mode)
        await self._sync(path.parent)

    async def _plainly(self, argv: Sequence[str], *, stdin: bytes | None = None) -> Completed:
        """Run a command whose complaints we understand: in the C locale."""
        return await self.run(["env", "LC_ALL=C", *argv], stdin=stdin, timeout=FILE_TIMEOUT)

    async def _sync(self, directory: PurePosixPath) -> None:
        done = await self._plainly(["sync", "--", str(directory)])
        if done.exit_code != 0:
            raise Unavailable(f"{self._where} cannot make {str(directory)!r} durable: {done.stderr.strip()[:200]!r}")

    async def _opened(self, opening: Callable[[], Awaitable[T]]) -> T:
        """Open a session. sshd refuses one too many, and it counts sessions that ended in the same instant."""
        for pause in REFUSED_PAUSES:
            try:
                return await opening()
            except asyncssh.ChannelOpenError:  # certainly nothing was started
                if self._connection.is_closed():
                    raise
            await asyncio.sleep(pause)  # nobody tells when sshd has tidied up
        return await opening()

    @asynccontextmanager
    async def _within(self, doing: str, timeout: float) -> AsyncIterator[None]:
        with ssh_errors(f"{doing} on {self._where} (at most {timeout:g} s)"):
            async with asyncio.timeout(timeout):
                yield

    @asynccontextmanager
    async def _sftp(self, doing: str) -> AsyncIterator[asyncssh.SFTPClient]:
        """One session for all files: sshd counts a closed one until its process is gone, and then refuses others."""
        async with self._within(doing, FILE_TIMEOUT):
            async with self._opening_files:
                if self._files is None:
                    self._files = await self._opened(self._connection.start_sftp_client)
            try:
                yield self._files
            except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
                self._files = None
                raise

    @asynccontextmanager
    async def _writing(self, path: PurePosixPath, size: int) -> AsyncIterator[asyncssh.SFTPClient]:
        """Like `_sftp`; what OpenSSH calls just a failure becomes what the file system says is wrong with it."""
        async with self._sftp(f"changing {str(path)!r}") as sftp:
            try:
                yield sftp
            except asyncssh.SFTPFailure:
                if known := await files.trouble(sftp, path, size):
                    raise known from None
                raise


def _limit(timeout: float) -> list[str]:
    """Lets the host end a command too: sshd passes no signals on for root, and what hangs keeps its session."""
    return ["timeout", "-s", "KILL", str(math.ceil(timeout) + 1)]


async def _completed(process: asyncssh.SSHClientProcess[bytes], stdin: bytes) -> Completed:
    stdout, stderr, _, _ = await asyncio.gather(
        _first(process.stdout), _first(process.stderr), _feed(process, stdin), process.wait_closed()
    )
    return Completed(exit_code=_exit_code(process), stdout=stdout, stderr=stderr)


async def _feed(process: asyncssh.SSHClientProcess[bytes], stdin: bytes) -> None:
    with suppress(BrokenPipeError):  # a command may end without reading all of it
        process.stdin.write(stdin)
        await process.stdin.drain()
        process.stdin.write_eof()


async def _first(reader: asyncssh.SSHReader[bytes]) -> str:
    kept = bytearray()
    while data := await reader.read(OUTPUT_LIMIT):
        kept += data[: OUTPUT_LIMIT - len(kept)]
    return kept.decode(errors="replace")


def _exit_code(process: asyncssh.SSHClientProcess[bytes]) -> int:
    """As a shell tells it: 128 and the signal's number for a command that was killed."""
    if process.exit_signal:
        name = f"SIG{process.exit_signal[0]}"
        return 128 + (signal.Signals[name].value if name in signal.Signals.__members__ else 0)
    if process.exit_status is None:
        raise asyncssh.ConnectionLost("the connection ended before the command did")
    return process.exit_status
