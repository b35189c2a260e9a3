"""A fleet survives the death of everybody who works on it, and goes away without a trace."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from tests.integration.machines.conftest import order
from tests.support.fleet import becomes, leftovers, temporary_fleet

from agentmetal.core.errors import Invalid, LimitReached
from agentmetal.core.machine import ServerSpec, ServerState
from agentmetal.providers.nspawn.fleet import Fleet
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal.providers.nspawn.record import Place

pytestmark = pytest.mark.needs_machines

STOP = """
import asyncio, pathlib, sys
from agentmetal.providers.nspawn.fleet import Fleet
directory, name = sys.argv[1:]
print("begin", flush=True)
asyncio.run(Fleet(pathlib.Path(directory)).stop(name))
"""
PROVISION = """
import asyncio, pathlib, sys
from agentmetal.core.machine import OwnerTag, ServerSpec
from agentmetal.providers.nspawn.provider import NspawnProvider
directory, name = sys.argv[1:]
owner = OwnerTag(cluster="c", namespace="shop", uid=name)
spec = ServerSpec(name=name, owner=owner, type="small", image="bookworm")
print("begin", flush=True)
asyncio.run(NspawnProvider(pathlib.Path(directory)).provision_server(spec))
"""


async def operator_that_provisions(provider: NspawnProvider, spec: ServerSpec) -> asyncio.subprocess.Process:
    """An operator in a process of its own, about to provision."""
    return await operator_about_to(PROVISION, provider, spec)


async def operator_about_to(script: str, provider: NspawnProvider, spec: ServerSpec) -> asyncio.subprocess.Process:
    """A process of its own that has said that it begins."""
    argv = (sys.executable, "-c", textwrap.dedent(script), str(provider.fleet.directory), spec.name)
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begin\n"
    return process


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 5, 8, 13, 30, 100])
async def test_an_operator_killed_while_provisioning_finishes_the_same_machine_later(
    nspawn: NspawnProvider, milliseconds: int
) -> None:
    spec = order()
    operator = await operator_that_provisions(nspawn, spec)
    await asyncio.sleep(milliseconds / 1000)
    if operator.returncode is None:
        operator.kill()
    await operator.wait()
    before = await nspawn.find_server(spec.name)

    server = await nspawn.provision_server(spec)

    assert before is None or before.id == server.id
    await becomes(nspawn, server.id, ServerState.RUNNING)
    await nspawn.decommission_server(server.id, spec.owner)


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 5, 8])
async def test_an_operator_killed_while_stopping_leaves_no_machine_that_goes_down_for_ever(
    nspawn: NspawnProvider, milliseconds: int
) -> None:
    spec = order()
    server = await nspawn.provision_server(spec)
    await becomes(nspawn, server.id, ServerState.RUNNING)
    operator = await operator_about_to(STOP, nspawn, spec)
    await asyncio.sleep(milliseconds / 1000)
    if operator.returncode is None:
        operator.kill()
    await operator.wait()

    if (await nspawn.get_server(server.id)).state is ServerState.STOPPING:  # nobody asks for it again
        await becomes(nspawn, server.id, ServerState.STOPPED)

    await nspawn.decommission_server(server.id, spec.owner)


@pytest.mark.parametrize("milliseconds", [0, 20, 60, 120, 250])
async def test_a_supervisor_killed_while_it_boots_leaves_nothing_in_the_way(
    nspawn: NspawnProvider, milliseconds: int
) -> None:
    spec = order()
    server = await nspawn.provision_server(spec)
    await asyncio.sleep(milliseconds / 1000)
    await nspawn.fleet.kill(spec.name)
    assert (await nspawn.get_server(server.id)).state is ServerState.STOPPED

    await nspawn.start_server(server.id)

    await becomes(nspawn, server.id, ServerState.RUNNING)
    await nspawn.decommission_server(server.id, spec.owner)


async def test_a_removal_that_was_interrupted_is_finished_by_the_next_who_wants_the_name(
    nspawn: NspawnProvider,
) -> None:
    spec = order()
    first = await nspawn.provision_server(spec)
    Place(path=nspawn.fleet.directory / spec.name).removing.touch()
    assert (await nspawn.get_server(first.id)).state is ServerState.DECOMMISSIONING

    second = await nspawn.provision_server(spec)

    assert second.id != first.id
    await becomes(nspawn, second.id, ServerState.RUNNING)
    await nspawn.decommission_server(second.id, spec.owner)


@pytest.mark.parametrize("machine_is", ["running", "killed"])
async def test_a_removal_that_was_interrupted_is_finished_by_the_next_who_asks_for_it(
    nspawn: NspawnProvider, machine_is: str
) -> None:
    spec = order()
    server = await nspawn.provision_server(spec)
    await becomes(nspawn, server.id, ServerState.RUNNING)
    if machine_is == "killed":
        await nspawn.fleet.kill(spec.name)
    Place(path=nspawn.fleet.directory / spec.name).removing.touch()
    assert (await nspawn.get_server(server.id)).state is ServerState.DECOMMISSIONING

    async with asyncio.timeout(10):
        await nspawn.decommission_server(server.id, spec.owner)

    assert await nspawn.find_server(spec.name) is None
    assert not list(nspawn.fleet.directory.glob(".gone-*"))


async def test_machines_outlive_the_operator_that_made_them(nspawn: NspawnProvider) -> None:
    spec = order()
    operator = await operator_that_provisions(nspawn, spec)
    assert await operator.wait() == 0

    server = await nspawn.find_server(spec.name)

    assert server is not None
    await becomes(nspawn, server.id, ServerState.RUNNING)
    await nspawn.decommission_server(server.id, spec.owner)


async def test_a_fleet_that_is_taken_down_leaves_nothing() -> None:
    async with temporary_fleet() as provider:
        running, dead, frozen = [await provider.provision_server(order()) for _ in range(3)]
        for server in (running, dead, frozen):
            await becomes(provider, server.id, ServerState.RUNNING)
        os.kill(Place(path=provider.fleet.directory / dead.name).boot_state()["pid"], signal.SIGKILL)
        await provider.fleet.freeze(frozen.name)
        await provider.provision_server(order())  # boots right now
        assert leftovers(provider)

        await provider.fleet.down()

        assert leftovers(provider) == []
        assert not provider.fleet.directory.exists()
        await provider.fleet.down()


async def test_a_fleet_whose_files_are_lost_is_taken_down_too() -> None:
    async with temporary_fleet() as provider:
        server = await provider.provision_server(order())
        await becomes(provider, server.id, ServerState.RUNNING)
        shutil.rmtree(provider.fleet.directory, ignore_errors=True)

        await provider.fleet.down()

        assert leftovers(provider) == []


async def test_two_fleets_do_not_see_each_other(nspawn: NspawnProvider) -> None:
    async with temporary_fleet() as other:
        server = await other.provision_server(order())
        await becomes(other, server.id, ServerState.RUNNING)

        assert server.id not in [known.id for known in await nspawn.list_servers()]
        assert other.fleet.id != nspawn.fleet.id


async def test_a_full_fleet_says_what_to_do_and_still_finds_its_machines(tmp_path: Path) -> None:
    provider, spec = NspawnProvider(tmp_path / "machines", at_most=1), order()
    try:
        server = await provider.provision_server(spec)

        with pytest.raises(LimitReached, match="sysctl"):
            await provider.provision_server(order())

        assert (await provider.provision_server(spec)).id == server.id
    finally:
        await provider.fleet.down()


async def test_a_directory_that_mounts_cannot_take_is_refused(nspawn: NspawnProvider) -> None:
    with pytest.raises(Invalid, match="','"):
        Fleet(nspawn.fleet.directory / "a,b")
