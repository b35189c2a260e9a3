"""Machines that exist already: real hosts that no Provider of ours made. Used by `demo fleet` and tests.

They are systemd containers of a fleet of their own, with an administrator's key and nothing of ours on them. Like any
host of a data centre they are reached by address and port, here on loopback: a relay carries each connection into the
fleet's network. The relay lives as long as the caller; the machines live until `down`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agentmetal.agents.provider.api import Provider
from agentmetal.clients.keys import KeyPair, make_key_pair
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.errors import AgentMetalError, Unavailable
from agentmetal.core.machine import MachineIdentity, OwnerTag, SecretKey, ServerSpec, ServerState, Ssh
from agentmetal.core.resource import GROUP, VERSION, Key
from agentmetal.dev.report import Quiet, Reporter
from agentmetal.providers.nspawn.fleet import Fleet

LOOPBACK = "127.0.0.1"
SSH_PORT = 22
IMAGE = "bookworm"
BOOT_WITHIN = 60.0
DIAL_TIMEOUT = 5.0
CHUNK = 64 * 1024
NOBODY = "not-ours"
POLL = 0.1


@dataclass(kw_only=True)
class PlainHost:
    """A machine that somebody else set up."""

    name: str
    fleet: Fleet
    administrator: KeyPair
    """Who may log in."""
    host_key: KeyPair
    user: str = "root"
    address: str = LOOPBACK
    port: int = 0
    """On loopback; changes when it is relayed anew."""

    def entry(self, **more: Any) -> dict[str, Any]:
        """What an inventory (Provider.spec.ssh.hosts[]) says of it."""
        return {
            "name": self.name,
            "address": self.address,
            "port": self.port,
            "user": self.user,
            "hostKey": self.host_key.public_line.strip(),
            **more,
        }

    @property
    def known_hosts_line(self) -> str:
        """What OpenSSH's known_hosts says of it."""
        return f"[{self.address}]:{self.port} {self.host_key.public_line}"

    @asynccontextmanager
    async def as_administrator(self) -> AsyncIterator[Ssh]:
        """Log in as whoever looks after these machines."""

        async def load_key(place: SecretKey) -> str:
            return self.administrator.private_openssh

        machines = SshMachines(load_key, None, lambda owner, reason: None, cluster=NOBODY)
        try:
            yield await machines.connect(
                MachineIdentity(
                    owner=Key("Administrator", "default", self.name),
                    server_id=self.name,
                    address=self.address,
                    port=self.port,
                    user=self.user,
                    host_key=self.host_key.public_line,
                    client_key=SecretKey(namespace="default", name="administrator", key="id"),
                )
            )
        finally:
            await machines.close()


def provider_of(name: str, hosts: Sequence[PlainHost]) -> dict[str, Any]:
    """The manifest of a Provider with these hosts as its inventory."""
    entries = [host.entry(type="server", location="hall-1", failureDomain=host.name) for host in hosts]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": Provider.info.kind,
        "metadata": {"name": name},
        "spec": {"type": "SSH", "ssh": {"hosts": entries}},
    }


@dataclass(kw_only=True)
class PlainHosts:
    """The plain machines of one directory."""

    directory: Path
    administrator: KeyPair = field(default_factory=lambda: make_key_pair("administrator"))

    @property
    def fleet(self) -> Fleet:
        """What can go wrong with them: kill, freeze, cut, …"""
        return Fleet(self.directory)

    @asynccontextmanager
    async def running(
        self, names: Sequence[str], reporter: Reporter | None = None, *, image: str = IMAGE
    ) -> AsyncIterator[tuple[PlainHost, ...]]:
        """So many of them, answering on loopback; in the end they are gone."""
        await self.fleet.ensure_image(image, (reporter or Quiet()).say)
        try:
            hosts = await asyncio.gather(*(self.make(name, image=image) for name in names))
            async with relayed(hosts):
                await asyncio.gather(*(_answers(host) for host in hosts))
                yield tuple(hosts)
        finally:
            await self.fleet.down()

    async def make(self, name: str, *, image: str = IMAGE) -> PlainHost:
        """Set one up, as its owner did long before us. It runs on until `fleet.down`."""
        host_key = make_key_pair(name)
        await self.fleet.create(self._spec(name, host_key, image))
        return PlainHost(name=name, fleet=self.fleet, administrator=self.administrator, host_key=host_key)

    async def replace(self, host: PlainHost, *, image: str = IMAGE) -> PlainHost:
        """Another machine at the same address: other disks, other machine-id, other host key."""
        changed = dataclasses.replace(host, host_key=make_key_pair(host.name))
        await self.fleet.rebuild(host.name, self._spec(host.name, changed.host_key, image))
        await _answers(changed)
        return changed

    def _spec(self, name: str, host_key: KeyPair, image: str) -> ServerSpec:
        return ServerSpec(
            name=name,
            owner=OwnerTag(cluster=NOBODY, namespace=NOBODY, uid=name),
            type="small",
            image=image,
            hostname=name,
            authorized_keys=(self.administrator.public_line,),
            host_key=host_key.private_openssh,
        )


@asynccontextmanager
async def relayed(hosts: Sequence[PlainHost]) -> AsyncIterator[None]:
    """Give each a port on loopback that leads to its sshd."""
    servers, carrying = [], set[asyncio.Task[None]]()
    try:
        for host in hosts:
            server = await asyncio.start_server(partial(_accept, host, carrying), LOOPBACK, 0)
            servers.append(server)
            host.port = server.sockets[0].getsockname()[1]
        yield
    finally:
        for server in servers:
            server.close()
        await asyncio.sleep(0)  # whoever was let in at this moment is among them then
        while carrying:
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)
            await asyncio.sleep(0)  # what was hung up on is closed in the loop's next turn


def _accept(
    host: PlainHost,
    carrying: set[asyncio.Task[None]],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    task = asyncio.create_task(_carry(host, reader, writer), name=f"relay to {host.name}")
    carrying.add(task)
    task.add_done_callback(carrying.discard)
    task.add_done_callback(lambda _: writer.transport.abort())  # also when it was cancelled before it began


async def _carry(host: PlainHost, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, there and back, until one side ends it. What cannot be reached is hung up on."""
    try:
        address = (await host.fleet.machine(host.name)).record.address
        there_reader, there = await asyncio.open_connection(sock=await host.fleet.dial(address, SSH_PORT, DIAL_TIMEOUT))
    except (AgentMetalError, TimeoutError):
        writer.transport.abort()
        return
    ways = [asyncio.create_task(_pump(reader, there)), asyncio.create_task(_pump(there_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in (there, writer):  # before anything is awaited: whoever ends the relay may cancel us once more
            end.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


async def _answers(host: PlainHost) -> None:
    """Wait until it lets its administrator in. A machine that boots tells nobody: it is tried again."""
    deadline = asyncio.get_running_loop().time() + BOOT_WITHIN
    while True:
        try:
            async with host.as_administrator() as ssh:
                await ssh.run(["true"])
            return
        except Unavailable as error:
            machine = await host.fleet.machine(host.name)
            if machine.state is ServerState.STOPPED or asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"plain host {host.name!r} does not come up: {error.message}") from error
        await asyncio.sleep(POLL)
