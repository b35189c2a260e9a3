"""One host each claim is made about, and what can happen to it. The suite runs over every world of `conftest.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from tests.support.fleet import becomes, new_name

from agentmetal.clients.keys import KeyPair
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.errors import Transient
from agentmetal.core.machine import (
    MachineIdentity,
    Machines,
    OwnerTag,
    SecretKey,
    Server,
    ServerProvider,
    ServerSpec,
    ServerState,
    Ssh,
    UnitPhase,
    UnitState,
)
from agentmetal.core.resource import Key
from agentmetal.providers.fake import FakeCloud
from agentmetal.providers.fake_hosts import Effect, FakeHosts
from agentmetal.providers.nspawn.provider import NspawnProvider

OWNER = Key("Instance", "default", "web-1")
CLUSTER = "0b5c1d2e-cluster"
OPERATOR = "ops"
"""An account that becomes root by sudo without a password."""
TYPIST = "typist"
"""An account that sudo asks for a password."""


class Lost:
    """Collects what `on_lost` was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Key, str]] = []
        self._event = asyncio.Event()

    def __call__(self, owner: Key, reason: str) -> None:
        self.told.append((owner, reason))
        self._event.set()

    async def wait(self, timeout: float) -> None:
        """Until something was lost."""
        async with asyncio.timeout(timeout):
            await self._event.wait()


class World(Protocol):
    """A host with its surroundings."""

    @property
    def machines(self) -> Machines:
        """The connections of the process under test."""

    def identity(self, *, pin: str = "", owner: Key = OWNER, user: str = "") -> MachineIdentity:
        """How it is reached."""

    @property
    def user(self) -> str:
        """Who logs in."""

    @property
    def host_key(self) -> KeyPair:
        """The host's."""

    def command(self, marker: str, *, exit_code: int = 0, seconds: float = 0) -> list[str]:
        """One that notes that it ran, says `out` and `err`, takes a while and ends so."""

    async def runs(self, marker: str) -> int:
        """How often such a command ran."""

    async def restart(self) -> None:
        """A clean reboot, by somebody else; returns when the host goes down, or later."""

    async def power_cycle(self) -> None:
        """Power loss, and power again; returns after the loss."""

    async def freeze(self) -> None:
        """Hang with open connections."""

    async def thaw(self) -> None:
        """Undo `freeze`."""


class NspawnWorld:
    """A real machine, booted by systemd, in the fleet's network."""

    def __init__(
        self, provider: NspawnProvider, server: Server, host_key: KeyPair, client_key: KeyPair, *, user: str = "root"
    ) -> None:
        self.lost, self.user, self.host_key = Lost(), user, host_key
        self.client_key = client_key
        self._provider = provider
        self._server = server
        self.machines = self.new_machines()

    def new_machines(
        self, cluster: str = CLUSTER, client_key: KeyPair | None = None, *, keepalive_interval: float = 1.0
    ) -> SshMachines:
        """As another process would connect."""

        async def load(place: SecretKey) -> str:
            return (client_key or self.client_key).private_openssh

        dial = self._provider.fleet.dial
        return SshMachines(load, dial, self.lost, cluster=cluster, keepalive_interval=keepalive_interval)

    def identity(self, *, pin: str = "", owner: Key = OWNER, user: str = "") -> MachineIdentity:
        return identity_of(self._server, pin or self.host_key.public_line, owner, user or self.user)

    def command(self, marker: str, *, exit_code: int = 0, seconds: float = 0) -> list[str]:
        script = 'echo ran >>"/root/$1"; echo out; echo err >&2; sleep "$2"; exit "$3"'
        return ["sh", "-c", script, "sh", marker, str(seconds), str(exit_code)]

    async def runs(self, marker: str) -> int:
        host = await self.machines.connect(self.identity())
        return (await host.run(["cat", f"/root/{marker}"])).stdout.count("ran")

    async def restart(self) -> None:
        await self._provider.reboot_server(self._server.id)
        await self.lost.wait(30.0)

    async def power_cycle(self) -> None:
        await self._provider.reboot_server(self._server.id, force=True)

    async def cut(self) -> None:
        """Pull its cable."""
        await self._provider.fleet.cut(self._server.name)

    async def heal(self) -> None:
        """Plug it in again."""
        await self._provider.fleet.heal(self._server.name)

    async def freeze(self) -> None:
        await self._provider.fleet.freeze(self._server.name)

    async def thaw(self) -> None:
        await self._provider.fleet.thaw(self._server.name)


