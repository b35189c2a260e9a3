"""What simulated hosts can be made to do beyond what every host does (`tests/contract/providers`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentmetal.clients.keys import fingerprint, make_key_pair
from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.clock import LoopClock
from agentmetal.core.errors import AuthenticationFailed, Forbidden, HostKeyMismatch, LimitReached, Unavailable
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
        await ssh.install_wrapper(epoch=1)
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


PLAIN = MachineIdentity(
    owner=Key("Provider", "shop", "lab"),
    server_id="metal-1",
    address="10.1.0.1",
    port=2222,
    user="ops",
    host_key=KEY.public_line,
    client_key=SecretKey(namespace="shop", name="ssh", key="id"),
)


def plain(hosts: FakeHosts, name: str = "metal-1") -> FakeHost:
    return hosts.plain(name, address="10.1.0.1", port=2222, user="ops", host_key=KEY.public_line)


async def test_a_plain_host_answers_without_any_cloud_and_bears_no_claim() -> None:
    hosts = FakeHosts()
    plain(hosts)

    ssh = await hosts.connect(PLAIN)

    assert (await ssh.run(["hostname"])).stdout == "metal-1\n"
    assert await ssh.create_file(CLAIM_PATH, b"ours") == b"ours"


async def test_a_plain_host_is_found_by_address_and_port_whatever_its_entry_is_called() -> None:
    hosts = FakeHosts()
    plain(hosts)

    renamed = await hosts.connect(replace(PLAIN, server_id="renamed"))

    assert (await renamed.run(["hostname"])).stdout == "metal-1\n"
    with pytest.raises(Unavailable):
        await hosts.connect(replace(PLAIN, port=22))


async def test_a_plain_host_reboots_and_has_another_boot_id() -> None:
    hosts = FakeHosts()
    host = plain(hosts)
    ssh = await hosts.connect(PLAIN)
    before = (await ssh.run(["cat", "/proc/sys/kernel/random/boot_id"])).stdout

    hosts.reboot(host)
    await asyncio.sleep(30)

    with pytest.raises(Unavailable):
        await ssh.run(["true"])
    after = await (await hosts.connect(PLAIN)).run(["cat", "/proc/sys/kernel/random/boot_id"])
    assert after.stdout not in ("", before)


async def test_a_plain_host_that_is_replaced_is_another_machine_at_the_same_place() -> None:
    hosts = FakeHosts()
    first = plain(hosts)
    second = plain(hosts)

    assert hosts.host_at("10.1.0.1", 2222) is second
    assert first.files["/etc/machine-id"] != second.files["/etc/machine-id"]


async def test_what_can_be_wrong_with_a_plain_host_is_told_as_by_a_real_one() -> None:
    hosts = FakeHosts(connect_timeout=3.0)
    host = plain(hosts)
    loop = asyncio.get_running_loop()

    host.sudo_asks = True
    with pytest.raises(Forbidden, match="NOPASSWD"):
        await hosts.connect(PLAIN)
    host.sudo_asks, host.refuses, began = False, True, loop.time()
    with pytest.raises(Unavailable, match="refuses"):
        await hosts.connect(PLAIN)
    assert loop.time() == began
    host.refuses, host.cut = False, True
    with pytest.raises(Unavailable, match="does not answer"):
        await hosts.connect(PLAIN)
    assert loop.time() == began + 3.0
    host.cut, host.host_key = False, make_key_pair("other").public_line
    with pytest.raises(HostKeyMismatch):
        await hosts.connect(PLAIN)
    assert fingerprint(await hosts.shown_host_key(PLAIN)) == fingerprint(host.host_key)


async def test_a_read_only_disk_takes_nothing() -> None:
    hosts = FakeHosts()
    host = plain(hosts)
    ssh = await hosts.connect(PLAIN)
    await ssh.write_file("/root/settings", b"old")
    host.health.read_only = True

    for change in (
        ssh.write_file("/root/settings", b"new"),
        ssh.remove_file("/root/settings"),
        ssh.remove_wrapper(epoch=999),
    ):
        with pytest.raises(Forbidden, match="read-only"):
            await change
    assert host.files["/root/settings"] == b"old"


async def test_only_keys_in_the_accounts_own_file_come_in() -> None:
    key = make_key_pair("client")

    async def load_key(place: SecretKey) -> str:
        return key.private_openssh

    hosts = FakeHosts(load_key=load_key)
    host = plain(hosts)
    with pytest.raises(AuthenticationFailed):
        await hosts.connect(PLAIN)

    host.files[host.logins("ops")] = f"{key.public_line}\n".encode()

    assert await (await hosts.connect(PLAIN)).authorized() == (key.public_line,)
