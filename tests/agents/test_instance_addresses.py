"""The tools for floating addresses on a fake cloud with simulated hosts, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.agents.test_instance_tools import WEB, provisioned, until_ended
from tests.support.agents import SERVER_NAME, UID, AgentWorld

from agentmetal.core.condition import Reason
from agentmetal.core.errors import CommandFailed, Invalid, Unavailable
from agentmetal.core.machine import Completed, Floating
from agentmetal.core.risk import Risk
from agentmetal.core.tool import NotYet, Refusal, Result
from agentmetal.providers.fake_host import FakeHost
from agentmetal.providers.fake_hosts import Effect
from agentmetal_tools import addresses
from agentmetal_tools.address_program import HOME, digest, read_conf, unit_of
from agentmetal_tools.addresses import (
    PROGRAM,
    AddressFacts,
    AddressLook,
    AddressParams,
    HoldParams,
    drop_address,
    find_holders,
    hold_address,
    look_address,
)
from agentmetal_tools.servers import InstanceHost, visit

pytestmark = pytest.mark.looptime

ADDRESS = "203.0.113.10"
HOST = InstanceHost(
    provider="cloud",
    server=SERVER_NAME,
    host_key_secret="web-host-key",
    client_key_secret="cloud-ssh",
    instance="web",
    instance_uid=UID,
)
GONE = HOST.model_copy(update={"server": "db-gone", "instance": "db"})
HOLD = HoldParams(host=HOST, address=ADDRESS, epoch=2, lifetime_seconds=30, condition=("/bin/true",))
DROP = AddressParams(host=HOST, address=ADDRESS)
FOREVER = 2**32 - 1
FIT, DONE = Completed(exit_code=0, stdout="", stderr=""), Effect()


@dataclass
class Kernel:
    """What `ip`, `systemctl` and the program do on a simulated host."""

    lifetimes: dict[str, int] = field(default_factory=dict)
    active: bool = False
    condition: str = ""
    """What is wrong with it."""
    fit: Completed = FIT
    hold: Effect = DONE

    def install(self, world: AgentWorld) -> None:
        hosts = world.hosts
        hosts.command(["ip", "-j", "-4", "addr", "show"], lambda host, argv, stdin: self._shown())
        hosts.command(["systemctl", "is-active", "--", unit_of(ADDRESS)], lambda host, argv, stdin: self._is_active())
        hosts.command(["python3", "-I", str(PROGRAM), "check"], lambda host, argv, stdin: self.fit)
        hosts.unit(["python3", "-I", str(PROGRAM), "hold"], self._hold)
        hosts.unit(["python3", "-I", str(PROGRAM), "drop"], self._drop)

    def _shown(self) -> Completed:
        infos = [{"local": address, "valid_life_time": seconds} for address, seconds in self.lifetimes.items()]
        return Completed(exit_code=0, stdout=json.dumps([{"ifname": "eth0", "addr_info": infos}]), stderr="")

    def _is_active(self) -> Completed:
        return Completed(exit_code=0 if self.active else 3, stdout="", stderr="")

    def _hold(self, host: FakeHost, argv: Sequence[str]) -> Effect:
        self.active = self.hold.exit_code == 0
        self.turn(host)
        return self.hold

    def turn(self, host: FakeHost) -> None:
        """What the program does when its condition has been asked."""
        if not self.condition and self.active:
            self.lifetimes[ADDRESS] = 29
        by = digest(host.files[f"{HOME}/{ADDRESS}.conf"], host.files[str(PROGRAM)])
        state = f"digest={by}\nepoch=2\nsince=2026-01-01T00:00:00Z\ncheck={self.condition}\n"
        host.files[f"{HOME}/{ADDRESS}.state"] = state.encode()

    def _drop(self, host: FakeHost, argv: Sequence[str]) -> Effect:
        self.active = False
        self.lifetimes.pop(ADDRESS, None)
        for path in (f"{HOME}/{ADDRESS}.conf", f"{HOME}/{ADDRESS}.state", str(PROGRAM)):
            host.files.pop(path, None)
        return Effect()


async def ready(kernel: Kernel | None = None, **cloud: Any) -> tuple[AgentWorld, Kernel, FakeHost]:
    """A world with a host that can hold addresses."""
    world, kernel = AgentWorld(**cloud), kernel or Kernel()
    server_id = await provisioned(world)
    kernel.install(world)
    return world, kernel, world.hosts.host(server_id)


async def facts_of(world: AgentWorld, params: HoldParams = HOLD) -> AddressFacts:
    return await hold_address.read(world.context(WEB), params)


async def assigned(world: AgentWorld) -> str | None:
    return {each.address: each.server_id for each in await world.cloud.list_floating_ips()}[ADDRESS]


async def test_step_ends_once_the_condition_has_held_and_only_then_traffic_is_sent_there() -> None:
    world, kernel, host = await ready(Kernel(condition="exit code 1"))
    waiting = await world.call(hold_address, WEB, HOLD)
    assert isinstance(waiting, NotYet)
    assert "exit code 1" in waiting.message
    assert await assigned(world) is None

    kernel.condition = ""
    kernel.turn(host)
    assert isinstance(await world.call(hold_address, WEB, HOLD), Result)
    (server,) = await world.cloud.list_servers()
    assert await assigned(world) == server.id


async def test_hold_that_stands_is_not_touched_again() -> None:
    world, _, _ = await ready()
    await until_ended(world, hold_address, HOLD)
    started = len(world.hosts.journal)

    await until_ended(world, hold_address, HOLD)

    assert len(world.hosts.journal) == started


async def test_dropped_address_is_sent_nowhere_and_leaves_nothing() -> None:
    world, kernel, host = await ready()
    before = set(host.files)
    await until_ended(world, hold_address, HOLD)

    for _ in range(2):
        assert isinstance(await drop_address.run(world.context(WEB, step=2), DROP), Result)

    assert await assigned(world) is None
    assert (set(host.files), kernel.active, kernel.lifetimes) == (before, False, {})


async def test_host_without_python_says_what_to_install() -> None:
    world, _, _ = await ready(Kernel(fit=Completed(exit_code=127, stdout="", stderr="not found")))
    with pytest.raises(Invalid, match="lacks python3: install python3-minimal"):
        await until_ended(world, hold_address, HOLD)


async def test_host_that_is_not_fit_says_why() -> None:
    world, _, _ = await ready(Kernel(fit=Completed(exit_code=78, stdout="", stderr="no raw sockets\x1b\n")))
    with pytest.raises(Invalid, match="not fit, it cannot hold a floating address: no raw sockets"):
        await until_ended(world, hold_address, HOLD)


async def test_program_that_refuses_ends_the_attempt_with_its_sentence() -> None:
    world, _, _ = await ready(Kernel(hold=Effect(exit_code=78, output="no device of this host")))
    with pytest.raises(CommandFailed, match="no device of this host"):
        await until_ended(world, hold_address, HOLD)


async def test_unit_that_does_not_run_after_its_start_ends_the_attempt() -> None:
    world, kernel, _ = await ready(Kernel(condition="exit code 1"))
    await world.call(hold_address, WEB, HOLD)
    kernel.active = False  # the host was rebooted

    with pytest.raises(CommandFailed, match="does not run"):
        await world.call(hold_address, WEB, HOLD)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (AddressFacts(here=AddressLook(), floating=Floating.NONE), Reason.NOT_SUPPORTED),
        (AddressFacts(here=AddressLook(), offered=False), Reason.ADDRESS_NOT_ALLOWED),
        (AddressFacts(here=AddressLook(lacks="iproute2")), Reason.NOT_SUPPORTED),
        (AddressFacts(here=AddressLook(permanent=True)), Reason.CLAIMED_BY_OTHER),
        (AddressFacts(here=AddressLook(epoch=3)), Reason.CLAIMED_BY_OTHER),
    ],
    ids=["provider without", "not listed", "no ip", "configured by hand", "newer epoch"],
)
def test_hold_is_refused(facts: AddressFacts, reason: Reason) -> None:
    refusal = hold_address.holds(HOLD, facts)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason


async def test_facts_are_those_of_host_and_provider() -> None:
    world, kernel, _ = await ready(floating_ips=["203.0.113.99"])
    kernel.lifetimes[ADDRESS] = FOREVER

    facts = await facts_of(world)

    assert (facts.here.permanent, facts.here.holds, facts.offered, facts.elsewhere) == (True, False, False, ())
    assert "for good" in str(facts)


@pytest.mark.parametrize(("lifetime", "risk"), [(None, Risk.MODERATE), (29, Risk.DANGEROUS), (FOREVER, Risk.DANGEROUS)])
async def test_taking_an_address_from_a_host_that_has_it_is_dangerous(lifetime: int | None, risk: Risk) -> None:
    world, kernel, _ = await ready()
    if lifetime is not None:
        kernel.lifetimes[ADDRESS] = lifetime
    holders = await find_holders(world.ports, "shop", ADDRESS, [HOST])

    facts = AddressFacts(here=AddressLook(), elsewhere=holders)

    assert hold_address.risk(HOLD, facts) is risk


async def test_address_of_the_host_itself_is_not_ours_even_with_a_lifetime() -> None:
    leased = [{"local": ADDRESS, "prefixlen": 24, "valid_life_time": 3600}]
    shown = Completed(exit_code=0, stdout=json.dumps([{"ifname": "eth0", "addr_info": leased}]), stderr="")
    world, _, _ = await ready()
    world.hosts.command(["ip", "-j", "-4", "addr", "show"], lambda host, argv, stdin: shown)

    facts = await facts_of(world)

    assert facts.here.permanent and not facts.here.holds
    refused = hold_address.holds(HOLD, facts)
    assert refused is not None and refused.reason is Reason.CLAIMED_BY_OTHER


async def test_silent_host_may_have_it_unless_its_provider_says_that_it_is_off() -> None:
    world, _, host = await ready()
    host.cut = True
    assert await find_holders(world.ports, "shop", ADDRESS, [HOST, GONE]) == ("web",)

    (server,) = await world.cloud.list_servers()
    await world.cloud.stop_server(server.id, force=True)
    assert await find_holders(world.ports, "shop", ADDRESS, [HOST, GONE]) == ()


async def test_host_that_is_missing_from_an_inventory_may_have_it() -> None:
    world = AgentWorld(inventory=True)

    assert await find_holders(world.ports, "shop", ADDRESS, [GONE]) == ("db",)


async def test_host_whose_answer_is_not_understood_may_have_it() -> None:
    world, _, _ = await ready()
    garbage = Completed(exit_code=1, stdout="", stderr="ip: invalid option -- 'j'\n")
    world.hosts.command(["ip", "-j", "-4", "addr", "show"], lambda host, argv, stdin: garbage)

    with pytest.raises(Unavailable, match="iproute2"):
        await facts_of(world)
    assert await find_holders(world.ports, "shop", ADDRESS, [HOST]) == ("web",)


async def test_own_host_is_no_rival() -> None:
    world, kernel, _ = await ready()
    kernel.lifetimes[ADDRESS] = 29

    assert (await facts_of(world, HOLD.model_copy(update={"rivals": (HOST,)}))).elsewhere == ()


@settings(max_examples=25)  # each builds a world
@given(device=st.text(max_size=15), state=st.text(max_size=400))
async def test_whatever_a_host_says_is_only_shown(device: str, state: str) -> None:
    shown = json.dumps([{"ifname": device, "addr_info": [{"local": ADDRESS, "valid_life_time": 3}]}])
    said = Completed(exit_code=0, stdout=state, stderr="")
    world, _, _ = await ready()
    world.hosts.command(["cat"], lambda host, argv, stdin: said)
    world.hosts.command(["ip", "-j", "-4", "addr", "show"], lambda host, argv, stdin: replace(said, stdout=shown))

    look = await look_address(await visit(world.ports, "shop", HOST), ADDRESS)

    for text in (look.check, look.since, look.rival, look.digest, look.device):
        assert len(text) <= 256
        assert not text or text.isprintable()


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "10.0.0.300"},
        {"address": "fe80::1"},
        {"address": "127.0.0.1"},
        {"address": "224.0.0.1"},
        {"lifetime_seconds": 2},
        {"condition": ()},
        {"condition": ("/bin/true\nlifetime=9999",)},
        {"device": "../eth0"},
        {"device": "-j"},
        {"epoch": 0},
    ],
    ids=str,
)
def test_parameters_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HoldParams(**{**HOLD.model_dump(), **wrong})


def test_program_reads_what_the_tool_writes() -> None:
    written = HOLD.model_copy(update={"condition": ("/bin/test", "-e", "a=b c"), "device": "eth1"})

    conf = read_conf(addresses.conf_of(written), b"")

    assert conf[:5] == (ADDRESS, 2, 30, "eth1", ("/bin/test", "-e", "a=b c"))