class FakeWorld:
    """A simulated host, in the event loop's time."""

    def __init__(
        self, cloud: FakeCloud, machines: FakeHosts, server: Server, host_key: KeyPair, *, user: str = "root"
    ) -> None:
        self.machines, self.user, self.host_key = machines, user, host_key
        self._cloud = cloud
        self._server = server
        machines.unit(["job"], lambda host, argv: _effect(argv))

    def identity(self, *, pin: str = "", owner: Key = OWNER, user: str = "") -> MachineIdentity:
        return identity_of(self._server, pin or self.host_key.public_line, owner, user or self.user)

    def command(self, marker: str, *, exit_code: int = 0, seconds: float = 0) -> list[str]:
        return ["job", marker, str(exit_code), str(seconds)]

    async def runs(self, marker: str) -> int:
        return sum(run.argv[1] == marker for run in self.machines.journal)

    async def restart(self) -> None:
        before = self.machines.host(self._server.id).boot
        self._cloud.reboot(self._server.id, clean=True)

        async def down() -> bool:
            return self.machines.host(self._server.id).boot is not before

        await soon(down)

    async def power_cycle(self) -> None:
        await self._cloud.reboot_server(self._server.id, force=True)

    async def freeze(self) -> None:
        self.machines.host(self._server.id).frozen = True

    async def thaw(self) -> None:
        self.machines.host(self._server.id).frozen = False


def _effect(argv: Sequence[str]) -> Effect:
    return Effect(exit_code=int(argv[2]), output="out\nerr\n", seconds=float(argv[3]))


def identity_of(server: Server, host_key: str, owner: Key, user: str) -> MachineIdentity:
    """How that server is reached."""
    return MachineIdentity(
        owner=owner,
        server_id=server.id,
        address=server.addresses[0],
        port=server.port,
        user=user,
        host_key=host_key,
        client_key=SecretKey(namespace="default", name="web-1-ssh", key="id"),
    )


async def new_server(provider: ServerProvider, host_key: KeyPair, client_key: KeyPair) -> Server:
    """A running server with these keys."""
    spec = ServerSpec(
        name=new_name(),
        owner=OwnerTag(cluster=CLUSTER, namespace="default", uid="u1"),
        type="small",
        image="bookworm",
        authorized_keys=(client_key.public_line,),
        host_key=host_key.private_openssh,
    )
    server = await provider.provision_server(spec)
    return await becomes(provider, server.id, ServerState.RUNNING)


def logins(user: str) -> str:
    """The file with the keys that may log in."""
    return f"{'/root' if user == 'root' else f'/home/{user}'}/.ssh/authorized_keys"


async def make_accounts(host: Ssh) -> None:
    """Somebody with sudo, and somebody whom sudo asks for a password; both are let in as root is."""
    for user in (OPERATOR, TYPIST):
        keys = logins(user)
        for argv in (
            ["useradd", "-m", "-s", "/bin/sh", user],
            ["install", "-d", "-m", "700", "-o", user, "-g", user, str(PurePosixPath(keys).parent)],
            ["install", "-m", "600", "-o", user, "-g", user, logins("root"), keys],
        ):
            done = await host.run(argv)
            assert done.exit_code == 0, done.stderr
        rule = f"{user} ALL=(root) {'NOPASSWD: ' if user == OPERATOR else ''}ALL\n"
        await host.write_file(f"/etc/sudoers.d/{user}", rule.encode(), mode=0o440)


async def back(world: World) -> Ssh:
    """The host, as soon as it answers again."""

    async def answers() -> bool:
        try:
            return (await (await world.machines.connect(world.identity())).run(["true"])).exit_code == 0
        except Transient:
            return False

    await soon(answers, 60.0)
    return await world.machines.connect(world.identity())


async def end_of(host: Ssh, name: str, timeout: float = 30.0) -> UnitState:
    """The state of a unit once it does not run any more."""
    state = await host.unit_state(name)

    async def stopped() -> bool:
        nonlocal state
        state = await host.unit_state(name)
        return state.phase is not UnitPhase.RUNNING

    await soon(stopped, timeout)
    return state


async def soon(true: Callable[[], Awaitable[bool]], timeout: float = 10.0) -> None:
    """Until it is true: for what happens in other processes, which nobody announces."""
    end = time.monotonic() + timeout
    while not await true():
        assert time.monotonic() < end, f"not true within {timeout:g} s"
        await asyncio.sleep(0.05)
