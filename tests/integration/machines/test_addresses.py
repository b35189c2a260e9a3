"""Floating addresses on real machines: who has one, for how long, and where a client's packets end."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.support.agents import CLUSTER, AgentWorld, instance
from tests.support.fleet import becomes, new_name

from agentmetal.clients.keys import make_key_pair
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.errors import CommandFailed, Invalid, Transient
from agentmetal.core.machine import OwnerTag, SecretKey, ServerSpec, ServerState, Ssh
from agentmetal.core.risk import Risk
from agentmetal.core.tool import NotYet, Result, StepEnd, ToolContext
from agentmetal.providers.nspawn import network
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal.providers.registry import ProviderRegistry
from agentmetal_tools.address_program import EAGER
from agentmetal_tools.addresses import (
    LATE,
    PROGRAM,
    AddressLook,
    AddressParams,
    HoldParams,
    drop_address,
    hold_address,
    look_address,
)
from agentmetal_tools.hosts import CLIENT_PRIVATE, HOST_PUBLIC
from agentmetal_tools.servers import InstanceHost, visit

pytestmark = pytest.mark.needs_machines

LIFETIME = 3
LONGER = 6
"""So long that the next holder takes over while the old one still has it, also on a busy computer."""
GONE_WITHIN = LIFETIME + 1.25
"""What a kernel may be late is 1.25 s; less than LATE, which is what others wait."""
OK = ("/usr/bin/test", "-e", "/run/ok")
WHO = """
import socket
server = socket.create_server(("0.0.0.0", 9000))
while True:
    connection, _ = server.accept()
    connection.sendall(socket.gethostname().encode())
    connection.close()
"""


class Member:
    """A machine that answers with its name at port 9000, on every address it has."""

    def __init__(self, world: World, name: str, server_id: str) -> None:
        self.name = name
        self.host = InstanceHost(
            provider="cloud",
            server=name,
            server_id=server_id,
            instance=name,
            instance_uid=name,
            host_key_secret=f"{name}-host-key",
            client_key_secret="cloud-ssh",
        )
        self._world = world

    async def ssh(self) -> Ssh:
        return await visit(self._world.ports, "shop", self.host)

    async def run(self, *argv: str) -> str:
        done = await (await self.ssh()).run(argv)
        assert done.exit_code == 0, done
        return done.stdout.strip()

    async def prepare(self) -> None:
        await (await self.ssh()).install_wrapper(epoch=1)
        await self.run("touch", "/run/ok")
        await self.run("systemd-run", "--quiet", "--unit=who", "python3", "-I", "-c", WHO)

    async def look(self, address: str) -> AddressLook:
        return await look_address(await self.ssh(), address)

    async def has(self, address: str) -> bool:
        """What its kernel says, asked from outside: also while it is frozen."""
        record = (await self._world.provider.fleet.machine(self.name)).record
        space = network.namespace_of(self._world.provider.fleet.id, record)
        argv = ("ip", "-n", space, "-o", "-4", "addr", "show", "to", address)
        return address in (await asyncio.to_thread(subprocess.check_output, argv, text=True))


class World:
    """Two machines of one network, and tools called as the executor calls them."""

    def __init__(self, provider: NspawnProvider) -> None:
        given = AgentWorld()
        self.provider, self.secrets = provider, given.secrets
        registry = ProviderRegistry(given.objects, {"Fake": lambda account: provider})
        self.machines = SshMachines(self._load_key, provider.fleet.dial, lambda owner, reason: None, cluster=CLUSTER)
        self._context = given.context
        self.ports = ToolContext(
            **{**vars(given.context(instance())), "machines": self.machines, "providers": registry}
        )

    async def _load_key(self, key: SecretKey) -> str:
        return (await self.secrets.read(key.namespace, key.name))[key.key].decode()

    async def member(self) -> Member:
        name, pair = new_name(), make_key_pair("host")
        self.secrets.held[f"{name}-host-key"] = {HOST_PUBLIC: pair.public_line.encode()}
        client = self.secrets.held["cloud-ssh"]
        spec = ServerSpec(
            name=name,
            owner=OwnerTag(cluster=CLUSTER, namespace="shop", uid=name),
            type="small",
            image="bookworm",
            authorized_keys=(client["ssh-publickey"].decode(),),
            host_key=pair.private_openssh,
        )
        assert CLIENT_PRIVATE in client
        server = await self.provider.provision_server(spec)
        await becomes(self.provider, server.id, ServerState.RUNNING)
        member = Member(self, name, server.id)
        await answering(member)
        await member.prepare()
        return member

    async def call(self, tool: Any, params: Any) -> StepEnd:
        """A step, to its end."""
        context = ToolContext(**{**vars(self.ports), "operation": f"op-{uuid.uuid4().hex[:8]}"})
        async with asyncio.timeout(30):
            while isinstance(ended := await tool.run(context, params), NotYet):  # noqa: ASYNC110 - as the executor does
                await asyncio.sleep(0.1)
        assert isinstance(ended, Result)
        return ended

    async def risk(self, params: HoldParams) -> Risk:
        facts = await hold_address.read(self.ports, params)
        assert hold_address.holds(params, facts) is None
        return hold_address.risk(params, facts)

    async def who(self, address: str, timeout: float = 1.0) -> str:
        """Who answers a client in the fleet's network; empty when nobody does."""
        try:
            connection = await self.provider.fleet.dial(address, 9000, timeout)
        except Transient:
            return ""
        try:
            async with asyncio.timeout(timeout):
                return (await asyncio.get_running_loop().sock_recv(connection, 64)).decode()
        except (TimeoutError, OSError):
            return ""
        finally:
            connection.close()


