"""What simulated hosts can be made to do beyond what every host does (`tests/contract/providers`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import pytest

from agentmetal.clients.keys import make_key_pair
from agentmetal.core.clock import LoopClock
from agentmetal.core.errors import HostKeyMismatch, LimitReached, Unavailable
from agentmetal.core.machine import (
    Completed,
    MachineIdentity,
    OwnerTag,
    SecretKey,
    ServerSpec,
    UnitPhase,
)
from agentmetal.core.resource import Key
from agentmetal.providers.fake import FakeCloud
from agentmetal.providers.fake_hosts import Effect, FakeHost, FakeHosts, FakeSsh

pytestmark = pytest.mark.looptime

KEY = make_key_pair("host")
OWNER = OwnerTag(cluster="c", namespace="shop", uid="u1")
WEB = ServerSpec(name="web", owner=OWNER, type="small", image="bookworm", host_key=KEY.private_openssh)


class World:
    """One server that runs."""

    def __init__(self) -> None:
        self.cloud = FakeCloud(LoopClock())
        self.hosts = FakeHosts(self.cloud)
        self.id = ""

    async def connect(self) -> FakeSsh:
        server = await self.cloud.provision_server(WEB)
        self.id = server.id
        await asyncio.sleep(10)
        identity = MachineIdentity(
            owner=Key("Instance", "shop", "web"),
            server_id=server.id,
            address=server.addresses[0],
            port=22,
            user="root",
            host_key=KEY.public_line,
            client_key=SecretKey(namespace="shop", name="ssh", key="id"),
        )
        ssh = await self.hosts.connect(identity)
        await ssh.install_wrapper()
        return ssh

    @property
    def host(self) -> FakeHost:
        return self.hosts.host(self.id)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_unit_takes_its_time(world: World) -> None:
    ssh = await world.connect()
    world.hosts.unit(["apt-get", "install"], Effect(output="done\n", seconds=20))

    state = await ssh.start_unit("op-1-1", ["apt-get", "install", "redis"], epoch=1, timeout=60)
    assert state.phase is UnitPhase.RUNNING
    await asyncio.sleep(20)

    state = await ssh.unit_state("op-1-1")
    assert (state.phase, state.exit_code, state.output) == (UnitPhase.ENDED, 0, "done\n")


async def test_a_unit_that_takes_too_long_is_ended(world: World) -> None:
    ssh = await world.connect()
    world.hosts.unit(["make"], Effect(seconds=100))
    await ssh.start_unit("op-1-1", ["make"], epoch=1, timeout=60)

    await asyncio.sleep(60)

    assert (await ssh.unit_state("op-1-1")).killed_by == "timeout"


@pytest.mark.parametrize("clean", [False, True])
async def test_a_unit_is_interrupted_by_its_host_going_down_and_not_run_again(world: World, clean: bool) -> None:
    ssh = await world.connect()
    world.hosts.unit(["make"], Effect(seconds=100))
    await ssh.start_unit("op-1-1", ["make"], epoch=1, timeout=600)

    world.cloud.reboot(world.id, clean=clean)
    await asyncio.sleep(10)
    with pytest.raises(Unavailable):
        await ssh.unit_state("op-1-1")
    ssh = await world.connect()

    assert (await ssh.start_unit("op-1-1", ["make"], epoch=1, timeout=600)).phase is UnitPhase.INTERRUPTED
    assert len(world.hosts.runs("op-1-1")) == 1


async def test_a_unit_that_ended_before_the_power_went_has_ended(world: World) -> None:
    ssh = await world.connect()
    await ssh.start_unit("op-1-1", ["true"], epoch=1, timeout=60)
    world.cloud.reboot(world.id, clean=False)

    ssh = await world.connect()

    assert (await ssh.unit_state("op-1-1")).phase is UnitPhase.ENDED


async def test_an_end_that_is_lost_is_unknown(world: World) -> None:
    ssh = await world.connect()
    await ssh.start_unit("op-1-1", ["true"], epoch=1, timeout=60)

    world.host.units["op-1-1"].end_lost = True

    assert (await ssh.unit_state("op-1-1")).phase is UnitPhase.UNKNOWN


async def test_a_start_whose_reply_is_lost_has_run_once(world: World) -> None:
    ssh = await world.connect()
    world.hosts.faults.lose_reply(Unavailable("lost"), call="start_unit")
    with pytest.raises(Unavailable, match="lost"):
        await ssh.start_unit("op-1-1", ["true"], epoch=1, timeout=60)

    await ssh.start_unit("op-1-1", ["true"], epoch=1, timeout=60)

    assert [run.argv for run in world.hosts.journal] == [("true",)]


@pytest.mark.parametrize("fault", ["cut", "frozen"])
async def test_a_host_that_hangs_costs_the_timeout_and_loses_the_connection(world: World, fault: str) -> None:
    ssh = await world.connect()
    setattr(world.host, fault, True)
    began = asyncio.get_running_loop().time()

    with pytest.raises(Unavailable):
        await ssh.run(["true"], timeout=7.0)
    assert asyncio.get_running_loop().time() - began == 7.0
    with pytest.raises(Unavailable, match="timed out"):
        await world.connect()

    setattr(world.host, fault, False)
    assert (await (await world.connect()).run(["true"])).exit_code == 0


async def test_a_full_disk_refuses_files_and_units(world: World) -> None:
    ssh = await world.connect()
    world.host.full = True

    with pytest.raises(LimitReached):
        await ssh.write_file("/etc/x", b"x")
    with pytest.raises(LimitReached):
        await ssh.start_unit("op-1-1", ["true"], epoch=1, timeout=60)

    assert (await ssh.unit_state("op-1-1")).phase is UnitPhase.NEVER
    assert world.hosts.journal == []


async def test_somebody_in_between_shows_another_key(world: World) -> None:
    ssh = await world.connect()
    ssh.close()
    world.host.host_key = make_key_pair("evil").public_line

    with pytest.raises(HostKeyMismatch, match=re.escape(KEY.fingerprint)):
        await world.connect()


async def test_a_test_can_teach_commands(world: World) -> None:
    ssh = await world.connect()

    def dig(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
        return Completed(exit_code=0, stdout=f"{host.hostname} {argv[-1]}", stderr="")

    world.hosts.command(["dig"], dig)

    assert (await ssh.run(["dig", "example.org"])).stdout == "web example.org"


async def test_a_command_from_inside_reboots_or_powers_off(world: World) -> None:
    ssh = await world.connect()
    await ssh.run(["systemctl", "poweroff"])
    await asyncio.sleep(10)

    with pytest.raises(Unavailable):
        await ssh.run(["true"])


async def test_without_hosts_nothing_answers() -> None:
    world = World()
    world.cloud = FakeCloud(LoopClock(), hosts=False)
    world.hosts = FakeHosts(world.cloud)

    with pytest.raises(Unavailable):
        await world.connect()
