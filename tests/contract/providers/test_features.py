"""What providers promise about servers that change hands, size or system, and about addresses that move.

A provider that cannot do something says so in its capabilities, and refuses it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.contract.providers.conftest import World, makers
from tests.contract.providers.test_hosts import lost, reached, read
from tests.support.fleet import becomes, new_name

from agentmetal.clients.keys import public_line
from agentmetal.core.errors import ClaimedByOther, Invalid, NotFound
from agentmetal.core.machine import Floating, OwnerTag, ServerSpec, ServerState

SOMEBODY = OwnerTag(cluster="other", namespace="shop", uid="other")
SOMEBODY_ELSE = replace(SOMEBODY, uid="else")


@makers
async def test_the_provider_vouches_for_the_key_of_the_order(world: World) -> None:
    spec = world.spec()

    server = await world.running(spec)

    assert server.host_key.split()[:2] == public_line(spec.host_key).split()[:2]


async def test_an_adopted_server_is_its_new_owners_and_stays_the_same(world: World) -> None:
    spec = world.spec()
    server, heir, name = await world.running(spec), replace(spec.owner, uid="heir"), new_name()

    for _ in range(2):  # again is harmless
        adopted = await world.provider.adopt_server(server.id, name, heir, was=spec.owner)

    assert adopted == replace(server, owner=heir, name=adopted.name)
    assert adopted.name in (name, server.name)
    assert await world.provider.find_server(adopted.name) == adopted
    with pytest.raises(ClaimedByOther):
        await world.provider.decommission_server(server.id, spec.owner)


@pytest.mark.parametrize("expected", [None, SOMEBODY])
async def test_a_server_that_carries_another_tag_than_expected_is_not_adopted(
    world: World, expected: OwnerTag | None
) -> None:
    spec = world.spec()
    server = await world.running(spec)

    with pytest.raises(ClaimedByOther, match=spec.owner.uid):
        await world.provider.adopt_server(server.id, new_name(), SOMEBODY_ELSE, was=expected)

    assert await world.provider.get_server(server.id) == server


async def test_of_many_who_adopt_at_once_one_succeeds(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)
    heirs = [replace(spec.owner, uid=f"heir-{number}") for number in range(5)]

    ended = await asyncio.gather(
        *(world.provider.adopt_server(server.id, new_name(), heir, was=spec.owner) for heir in heirs),
        return_exceptions=True,
    )

    assert [type(end) for end in ended].count(ClaimedByOther) == len(heirs) - 1
    assert (await world.provider.get_server(server.id)).owner in heirs


async def test_a_server_that_is_off_gets_another_size_and_keeps_it(world: World) -> None:
    server = await world.running()
    if not world.provider.capabilities.resize:
        with pytest.raises(Invalid):
            await world.provider.resize_server(server.id, "medium")
        return
    await world.provider.stop_server(server.id, force=True)

    for _ in range(2):
        await world.provider.resize_server(server.id, "medium")

    await world.provider.start_server(server.id)
    assert await becomes(world.provider, server.id, ServerState.RUNNING) == replace(server, type="medium")


async def test_a_server_that_runs_or_a_size_that_is_none_is_refused(world: World) -> None:
    server = await world.running()

    with pytest.raises(Invalid):
        await world.provider.resize_server(server.id, "medium")
    with pytest.raises(Invalid):
        await world.provider.resize_server(server.id, "nonsense")

    assert await world.provider.get_server(server.id) == server


async def test_a_rescue_system_answers_like_the_server_and_has_its_disk(world: World) -> None:
    spec = world.spec(hostname="web-1")
    server = await world.running(spec)
    if not world.provider.capabilities.rescue:
        with pytest.raises(Invalid):
            await world.provider.rescue_server(server.id)
        return
    host = await reached(world, server, spec)
    await host.write_file("/etc/kept", b"kept\n")
    machine_id = await read(host, "/etc/machine-id")

    await world.provider.rescue_server(server.id)
    await world.machines.forget(world.identity(server, "").owner)

    assert await becomes(world.provider, server.id, ServerState.RUNNING) == replace(server, rescue=True)
    rescue = await reached(world, server, spec)
    assert (await rescue.run(["cat", "/etc/kept"])).exit_code != 0
    assert await read(rescue, "/mnt/etc/kept") == "kept"
    assert (await rescue.run(["hostname"])).stdout.strip() == "web-1"
    assert await read(rescue, "/etc/machine-id") == machine_id


@pytest.mark.parametrize("how", ["from inside", "forced", "stopped and started"])
async def test_any_restart_ends_the_rescue(world: World, how: str) -> None:
    spec, provider = world.spec(), world.provider
    server = await world.running(spec)
    if not provider.capabilities.rescue:
        return
    await provider.rescue_server(server.id)
    rescue = await reached(world, server, spec)
    await rescue.write_file("/etc/thrown-away", b"")

    if how == "from inside":
        await rescue.run(["systemctl", "reboot"])
    elif how == "forced":
        await provider.reboot_server(server.id, force=True)
    else:
        await provider.stop_server(server.id)
        off = await becomes(provider, server.id, ServerState.STOPPED)
        assert not off.rescue
        await provider.start_server(server.id)
    if how == "from inside":
        await lost(rescue)
    await world.machines.forget(world.identity(server, "").owner)

    host = await reached(world, server, spec)
    assert await provider.get_server(server.id) == server
    assert (await host.run(["cat", "/etc/thrown-away"])).exit_code != 0


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.05])
async def test_a_rescue_goes_on_where_a_crash_ended_it(world: World, seconds: float) -> None:
    server = await world.running()
    if not world.provider.capabilities.rescue:
        return
    ended = asyncio.create_task(world.provider.rescue_server(server.id))
    await asyncio.sleep(seconds)
    ended.cancel()
    await asyncio.gather(ended, return_exceptions=True)

    await world.provider.rescue_server(server.id)

    assert (await becomes(world.provider, server.id, ServerState.RUNNING)).rescue


async def test_floating_addresses_are_listed_and_are_nobodys_own(world: World) -> None:
    provider, server = world.provider, await world.running()
    if provider.capabilities.floating is Floating.NONE:
        assert await provider.list_floating_ips() == ()
        return
    pool = [floating.address for floating in await provider.list_floating_ips()]
    assert not set(pool) & {address for known in await provider.list_servers() for address in known.addresses}

    await provider.assign_floating_ip(pool[0], server.id)

    routed = provider.capabilities.floating is Floating.ROUTED
    held = {floating.address: floating.server_id for floating in await provider.list_floating_ips()}
    assert held[pool[0]] == (server.id if routed else None)
    await provider.unassign_floating_ip(pool[0])
    assert {floating.server_id for floating in await provider.list_floating_ips()} == {None}


async def test_an_address_outside_of_the_pool_is_not_found(world: World) -> None:
    server = await world.running()

    with pytest.raises(NotFound, match=r"192\.0\.2\.99"):
        await world.provider.assign_floating_ip("192.0.2.99", server.id)
    with pytest.raises(NotFound, match=r"192\.0\.2\.99"):
        await world.provider.unassign_floating_ip("192.0.2.99")


async def test_what_would_be_ignored_is_refused(world: World) -> None:
    spec = world.spec()
    if not world.provider.capabilities.makes_servers:
        return  # an inventory has labels and failure domains of its own
    orders = (
        replace(spec, labels={"disk": "nvme"}),
        replace(spec, failure_domain="nonsense"),
        replace(spec, user_data="#cloud-config\n{}\n"),  # its image has no cloud-init
    )

    assert not world.provider.runs_cloud_init(spec.image)
    for order in orders:
        with pytest.raises(Invalid):
            await world.provider.provision_server(order)


async def test_user_data_is_taken_by_images_with_cloud_init(world: World) -> None:
    images = [image for image in await world.provider.list_images() if world.provider.runs_cloud_init(image)]

    for image in images:
        order: ServerSpec = replace(world.spec(image=image), user_data="#cloud-config\n{}\n")
        assert (await world.running(order)).image == image


async def test_features_of_an_unknown_server_are_not_found(world: World) -> None:
    for call in (
        world.provider.adopt_server("nobody", "name", SOMEBODY, was=None),
        world.provider.resize_server("nobody", "small"),
        world.provider.rescue_server("nobody"),
    ):
        with pytest.raises(NotFound):
            await call


async def test_nothing_is_unusable_where_everything_is_ours(world: World) -> None:
    assert await world.provider.list_unusable() == ()