async def answering(member: Member) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await (await member.ssh()).run(["true"])
                return
            except Transient:
                await asyncio.sleep(0.05)


async def until(true: Callable[[], Awaitable[bool]], within: float) -> float:
    """Seconds until it is true: kernels and machines announce nothing."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < within, f"not within {within} s"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def hold(member: Member, address: str, epoch: int = 1, *rivals: Member, **fields: Any) -> HoldParams:
    return HoldParams(
        **{
            "host": member.host,
            "address": address,
            "epoch": epoch,
            "lifetime_seconds": LIFETIME,
            "condition": OK,
            "rivals": tuple(rival.host for rival in rivals),
            **fields,
        }
    )


@pytest.fixture
async def world(nspawn: NspawnProvider) -> AsyncIterator[World]:
    made = World(nspawn)
    yield made
    await made.machines.close()


@pytest.fixture
async def address(nspawn: NspawnProvider) -> str:
    return (await nspawn.list_floating_ips())[0].address


@pytest.fixture
async def pair(world: World) -> AsyncIterator[tuple[Member, Member]]:
    members = await asyncio.gather(world.member(), world.member())
    yield members[0], members[1]
    await asyncio.gather(*(world.provider.fleet.remove(member.name) for member in members))


@pytest.fixture
async def one(world: World) -> AsyncIterator[Member]:
    member = await world.member()
    yield member
    await world.provider.fleet.remove(member.name)


async def test_address_is_held_once_its_condition_holds_and_dropped_without_a_trace(
    world: World, one: Member, address: str
) -> None:
    await one.run("rm", "/run/ok")
    context = world.ports
    params = hold(one, address)
    waiting = await hold_address.run(context, params)
    while isinstance(waiting, NotYet) and "exit code 1" not in waiting.message:
        waiting = await hold_address.run(context, params)
    assert not await one.has(address)

    await one.run("touch", "/run/ok")
    await world.call(hold_address, params)
    assert await world.who(address) == one.name
    held = await one.look(address)
    assert (held.holds, held.running, held.epoch, held.device, held.rival) == (True, True, 1, "eth0", "")
    pid = await one.run("systemctl", "show", "-P", "MainPID", f"agentmetal-address-{address.replace('.', '-')}")
    await world.call(hold_address, params)
    assert (await one.look(address)).since == held.since
    assert pid == await one.run("systemctl", "show", "-P", "MainPID", f"agentmetal-address-{address.replace('.', '-')}")

    await world.call(drop_address, AddressParams(host=one.host, address=address))
    assert not await one.has(address)
    assert await one.look(address) == AddressLook()
    names = ("-name", "*agentmetal-address*", "-o", "-path", "*/agentmetal/addresses*")
    left = await one.run("find", "/run", "/usr/local", "/etc/systemd", "/var/lib/agentmetal", *names)
    assert left == ""
    await world.call(drop_address, AddressParams(host=one.host, address=address))


async def test_address_lapses_when_its_program_or_condition_stops_and_survives_a_crash(
    world: World, one: Member, address: str
) -> None:
    unit = f"agentmetal-address-{address.replace('.', '-')}"
    await world.call(hold_address, hold(one, address))

    async def gone() -> bool:
        return not await one.has(address)

    async def back() -> bool:
        return await one.has(address)

    await one.run("rm", "/run/ok")
    assert await until(gone, 10) <= GONE_WITHIN
    await one.run("touch", "/run/ok")
    await until(back, 5)

    await one.run("systemctl", "kill", "--signal=STOP", unit)
    assert await until(gone, 10) <= GONE_WITHIN
    await one.run("systemctl", "kill", "--signal=CONT", unit)
    await until(back, 5)

    before = await one.run("systemctl", "show", "-P", "MainPID", unit)
    since = time.monotonic()
    await one.run("systemctl", "kill", "--signal=KILL", unit)
    while time.monotonic() - since < LIFETIME:
        assert await one.has(address)
        await asyncio.sleep(0.05)
    assert before != await one.run("systemctl", "show", "-P", "MainPID", unit)

    await one.run("mkdir", "-p", f"/run/systemd/system/{unit}.service.d")
    await (await one.ssh()).write_file(f"/run/systemd/system/{unit}.service.d/no.conf", b"[Service]\nRestart=no\n")
    await one.run("systemctl", "daemon-reload")
    await one.run("systemctl", "kill", "--signal=KILL", unit)
    assert await until(gone, 10) <= GONE_WITHIN


async def test_new_holder_is_reached_while_a_frozen_one_still_has_it_and_keeps_it(
    world: World, pair: tuple[Member, Member], address: str
) -> None:
    old, new = pair
    await world.call(hold_address, hold(old, address, lifetime_seconds=LONGER))
    assert await world.who(address) == old.name

    frozen_at = time.monotonic()
    await world.provider.fleet.freeze(old.name)
    taking = asyncio.create_task(until_gone(old, address, frozen_at))
    await world.call(hold_address, hold(new, address, 2))
    overlap = await old.has(address)
    answers: list[str] = []
    while not taking.done() or time.monotonic() < frozen_at + LONGER:
        answers.append(await world.who(address))
        await asyncio.sleep(0.02)
    assert await taking <= GONE_WITHIN + LONGER - LIFETIME
    assert overlap, "the new one was to take it while the old one still had it"
    assert answers.count(new.name) >= len(answers) - 1, answers

    await world.provider.fleet.thaw(old.name)
    await asyncio.sleep(2.5)  # that something does not happen takes time to see
    assert not await old.has(address)
    assert await world.who(address) == new.name
    await answering(old)
    assert (await old.look(address)).check == "somebody else has it now"

    async def settled() -> bool:
        return (await new.look(address)).undisputed

    await until(settled, 15)
    assert await world.risk(hold(old, address, 3, new)) is Risk.DANGEROUS


async def until_gone(member: Member, address: str, since: float) -> float:
    async def gone() -> bool:
        return not await member.has(address)

    await until(gone, 15)
    return time.monotonic() - since


async def test_address_moves_after_a_power_loss_and_does_not_come_back_with_the_machine(
    world: World, pair: tuple[Member, Member], address: str
) -> None:
    old, new = pair
    await world.call(hold_address, hold(old, address))
    assert await world.risk(hold(new, address, 2, old)) is Risk.DANGEROUS

    await world.provider.fleet.kill(old.name)
    assert await world.risk(hold(new, address, 2, old)) is Risk.MODERATE
    await world.call(hold_address, hold(new, address, 2))
    assert await world.who(address) == new.name

    await world.provider.fleet.start(old.name)
    await answering(old)
    look = await old.look(address)
    assert not look.holds and not look.running
    assert await world.who(address) == new.name


async def test_two_holders_whose_conditions_both_hold_see_each_other_and_one_is_dropped(
    world: World, pair: tuple[Member, Member], address: str
) -> None:
    old, new = pair
    await world.call(hold_address, hold(old, address))
    await world.provider.fleet.cut(old.name)
    await world.call(hold_address, hold(new, address, 2))

    await world.provider.fleet.heal(old.name)
    await answering(old)
    macs = [(await world.provider.fleet.machine(member.name)).record.mac for member in (new, old)]

    async def seen() -> bool:
        return [(await member.look(address)).rival for member in pair] == macs

    await until(seen, 15)

    await world.call(drop_address, AddressParams(host=old.host, address=address))
    await asyncio.sleep(EAGER)  # until the next announcement
    assert [await world.who(address) for _ in range(5)] == [new.name] * 5


async def test_host_that_cannot_hold_an_address_says_what_it_lacks(world: World, one: Member, address: str) -> None:
    with pytest.raises(CommandFailed, match="nosuchdevice"):
        await world.call(hold_address, hold(one, address, device="nosuchdevice"))
    await one.run("mv", "/usr/bin/python3", "/usr/bin/python3-away")
    with pytest.raises(Invalid, match="python3-minimal"):
        await world.call(hold_address, hold(one, address))
    assert LATE > GONE_WITHIN - LIFETIME
    assert str(PROGRAM).startswith("/usr/local/lib/agentmetal/")
