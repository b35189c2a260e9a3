"""What the fleet's faults do to a real machine."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.support.fleet import becomes, until

from agentmetal.core.errors import NotFound, Unavailable
from agentmetal.core.machine import Server, ServerState
from agentmetal.providers.nspawn import cgroups
from agentmetal.providers.nspawn.fleet import Fleet
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal.providers.nspawn.record import Place

pytestmark = pytest.mark.needs_machines


async def banner(fleet: Fleet, server: Server, timeout: float = 2.0) -> str:
    """What sshd says. Raises Unavailable or TimeoutError."""
    connection = await fleet.dial(server.addresses[0], 22, timeout)
    try:
        async with asyncio.timeout(timeout):
            return (await asyncio.get_running_loop().sock_recv(connection, 64)).decode()
    finally:
        connection.close()


async def answers(fleet: Fleet, server: Server) -> bool:
    """It does, once it has booted: a machine runs from power on."""
    async with asyncio.timeout(30):
        while True:
            try:
                return (await banner(fleet, server)).startswith("SSH-2.0")
            except Unavailable:
                await asyncio.sleep(0.02)


def networks() -> set[Path]:
    """The namespaces that threads of this process are in."""
    return {Path(f"/proc/self/task/{thread.native_id}/ns/net").readlink() for thread in threading.enumerate()}


def routes_here() -> str:
    """Every address and route of the namespace that we are in."""
    return Path("/proc/self/net/fib_trie").read_text()


def place_of(fleet: Fleet, server: Server) -> Place:
    return Place(path=fleet.directory / server.name)


async def test_a_running_machine_answers_only_inside_the_fleet(nspawn: NspawnProvider, machine: Server) -> None:
    home = networks()

    assert (await banner(nspawn.fleet, machine)).startswith("SSH-2.0")

    assert networks() == home
    assert len(home) == 1
    assert "10.77." not in routes_here()


async def test_killed_machine_is_stopped_within_a_second_and_silent(nspawn: NspawnProvider, machine: Server) -> None:
    began = time.monotonic()

    await nspawn.fleet.kill(machine.name)

    assert (await nspawn.get_server(machine.id)).state is ServerState.STOPPED
    assert time.monotonic() - began < 1.0
    with pytest.raises(Unavailable):  # silence, not "refused": refusing takes a living kernel
        await banner(nspawn.fleet, machine, timeout=0.5)


async def test_killed_machine_starts_again_with_its_address(nspawn: NspawnProvider, machine: Server) -> None:
    await nspawn.fleet.kill(machine.name)

    await nspawn.fleet.start(machine.name)
    await becomes(nspawn, machine.id, ServerState.RUNNING)

    assert await answers(nspawn.fleet, machine)


async def test_frozen_machine_accepts_and_answers_nothing_until_thawed(nspawn: NspawnProvider, machine: Server) -> None:
    await nspawn.fleet.freeze(machine.name)

    with pytest.raises(TimeoutError):
        await banner(nspawn.fleet, machine, timeout=0.5)

    await nspawn.fleet.thaw(machine.name)
    assert await answers(nspawn.fleet, machine)


async def test_frozen_machine_can_lose_its_power(nspawn: NspawnProvider, machine: Server) -> None:
    await nspawn.fleet.freeze(machine.name)

    await nspawn.fleet.kill(machine.name)
    await nspawn.fleet.start(machine.name)

    await becomes(nspawn, machine.id, ServerState.RUNNING)


async def test_cut_machine_stays_cut_over_a_reboot_until_healed(nspawn: NspawnProvider, machine: Server) -> None:
    await nspawn.fleet.cut(machine.name)
    with pytest.raises(Unavailable):
        await banner(nspawn.fleet, machine, timeout=0.5)

    await nspawn.fleet.reset(machine.name)
    await becomes(nspawn, machine.id, ServerState.RUNNING)
    with pytest.raises(Unavailable):
        await banner(nspawn.fleet, machine, timeout=0.5)

    await nspawn.fleet.heal(machine.name)
    assert await answers(nspawn.fleet, machine)


async def test_killed_supervisor_takes_its_machine_along(nspawn: NspawnProvider, machine: Server) -> None:
    group = f"{nspawn.fleet.id}/{(await nspawn.fleet.machine(machine.name)).record.number}"
    assert cgroups.members(group)

    os.kill(place_of(nspawn.fleet, machine).boot_state()["pid"], signal.SIGKILL)

    await becomes(nspawn, machine.id, ServerState.STOPPED)
    await until(lambda: not cgroups.members(group))
    await nspawn.fleet.start(machine.name)
    await becomes(nspawn, machine.id, ServerState.RUNNING)


async def test_a_recycled_pid_is_never_signalled(nspawn: NspawnProvider, machine: Server) -> None:
    await nspawn.fleet.kill(machine.name)
    place = place_of(nspawn.fleet, machine)
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    place.boot.write_text(f'{{"pid": {bystander.pid}, "since": 1, "booted": true, "ready": true}}')

    await nspawn.fleet.stop(machine.name)

    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()


async def test_machine_that_powers_itself_off_is_stopped(nspawn: NspawnProvider, machine: Server) -> None:
    pid = (await nspawn.fleet.machine(machine.name)).pid
    assert pid is not None

    os.kill(pid, signal.SIGRTMIN + 4)  # what `systemctl poweroff` asks of pid 1

    await becomes(nspawn, machine.id, ServerState.STOPPED)


async def test_machines_are_listed_with_what_people_ask_for(nspawn: NspawnProvider, machine: Server) -> None:
    listed = await nspawn.fleet.machine(machine.name)

    assert (listed.record.address, listed.namespace, listed.state) == (machine.addresses[0], "shop", machine.state)
    assert listed.pid is not None
    with pytest.raises(NotFound, match=machine.name):
        await nspawn.fleet.machine("nobody")


async def test_machine_has_the_memory_of_its_type(nspawn: NspawnProvider, machine: Server) -> None:
    number = (await nspawn.fleet.machine(machine.name)).record.number

    limits = [
        cgroups.ROOT / f"memory/{nspawn.fleet.id}/{number}/memory.limit_in_bytes",
        cgroups.ROOT / f"{nspawn.fleet.id}/{number}/memory.max",
    ]

    found = [path.read_text().strip() for path in limits if path.exists()]
    assert found == [str(256 << 20)] or "not limited" in place_of(nspawn.fleet, machine).log.read_text()
