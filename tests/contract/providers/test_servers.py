"""What every provider of servers promises."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.contract.providers.conftest import World, makers
from tests.support.fleet import becomes, new_name

from agentmetal.core.errors import ClaimedByOther, Invalid, NotFound
from agentmetal.core.machine import OwnerTag, ServerState

SOMEBODY = OwnerTag(cluster="other", namespace="shop", uid="other")


@makers
async def test_a_provisioned_server_comes_to_run_as_ordered(world: World) -> None:
    spec = world.spec()

    server = await world.running(spec)

    assert (server.name, server.owner, server.type, server.image) == (spec.name, spec.owner, spec.type, spec.image)
    assert server.addresses
    assert server.created_at is not None


async def test_second_provision_returns_the_first_server(world: World) -> None:
    spec = world.spec()
    first = await world.running(spec)

    second = await world.provider.provision_server(spec)

    assert second == first


async def test_provisions_at_once_make_one_server(world: World) -> None:
    spec = world.spec()

    servers = await asyncio.gather(*(world.provider.provision_server(spec) for _ in range(10)))

    assert len({server.id for server in servers}) == 1
    assert [server.name for server in await world.provider.list_servers()].count(spec.name) == 1
    await becomes(world.provider, servers[0].id, ServerState.RUNNING)


async def test_servers_made_at_once_have_addresses_of_their_own(world: World) -> None:
    servers = await asyncio.gather(*(world.provider.provision_server(world.spec()) for _ in range(3)))

    assert len({server.addresses for server in servers}) == 3


async def test_a_name_of_another_owner_is_refused(world: World) -> None:
    spec = world.spec()
    server = await world.provider.provision_server(spec)

    with pytest.raises(ClaimedByOther, match=spec.owner.uid):
        await world.provider.provision_server(replace(spec, owner=SOMEBODY))

    assert (await world.provider.get_server(server.id)).owner == spec.owner


@pytest.mark.parametrize("field", ["type", "image", "location"])
async def test_what_cannot_be_ordered_is_refused_with_what_can(world: World, field: str) -> None:
    spec = world.spec(**{field: "nonsense"})
    known = {"type": "small", "image": world.images[0], "location": ""}[field]

    with pytest.raises(Invalid, match=f"'nonsense' does not exist: use .*{known}"):
        await world.provider.provision_server(spec)

    assert await world.provider.find_server(spec.name) is None


async def test_what_is_listed_can_be_ordered(world: World) -> None:
    types = [type.name for type in await world.provider.list_server_types()]
    locations = [location.name for location in await world.provider.list_locations()]

    assert sorted(types) == ["large", "medium", "small"]
    assert set(world.images) <= set(await world.provider.list_images())
    server = await world.provider.provision_server(world.spec(type="medium", location=locations[-1]))
    assert (server.type, server.location) == ("medium", locations[-1])


async def test_lists_show_servers_with_their_owners(world: World) -> None:
    specs = [world.spec(), world.spec()]
    for spec in specs:
        await world.provider.provision_server(spec)

    owners = {server.name: server.owner for server in await world.provider.list_servers()}

    assert [owners[spec.name] for spec in specs] == [spec.owner for spec in specs]


async def test_a_server_is_found_by_its_name(world: World) -> None:
    server = await world.running()

    assert await world.provider.find_server(server.name) == server
    assert await world.provider.find_server(new_name()) is None


@makers
async def test_a_decommissioned_server_certainly_does_not_exist(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)

    await world.provider.decommission_server(server.id, spec.owner)

    with pytest.raises(NotFound, match=server.id):
        await world.provider.get_server(server.id)
    assert await world.provider.find_server(spec.name) is None


async def test_decommissioning_twice_is_no_error(world: World) -> None:
    spec = world.spec()
    server = await world.provider.provision_server(spec)

    for _ in range(2):
        await world.provider.decommission_server(server.id, spec.owner)
        assert await world.provider.find_server(spec.name) is None


@makers
async def test_decommissions_at_once_are_no_error(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)

    await asyncio.gather(*(world.provider.decommission_server(server.id, spec.owner) for _ in range(5)))

    with pytest.raises(NotFound):
        await world.provider.get_server(server.id)


@makers
@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.05])
async def test_decommission_goes_on_where_a_crash_ended_it(world: World, seconds: float) -> None:
    spec = world.spec()
    server = await world.running(spec)
    ended = asyncio.create_task(world.provider.decommission_server(server.id, spec.owner))
    await asyncio.sleep(seconds)
    ended.cancel()
    await asyncio.gather(ended, return_exceptions=True)

    async with asyncio.timeout(20):
        await world.provider.decommission_server(server.id, spec.owner)

    with pytest.raises(NotFound):
        await world.provider.get_server(server.id)


async def test_a_server_of_another_owner_is_not_decommissioned(world: World) -> None:
    server = await world.running()

    with pytest.raises(ClaimedByOther):
        await world.provider.decommission_server(server.id, SOMEBODY)

    assert (await world.provider.get_server(server.id)).state is ServerState.RUNNING


@makers
async def test_a_name_used_again_is_another_server(world: World) -> None:
    spec = world.spec()
    first = await world.provider.provision_server(spec)
    await world.provider.decommission_server(first.id, spec.owner)

    second = await world.running(spec)

    assert second.id != first.id


@makers
@pytest.mark.parametrize("force", [False, True])
async def test_a_stopped_server_starts_again(world: World, force: bool) -> None:
    server = await world.running()

    await world.provider.stop_server(server.id, force=force)
    await becomes(world.provider, server.id, ServerState.STOPPED)
    await world.provider.start_server(server.id)

    assert await becomes(world.provider, server.id, ServerState.RUNNING) == server


@makers
async def test_a_server_that_shuts_down_is_stopping_first(world: World) -> None:
    server = await world.running()

    await world.provider.stop_server(server.id)

    assert (await world.provider.get_server(server.id)).state is ServerState.STOPPING
    await becomes(world.provider, server.id, ServerState.STOPPED)


@makers
async def test_a_server_switched_on_while_it_goes_down_runs_in_the_end(world: World) -> None:
    server = await world.running()
    await world.provider.stop_server(server.id)

    await world.provider.start_server(server.id)

    await becomes(world.provider, server.id, ServerState.RUNNING)


@makers
async def test_starting_what_runs_and_stopping_what_is_off_does_nothing(world: World) -> None:
    server = await world.running()
    await world.provider.start_server(server.id)
    assert await world.provider.get_server(server.id) == server

    for force in (True, False, True):
        await world.provider.stop_server(server.id, force=force)

    assert (await world.provider.get_server(server.id)).state is ServerState.STOPPED


@makers
@pytest.mark.parametrize("force", [False, True])
async def test_a_rebooted_server_stays_the_same(world: World, force: bool) -> None:
    server = await world.running()

    await world.provider.reboot_server(server.id, force=force)

    assert await becomes(world.provider, server.id, ServerState.RUNNING) == server


@makers
async def test_a_stopped_server_is_not_started_by_provisioning_it_again(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)
    await world.provider.stop_server(server.id, force=True)

    again = await world.provider.provision_server(spec)

    assert (again.id, again.state) == (server.id, ServerState.STOPPED)


@makers
async def test_a_rebuilt_server_has_another_image_and_the_same_identity(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)

    await world.provider.rebuild_server(server.id, replace(spec, image=world.images[1]))

    rebuilt = await becomes(world.provider, server.id, ServerState.RUNNING)
    assert rebuilt == replace(server, image=world.images[1])


@makers
async def test_a_rebuild_by_another_owner_or_to_nonsense_is_refused(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)

    with pytest.raises(ClaimedByOther):
        await world.provider.rebuild_server(server.id, replace(spec, owner=SOMEBODY))
    with pytest.raises(Invalid):
        await world.provider.rebuild_server(server.id, replace(spec, image="nonsense"))

    assert await world.provider.get_server(server.id) == server


async def test_an_unknown_server_is_not_found(world: World) -> None:
    provider, spec = world.provider, world.spec()
    for call in (
        provider.get_server("nobody"),
        provider.start_server("nobody"),
        provider.stop_server("nobody"),
        provider.reboot_server("nobody"),
        provider.rebuild_server("nobody", spec),
    ):
        with pytest.raises(NotFound, match="'nobody'"):
            await call
    await provider.decommission_server("nobody", spec.owner)
