"""Everything that can be made to go wrong with the fake cloud."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentmetal.core.clock import LoopClock
from agentmetal.core.condition import Reason
from agentmetal.core.errors import (
    ClaimedByOther,
    Invalid,
    LimitReached,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Unavailable,
)
from agentmetal.core.machine import OwnerTag, ServerSpec, ServerState, Unusable
from agentmetal.providers.fake import FakeCloud

pytestmark = pytest.mark.looptime

OWNER = OwnerTag(cluster="c", namespace="shop", uid="u1")
WEB = ServerSpec(name="web", owner=OWNER, type="small", image="bookworm")
DB = ServerSpec(name="db", owner=OWNER, type="small", image="bookworm")


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud(LoopClock())


async def test_a_server_boots_in_the_time_it_was_given(cloud: FakeCloud) -> None:
    server = await cloud.provision_server(WEB)
    assert server.state is ServerState.PROVISIONING
    assert server.created_at == LoopClock().now()

    await asyncio.sleep(5)

    assert (await cloud.get_server(server.id)).state is ServerState.RUNNING


async def test_an_asked_for_error_hits_that_call_once_and_nothing_happens(cloud: FakeCloud) -> None:
    cloud.faults.fail(Unavailable("down"), call="provision_server", times=2)
    assert await cloud.list_servers() == ()

    for _ in range(2):
        with pytest.raises(Unavailable, match="down"):
            await cloud.provision_server(WEB)

    assert await cloud.list_servers() == ()
    await cloud.provision_server(WEB)


async def test_a_lost_reply_has_acted(cloud: FakeCloud) -> None:
    cloud.faults.lose_reply()
    await cloud.list_servers()

    with pytest.raises(OutcomeUnknown):
        await cloud.provision_server(WEB)

    assert (await cloud.provision_server(WEB)).name == "web"
    assert len(await cloud.list_servers()) == 1


async def test_latency_is_spent_before_and_after_acting(cloud: FakeCloud) -> None:
    cloud.faults.latency = 2.0
    task = asyncio.create_task(cloud.provision_server(WEB))
    await asyncio.sleep(3.0)
    task.cancel()

    cloud.faults.latency = 0.0
    assert len(await cloud.list_servers()) == 1


async def test_a_full_account_says_so(cloud: FakeCloud) -> None:
    cloud.quota = 1
    server = await cloud.provision_server(WEB)

    with pytest.raises(LimitReached, match="1 servers"):
        await cloud.provision_server(DB)
    assert await cloud.provision_server(WEB) == server
    assert [type.available for type in await cloud.list_server_types()] == [0, 0, 0]


async def test_too_many_calls_are_told_when_to_come_again(cloud: FakeCloud) -> None:
    cloud.rate = (2, 10.0)
    await cloud.list_servers()
    await cloud.list_servers()

    with pytest.raises(RateLimited) as caught:
        await cloud.list_servers()

    assert caught.value.retry_after == 10.0
    await asyncio.sleep(10.0)
    await cloud.list_servers()


async def test_lists_are_late_in_both_directions_and_get_is_certain() -> None:
    cloud = FakeCloud(LoopClock(), settles_after=30.0)
    server = await cloud.provision_server(WEB)
    assert await cloud.find_server("web") is None
    assert (await cloud.get_server(server.id)).id == server.id

    await asyncio.sleep(30)
    assert [listed.id for listed in await cloud.list_servers()] == [server.id]
    await cloud.decommission_server(server.id, OWNER)

    assert await cloud.find_server("web") is not None
    with pytest.raises(NotFound):
        await cloud.get_server(server.id)
    await asyncio.sleep(30)
    assert await cloud.list_servers() == ()


async def test_servers_without_our_tag_are_not_listed_and_keep_their_name(cloud: FakeCloud) -> None:
    cloud.order_by_hand(WEB)

    assert await cloud.list_servers() == ()
    with pytest.raises(ClaimedByOther):
        await cloud.provision_server(WEB)


async def test_what_happens_behind_our_back_is_seen(cloud: FakeCloud) -> None:
    web, db = await cloud.provision_server(WEB), await cloud.provision_server(DB)
    await asyncio.sleep(5)

    cloud.lose_power(web.id)
    cloud.vanish(db.id)

    assert (await cloud.get_server(web.id)).state is ServerState.STOPPED
    with pytest.raises(NotFound):
        await cloud.get_server(db.id)


async def test_power_cut_while_it_shuts_down_is_off_at_once(cloud: FakeCloud) -> None:
    server = await cloud.provision_server(WEB)
    await asyncio.sleep(5)
    await cloud.stop_server(server.id)

    await cloud.stop_server(server.id, force=True)

    assert (await cloud.get_server(server.id)).state is ServerState.STOPPED


async def test_every_call_is_counted(cloud: FakeCloud) -> None:
    await cloud.provision_server(WEB)
    await cloud.list_servers()

    assert cloud.calls == ["provision_server", "list_servers"]


@pytest.fixture
def inventory() -> FakeCloud:
    return FakeCloud(LoopClock(), inventory=True, images=("existing",))


STANDING = ServerSpec(name="rack-7", owner=OWNER, type="small", image="existing", labels={"disk": "nvme"})
CLAIM = replace(STANDING, name="web")


async def test_an_inventory_makes_nothing_and_gives_what_is_nobodys(inventory: FakeCloud) -> None:
    with pytest.raises(LimitReached, match="'small'"):
        await inventory.provision_server(CLAIM)
    standing = inventory.order_by_hand(STANDING)

    server = await inventory.provision_server(CLAIM)

    assert (server.id, server.name, server.owner) == (standing, "web", OWNER)
    assert await inventory.provision_server(CLAIM) == server


@pytest.mark.parametrize("wish", [{"labels": {"disk": "hdd"}}, {"failure_domain": "north-1"}, {"location": "south"}])
async def test_an_inventory_gives_only_what_fits(inventory: FakeCloud, wish: dict[str, Any]) -> None:
    inventory.order_by_hand(replace(STANDING, failure_domain="north-2", location="north"))

    with pytest.raises((LimitReached, Invalid)):
        await inventory.provision_server(replace(CLAIM, **wish))


async def test_what_is_let_go_of_in_an_inventory_still_runs(inventory: FakeCloud) -> None:
    standing = inventory.order_by_hand(STANDING)
    await inventory.provision_server(CLAIM)
    await asyncio.sleep(5)

    await inventory.decommission_server(standing, OWNER)

    server = await inventory.get_server(standing)
    assert (server.owner, server.state) == (None, ServerState.RUNNING)


async def test_an_inventory_has_no_power_switch_and_no_images(inventory: FakeCloud) -> None:
    standing = inventory.order_by_hand(STANDING)
    await inventory.provision_server(CLAIM)

    for call in (
        inventory.start_server(standing),
        inventory.stop_server(standing),
        inventory.reboot_server(standing),
        inventory.rebuild_server(standing, CLAIM),
        inventory.resize_server(standing, "medium"),
        inventory.rescue_server(standing),
    ):
        with pytest.raises(Invalid, match="inventory"):
            await call


async def test_a_server_that_somebody_made_is_adopted_and_found_by_its_new_name(cloud: FakeCloud) -> None:
    made = cloud.order_by_hand(WEB)

    await cloud.adopt_server(made, "db", OWNER, was=None)

    found = await cloud.find_server("db")
    assert found is not None and found.id == made
    with pytest.raises(ClaimedByOther):
        await cloud.adopt_server((await cloud.provision_server(WEB)).id, "db", OWNER, was=OWNER)


async def test_servers_are_spread_over_what_fails_together(cloud: FakeCloud) -> None:
    servers = [await cloud.provision_server(replace(WEB, name=f"web-{number}")) for number in range(4)]

    assert sorted(server.failure_domain for server in servers) == ["north-1", "north-1", "north-2", "north-2"]
    asked = await cloud.provision_server(replace(WEB, name="asked", failure_domain="north-2"))
    assert asked.failure_domain == "north-2"


async def test_an_address_of_a_server_that_vanished_goes_nowhere(cloud: FakeCloud) -> None:
    server = await cloud.provision_server(WEB)
    address = (await cloud.list_floating_ips())[0].address
    await cloud.assign_floating_ip(address, server.id)

    cloud.vanish(server.id)

    assert {floating.server_id for floating in await cloud.list_floating_ips()} == {None}


async def test_what_cannot_be_used_is_told(cloud: FakeCloud) -> None:
    cloud.unusable = (Unusable(name="rack-9", reason=Reason.NEEDS_ROOT, message="sudo asks for a password"),)

    assert await cloud.list_unusable() == cloud.unusable
