"""What providers promise whose servers exist already, where others make, switch and delete them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.contract.providers.conftest import World, inventories
from tests.contract.providers.test_hosts import lost, reached, read

from agentmetal.core.claim import CLAIM_PATH, read_claim
from agentmetal.core.errors import ClaimedByOther, Invalid, LimitReached
from agentmetal.core.machine import OwnerTag, Server, ServerState

pytestmark = inventories


async def test_an_order_is_a_host_as_it_is(world: World) -> None:
    spec = world.spec()

    server = await world.provider.provision_server(spec)

    assert (server.name, server.owner, server.type, server.image) == (spec.name, spec.owner, "small", "existing")
    assert (server.state, server.created_at, server.silent) == (ServerState.RUNNING, None, "")
    assert server.addresses


async def test_the_provider_vouches_for_the_hosts_own_key(world: World) -> None:
    spec = world.spec(hostname="not-given")
    server = await world.provider.provision_server(spec)

    host = await world.connect(server, server.host_key)

    assert (await host.run(["hostname"])).stdout.strip() != "not-given"
    claim = read_claim(await read(host, CLAIM_PATH))
    assert claim is not None
    assert (claim.tag, claim.server) == (spec.owner, spec.name)


async def test_keys_of_the_order_are_not_needed_where_ours_is_known(world: World) -> None:
    spec = replace(world.spec(), authorized_keys=())

    server = await world.provider.provision_server(spec)

    assert (await (await reached(world, server, spec)).run(["true"])).exit_code == 0


async def test_power_is_refused_with_a_sentence(world: World) -> None:
    server, provider = await world.running(), world.provider
    assert not provider.capabilities.power
    for call in (
        provider.start_server(server.id),
        provider.stop_server(server.id),
        provider.stop_server(server.id, force=True),
        provider.reboot_server(server.id),
        provider.reboot_server(server.id, force=True),
    ):
        with pytest.raises(Invalid, match=f"'{server.id}' is from an inventory and has no power control"):
            await call
    with pytest.raises(Invalid, match="not ours to replace"):
        await provider.rebuild_server(server.id, world.spec())

    assert await provider.get_server(server.id) == server


async def test_a_reboot_from_inside_keeps_the_claim(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)
    host = await reached(world, server, spec)
    await host.write_file("/etc/kept", b"kept\n")

    await host.run(["systemctl", "reboot"])
    await lost(host)

    assert await read(await reached(world, server, spec), "/etc/kept") == "kept"
    assert await world.provider.get_server(server.id) == server


async def test_a_released_host_stays_and_is_nobodys(world: World) -> None:
    spec = world.spec()
    server = await world.running(spec)
    host = await reached(world, server, spec)
    await host.write_file("/srv/data", b"theirs\n")

    await asyncio.gather(*(world.provider.decommission_server(server.id, spec.owner) for _ in range(3)))

    left = await world.provider.get_server(server.id)
    assert (left.owner, left.name, left.state) == (None, server.id, ServerState.RUNNING)
    assert await world.provider.find_server(spec.name) is None
    assert (await host.run(["cat", CLAIM_PATH])).exit_code != 0
    assert await read(host, "/srv/data") == "theirs"


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.05])
async def test_a_release_goes_on_where_a_crash_ended_it(world: World, seconds: float) -> None:
    spec = world.spec()
    server = await world.running(spec)
    ended = asyncio.create_task(world.provider.decommission_server(server.id, spec.owner))
    await asyncio.sleep(seconds)
    ended.cancel()
    await asyncio.gather(ended, return_exceptions=True)

    await world.provider.decommission_server(server.id, spec.owner)

    assert (await world.provider.get_server(server.id)).owner is None


async def test_two_who_want_the_last_host_of_a_type_do_not_share_it(world: World) -> None:
    orders = [world.spec(type="large"), world.spec(type="large")]

    ended = await asyncio.gather(*map(world.provider.provision_server, orders), return_exceptions=True)

    (winner,) = (one for one in ended if isinstance(one, Server))
    (loser,) = (one for one in ended if isinstance(one, LimitReached))
    assert "1 of Provider 'lab' fit (type 'large'): 1 claimed" in loser.message
    assert (await world.provider.get_server(winner.id)).owner == winner.owner


async def test_a_host_that_nobody_has_is_adopted_by_its_id(world: World) -> None:
    spec = world.spec()

    server = await world.provider.adopt_server("plain-4", spec.name, spec.owner, was=None)

    assert (server.id, server.name, server.owner) == ("plain-4", spec.name, spec.owner)
    assert await world.provider.find_server(spec.name) == server
    somebody = OwnerTag(cluster="other", namespace="shop", uid="other")
    with pytest.raises(ClaimedByOther, match=spec.owner.uid):
        await world.provider.adopt_server("plain-4", "theirs", somebody, was=None)
