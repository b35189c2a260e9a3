"""An SSH server in this process, on loopback: for claims about the client that need no whole machine.

It runs commands with `sh` as the user of the tests, and serves files. It counts what reached it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from agentmetal.clients.keys import KeyPair, make_key_pair
from agentmetal.core.machine import MachineIdentity, SecretKey
from agentmetal.core.resource import Key

Reader = asyncio.StreamReader | asyncssh.SSHReader[bytes]
Writer = asyncio.StreamWriter | asyncssh.SSHWriter[bytes]
OWNER = Key("Instance", "default", "web-1")


@dataclass(kw_only=True)
class Sshd:
    """A running server."""

    port: int = 0
    host_key: KeyPair
    client_key: KeyPair
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    """Authentication methods that were tried."""
    sessions: int = 0
    serving: set[asyncio.Task[Any]] = field(default_factory=set)
    """Commands that run, each with a process of ours."""

    def identity(self, *, pin: str = "", user: str = "root", owner: Key = OWNER) -> MachineIdentity:
        """How a client finds it and knows it."""
        return MachineIdentity(
            owner=owner,
            server_id="loopback",
            address="127.0.0.1",
            port=self.port,
            user=user,
            host_key=pin or self.host_key.public_line,
            client_key=SecretKey(namespace="default", name="web-1-ssh", key="id"),
        )

    async def load_key(self, place: SecretKey) -> str:
        """The right private key of a client."""
        return self.client_key.private_openssh

    def hang_up(self) -> None:
        """End all connections, as a server that is stopped."""
        for connection in self.connections:
            connection.abort()


class _Server(asyncssh.SSHServer):
    def __init__(self, sshd: Sshd, methods: frozenset[str]) -> None:
        self._sshd = sshd
        self._methods = methods

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._sshd.connections.append(conn)

    def public_key_auth_supported(self) -> bool:
        return "publickey" in self._methods

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._sshd.logins.append("publickey")
        return key == asyncssh.import_public_key(self._sshd.client_key.public_line)

    def password_auth_supported(self) -> bool:
        return "password" in self._methods

    def validate_password(self, username: str, password: str) -> bool:
        self._sshd.logins.append("password")
        return True

    def kbdint_auth_supported(self) -> bool:
        return "kbdint" in self._methods

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> bool:
        self._sshd.logins.append("kbdint")
        return True


@asynccontextmanager
async def sshd(
    *, host_key_kind: str = "ssh-ed25519", methods: frozenset[str] = frozenset({"publickey"})
) -> AsyncIterator[Sshd]:
    """Run one on a free port of loopback."""
    host_key, client_key = make_key_pair("host"), make_key_pair("client")
    own = asyncssh.import_private_key(host_key.private_openssh)
    server = Sshd(host_key=host_key, client_key=client_key)

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        server.sessions += 1
        task = asyncio.current_task()
        assert task is not None
        server.serving.add(task)
        task.add_done_callback(server.serving.discard)
        await _serve(process)

    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        config=None,
        server_factory=lambda: _Server(server, methods),
        server_host_keys=[own if host_key_kind == "ssh-ed25519" else asyncssh.generate_private_key(host_key_kind)],
        process_factory=handle,
        sftp_factory=True,
        encoding=None,
        gss_host=None,
    )
    server.port = listener.get_port()
    try:
        yield server
    finally:
        server.hang_up()
        listener.close()
        await listener.wait_closed()
        await asyncio.gather(*server.serving, return_exceptions=True)  # each ends its process


async def _serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *("sh", "-c", process.command or ""), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    assert child.stdin and child.stdout and child.stderr
    gone = asyncio.ensure_future(process.channel.wait_closed())
    fed = asyncio.create_task(_pump(process.stdin, child.stdin, close=True))
    told = asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr), child.wait())
    both: list[asyncio.Future[Any]] = [told, gone]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if told.done():
        process.exit(child.returncode or 0)
    _kill_session(child.pid)
    for task in (fed, told):
        task.cancel()
    await asyncio.gather(fed, told, gone, child.wait(), return_exceptions=True)


def _kill_session(session: int) -> None:
    """Also what it started in process groups of their own, for that holds our pipes open."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[3]) == session:
                os.kill(int(stat.parent.name), signal.SIGKILL)


async def _pump(reader: Reader, writer: Writer, *, close: bool = False) -> None:
    """Until the end of one or of the other."""
    with suppress(OSError, asyncssh.Error, asyncssh.BreakReceived, asyncssh.SignalReceived):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    if close:
        writer.close()


class Cable:
    """A TCP relay between client and server that can be frozen: nothing arrives, nothing is refused."""

    def __init__(self) -> None:
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.dialled = 0
        self.pulled = False
        """Nobody gets through; who tries is told at once."""

    async def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """What `SshMachines` calls to reach the server."""
        self.dialled += 1
        if self.pulled:
            raise ConnectionRefusedError("the cable is pulled")
        ours, theirs = socket.socketpair()
        near = await asyncio.open_connection(sock=theirs)
        far = await asyncio.open_connection(address, port)
        for (reader, _), (_, writer) in ((near, far), (far, near)):
            task = asyncio.create_task(self._pump(reader, writer))
            self._tasks.add(task)
        ours.setblocking(False)
        return ours

    def freeze(self) -> None:
        """From now on nothing passes, as with a host that hangs."""
        self._flows.clear()

    def thaw(self) -> None:
        """What waited passes on."""
        self._flows.set()

    async def close(self) -> None:
        """End all relays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    await self._flows.wait()
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
