"""What the servers of every provider that has hosts promise to whoever connects to them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.contract.providers.conftest import World, makers
from tests.support.fleet import becomes

from agentmetal.clients.keys import make_key_pair, public_line
from agentmetal.core.errors import AuthenticationFailed, HostKeyMismatch, NotFound, StaleLeader, Unavailable
from agentmetal.core.machine import Server, ServerSpec, ServerState, Ssh, UnitPhase, UnitState


async def reached(world: World, server: Server, spec: ServerSpec) -> Ssh:
    """A connection to a host that may still boot."""
    await becomes(world.provider, server.id, ServerState.RUNNING)
    async with asyncio.timeout(30):
        while True:
            try:
                return await world.connect(server, world.pin(server, spec))
            except Unavailable:
                await asyncio.sleep(0.02)


async def read(host: Ssh, path: str) -> str:
    return (await host.run(["cat", path])).stdout.strip()


@makers
async def test_the_first_connection_is_verified_by_the_key_we_gave(world: World) -> None:
    spec = world.spec(hostname="web-1")
    server = await world.running(spec)

    host = await reached(world, server, spec)

    assert (await host.run(["hostname"])).stdout.strip() == "web-1"
    assert (await host.run(["nproc"])).exit_code == 0
    assert await read(host, "/etc/agentmetal-image") == spec.image
    assert len(await read(host, "/etc/machine-id")) == 32


async def test_another_pinned_key_is_a_mismatch(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)
    await reached(world, server, spec)

    with pytest.raises(HostKeyMismatch):
        await world.connect(server, make_key_pair("other").public_line)


@makers
async def test_a_key_that_was_not_ordered_is_refused(world: World) -> None:
    spec = replace(world.spec(), authorized_keys=())
    server = await world.running(spec)

    with pytest.raises(AuthenticationFailed):
        await reached(world, server, spec)


async def test_two_servers_of_one_image_are_different_machines(world: World) -> None:
    ids = []
    for spec in (world.spec(), world.spec()):
        host = await reached(world, await world.running(spec), spec)
        ids.append(await read(host, "/etc/machine-id"))

    assert ids[0] != ids[1]


@makers
@pytest.mark.parametrize("force", [False, True])
async def test_files_survive_a_reboot_and_connections_do_not(world: World, force: bool) -> None:
    spec = world.spec()
    server = await world.running(spec)
    before = await reached(world, server, spec)
    await before.write_file("/etc/kept", b"kept\n")

    await world.provider.reboot_server(server.id, force=force)
    if force:
        await world.machines.forget(world.identity(server, "").owner)
    else:
        await lost(before)

    assert await read(await reached(world, server, spec), "/etc/kept") == "kept"


async def lost(host: Ssh) -> None:
    """Until the connection is gone."""
    async with asyncio.timeout(30):
        while True:
            try:
                await host.run(["true"], timeout=1.0)
            except Unavailable:
                return
            await asyncio.sleep(0.02)


@makers
async def test_a_rebuilt_server_is_empty_and_has_the_new_key(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)
    host = await reached(world, server, spec)
    await host.write_file("/etc/kept", b"kept\n")
    machine_id = await read(host, "/etc/machine-id")
    following = replace(spec, image=world.images[1], host_key=make_key_pair("new").private_openssh)

    await world.provider.rebuild_server(server.id, following)
    await world.machines.forget(world.identity(server, "").owner)

    host = await reached(world, server, following)
    assert (await host.run(["cat", "/etc/kept"])).exit_code != 0
    assert await read(host, "/etc/agentmetal-image") == world.images[1]
    assert await read(host, "/etc/machine-id") != machine_id


@makers
async def test_a_host_that_is_off_does_not_answer(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)
    await reached(world, server, spec)
    await world.provider.stop_server(server.id, force=True)
    await world.machines.forget(world.identity(server, "").owner)

    with pytest.raises(Unavailable):
        await world.connect(server, public_line(spec.host_key))


async def test_a_unit_runs_once_and_tells_how_it_ended(world: World) -> None:
    spec = world.spec()
    host = await reached(world, await world.running(spec), spec)
    await host.install_wrapper(epoch=1)
    assert (await host.unit_state("op-1-1-1")).phase is UnitPhase.NEVER

    for _ in range(2):
        await host.start_unit("op-1-1-1", ["false"], epoch=3, timeout=60.0)
    state = await ended(host, "op-1-1-1")

    assert (state.phase, state.exit_code) == (UnitPhase.ENDED, 1)
    await host.forget_units("op-1")
    assert (await host.unit_state("op-1-1-1")).phase is UnitPhase.NEVER


async def ended(host: Ssh, unit: str) -> UnitState:
    """The unit's state once it runs no more."""
    async with asyncio.timeout(30):
        while True:
            state = await host.unit_state(unit)
            if state.phase is not UnitPhase.RUNNING:
                return state
            await asyncio.sleep(0.02)


async def test_an_older_leader_starts_nothing(world: World) -> None:
    spec = world.spec()
    host = await reached(world, await world.running(spec), spec)
    await host.install_wrapper(epoch=1)
    await host.start_unit("op-2-1-1", ["true"], epoch=3, timeout=60.0)

    with pytest.raises(StaleLeader, match="3"):
        await host.start_unit("op-2-2-1", ["true"], epoch=2, timeout=60.0)

    assert (await host.unit_state("op-2-2-1")).phase is UnitPhase.NEVER


async def test_a_program_that_is_not_there_is_certainly_not_started(world: World) -> None:
    spec = world.spec()
    host = await reached(world, await world.running(spec), spec)
    await host.install_wrapper(epoch=1)

    with pytest.raises(NotFound):
        await host.start_unit("op-3-1-1", ["no-such-program"], epoch=1, timeout=60.0)

    assert (await host.unit_state("op-3-1-1")).phase is UnitPhase.NEVER
    assert (await host.run(["no-such-program"])).exit_code == 127


async def test_a_file_is_created_once(world: World) -> None:
    spec = world.spec()
    host = await reached(world, await world.running(spec), spec)

    assert await host.create_file("/etc/agentmetal-claim", b"first") == b"first"
    assert await host.create_file("/etc/agentmetal-claim", b"second") == b"first"
    await host.remove_file("/etc/agentmetal-claim")
    await host.remove_file("/etc/agentmetal-claim")
    assert await host.create_file("/etc/agentmetal-claim", b"third") == b"third"
