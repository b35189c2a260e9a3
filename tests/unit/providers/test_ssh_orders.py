"""Inventories: who gets which host, and what happens when that cannot be known."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.support.inventory import Lab, order

from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.errors import AgentMetalError, ClaimedByOther, Invalid, LimitReached, NotFound, Unavailable
from agentmetal.core.machine import OwnerTag, Server, ServerSpec
from agentmetal.providers.ssh.inventory import Inventory
from agentmetal.providers.ssh.provider import SETTLED_SECONDS
from agentmetal.providers.ssh.sightings import DOUBT_SECONDS

pytestmark = pytest.mark.looptime


def three() -> Lab:
    lab = Lab()
    for name in ("a", "b", "c"):
        lab.add(name)
    return lab


async def test_an_order_claims_a_host_that_keeps_its_name_for_the_server() -> None:
    lab = three()
    async with lab.provider() as provider:
        spec = order()

        server = await provider.provision_server(spec)

        assert (server.name, server.owner, server.image) == (spec.name, spec.owner, "existing")
        assert lab.claimed(server.id) == "u1"
        assert server.host_key.split() == lab.entries[server.id]["hostKey"].split()[:2]
        assert server.failure_domain == server.id
        assert await provider.find_server(spec.name) == server


async def test_orders_at_once_get_a_host_each_and_one_too_many_is_told_why() -> None:
    lab = three()
    async with lab.provider() as provider:
        orders = (provider.provision_server(order(f"u{number}")) for number in range(4))

        ended = await asyncio.gather(*orders, return_exceptions=True)

        assert sorted(server.id for server in ended if isinstance(server, Server)) == ["a", "b", "c"]
        (refused,) = (error for error in ended if isinstance(error, LimitReached))
        assert "3 of Provider 'lab' fit (type 'host'): 3 claimed, 0 somebody else's, 0 silent" in refused.message


@pytest.mark.parametrize("what", ["clusters", "namespaces", "instances"])
async def test_of_two_who_race_for_the_last_host_exactly_one_wins(what: str) -> None:
    lab = Lab()
    lab.add("only")
    there = lab.process("other" if what == "clusters" else "c0ffee") if what != "instances" else lab.here
    namespace = "elsewhere" if what == "namespaces" else "shop"
    async with lab.provider() as ours, lab.provider(there, namespace=namespace) as theirs:
        await ours.list_unusable()
        await theirs.list_unusable()  # both have seen it free
        ended = await asyncio.gather(
            ours.provision_server(order("u1")),
            theirs.provision_server(order("u2", namespace=namespace)),
            return_exceptions=True,
        )

    (winner,) = (one for one in ended if isinstance(one, Server))
    (loser,) = (one for one in ended if isinstance(one, LimitReached))
    assert winner.owner is not None
    assert lab.claimed("only") == winner.owner.uid
    counts = "1 claimed, 0 somebody else's" if what == "instances" else "0 claimed, 1 somebody else's"
    assert counts in loser.message


async def test_a_claim_that_an_earlier_process_made_is_found_and_adopted() -> None:
    lab = three()
    async with lab.provider() as provider:
        lab.claim("b", "u1", server="s-u1")

        server = await provider.provision_server(order("u1"))

        assert server.id == "b"
        assert [lab.claimed(name) for name in "abc"] == ["", "u1", ""]


async def test_only_a_host_that_fits_is_claimed() -> None:
    lab = three()
    lab.add("d", type="big", location="north", failureDomain="rack-1", labels={"disk": "ssd"})
    async with lab.provider() as provider:
        wanted = order(type="big", location="north", failure_domain="rack-1", labels={"disk": "ssd"})

        assert (await provider.provision_server(wanted)).id == "d"
        with pytest.raises(LimitReached, match=r"0 of Provider 'lab' fit .*label disk=hdd"):
            await provider.provision_server(order("u2", type="big", labels={"disk": "hdd"}))


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (order(type="x"), "server type 'x' does not exist: use one of host"),
        (order(location="x"), "location 'x' does not exist: use one of default"),
        (order(failure_domain="x"), "failure domain 'x' does not exist: use one of a, b, c"),
    ],
)
async def test_what_no_host_is_is_refused(wanted: ServerSpec, sentence: str) -> None:
    async with three().provider() as provider:
        with pytest.raises(Invalid, match=sentence):
            await provider.provision_server(wanted)


async def test_hosts_that_cannot_be_written_are_passed_over_and_named_in_the_end() -> None:
    lab = three()
    for host in lab.hosts.values():
        host.full = True
    async with lab.provider() as provider:
        with pytest.raises(LimitReached, match=r"0 silent, 3 unusable \(.*no space"):
            await provider.provision_server(order())
        lab.hosts["b"].full = False
        assert (await provider.provision_server(order())).id == "b"


async def test_a_claim_whose_answer_was_lost_is_found_on_the_host() -> None:
    lab = three()
    async with lab.provider() as provider:
        await provider.list_unusable()
        lab.machines.faults.lose_reply(Unavailable("the connection broke"), call="create_file")

        server = await provider.provision_server(order())

        assert lab.claimed(server.id) == "u1"
        assert sum(bool(lab.claimed(name)) for name in "abc") == 1


async def test_no_second_host_is_claimed_while_the_first_one_may_hold_the_claim() -> None:
    lab = three()
    async with lab.provider() as provider:
        await provider.list_unusable()
        lab.machines.faults.lose_reply(Unavailable("the connection broke"), call="create_file")
        lab.machines.faults.fail(Unavailable("nor can it be asked"), call="run")

        with pytest.raises(Unavailable, match="was claimed is not known") as doubt:
            await provider.provision_server(order())
        (held,) = (name for name in "abc" if lab.claimed(name))
        lab.hosts[held].cut = True
        assert repr(held) in doubt.value.message
        await asyncio.sleep(2 * DOUBT_SECONDS)
        for _ in range(2):
            with pytest.raises(Unavailable, match=f"no answer from '{held}', where server 's-u1'"):
                await provider.provision_server(order())
        assert (await provider.provision_server(order("u2"))).id != held, "others are not held back"

        lab.hosts[held].cut = False
        await asyncio.sleep(SETTLED_SECONDS + 1)
        assert (await provider.provision_server(order())).id == held


async def test_an_order_that_was_cancelled_while_it_claimed_is_in_doubt_too() -> None:
    lab = three()
    async with lab.provider() as provider:
        await provider.list_unusable()
        lab.machines.faults.latency = 1.0
        ordering = asyncio.create_task(provider.provision_server(order()))
        while not (held := next((name for name in "abc" if lab.claimed(name)), "")):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
        lab.machines.faults.latency = 0.0
        await provider.get_server(held)  # a look meanwhile takes no doubt away
        assert not ordering.done()
        ordering.cancel()
        await asyncio.gather(ordering, return_exceptions=True)
        lab.hosts[held].cut = True
        await asyncio.sleep(2 * DOUBT_SECONDS)

        with pytest.raises(Unavailable, match=f"no answer from '{held}'"):
            await provider.provision_server(order())

        assert [name for name in "abc" if lab.claimed(name)] == [held]


async def test_a_host_that_never_answered_holds_a_first_order_back_for_a_while_only() -> None:
    lab = three()
    lab.hosts["b"].cut = True
    async with lab.provider() as provider:
        for ask in (provider.provision_server(order()), provider.find_server("s-u1")):
            with pytest.raises(Unavailable, match="no answer from 'b'") as error:
                await ask
            assert error.value.retry_after

        await asyncio.sleep(DOUBT_SECONDS + 60)

        assert await provider.find_server("s-u1") is None
        assert (await provider.provision_server(order())).id in "ac"


async def test_a_host_that_was_seen_in_this_process_holds_nobody_back() -> None:
    lab = three()
    async with lab.provider() as provider:
        await provider.list_unusable()
        lab.hosts["b"].cut = True
        await asyncio.sleep(3600)

        assert (await provider.provision_server(order())).id in "ac"


async def test_an_order_is_bounded_in_time_however_many_hosts_have_died() -> None:
    lab = Lab()
    for number in range(12):
        lab.add(f"h{number}")
    async with lab.provider() as provider:
        await provider.list_unusable()
        spec = order()
        *first, last = [host.name for host in Inventory.of(lab.account()).in_order_for(spec)]
        for name in first:
            lab.hosts[name].cut = True
        await lab.machines.forget(provider.key_of(provider.account))
        began = asyncio.get_running_loop().time()

        with pytest.raises(Unavailable, match="do not answer any more"):
            await provider.provision_server(spec)

        assert asyncio.get_running_loop().time() - began < 30
        for _ in range(3):
            with contextlib.suppress(Unavailable):
                assert (await provider.provision_server(spec)).id == last
        assert lab.claimed(last) == "u1"


async def test_a_host_held_twice_is_told() -> None:
    lab = three()
    async with lab.provider() as provider:
        lab.claim("a", "u1", server="s-u1")
        lab.claim("c", "u1", server="s-u1")

        told = await provider.list_unusable()

        assert [one.name for one in told] == ["a", "c"]
        assert "claims it and 'c'" in told[0].message


async def test_a_release_takes_the_claim_off_and_only_the_owner_s() -> None:
    lab = three()
    async with lab.provider() as provider:
        spec = order()
        server = await provider.provision_server(spec)
        lab.hosts[server.id].files["/srv/data"] = b"kept"

        with pytest.raises(ClaimedByOther, match="u1"):
            await provider.decommission_server(server.id, order("u2").owner)
        for _ in range(2):
            await provider.decommission_server(server.id, spec.owner)

        assert CLAIM_PATH not in lab.hosts[server.id].files
        assert lab.hosts[server.id].files["/srv/data"] == b"kept"
        assert await provider.find_server(spec.name) is None
        assert (await provider.get_server(server.id)).owner is None


@pytest.mark.parametrize("moment", range(0, 40, 2))
async def test_a_release_that_was_frozen_takes_no_later_claim_off(moment: int) -> None:
    lab = three()
    async with lab.provider() as provider:
        server = await provider.provision_server(order())
        lab.machines.faults.latency = 5.0

        releasing = asyncio.create_task(provider.decommission_server(server.id, order().owner))
        await asyncio.sleep(moment)
        lab.claim(server.id, "u2")
        await asyncio.wait([releasing])

        assert lab.claimed(server.id) == "u2", releasing.exception()


@pytest.mark.parametrize("moment", range(0, 40, 2))
async def test_a_hand_over_that_was_frozen_replaces_no_later_claim(moment: int) -> None:
    lab = three()
    async with lab.provider() as provider:
        server = await provider.provision_server(order())
        lab.machines.faults.latency = 5.0

        wanted = order("u3")
        adopting = asyncio.create_task(provider.adopt_server(server.id, wanted.name, wanted.owner, was=order().owner))
        await asyncio.sleep(moment)
        before = lab.claimed(server.id)
        if before == "u1":
            lab.claim(server.id, "u2")
        await asyncio.wait([adopting])

        assert lab.claimed(server.id) == ("u2" if before == "u1" else "u3"), adopting.exception()


async def test_a_host_that_does_not_answer_is_not_released() -> None:
    lab = three()
    async with lab.provider() as provider:
        spec = order()
        server = await provider.provision_server(spec)
        lab.hosts[server.id].cut = True

        with pytest.raises(Unavailable):
            await provider.decommission_server(server.id, spec.owner)

        assert lab.claimed(server.id) == "u1"


@pytest.mark.parametrize("was", [None, "before"])
async def test_a_host_is_adopted_by_its_id(was: str | None) -> None:
    lab = three()
    async with lab.provider() as provider:
        if was:
            lab.claim("b", was, server="s-before")
        older = OwnerTag(cluster="c0ffee", namespace="shop", uid=was) if was else None

        for _ in range(2):
            server = await provider.adopt_server("b", "s-u1", order().owner, was=older)

        assert (server.id, server.name, server.owner) == ("b", "s-u1", order().owner)
        assert lab.claimed("b") == "u1"


@pytest.mark.parametrize("content", [b"not a claim", b"", b"{}"])
async def test_a_mark_that_we_cannot_read_is_somebody_s(content: bytes) -> None:
    lab = three()
    async with lab.provider() as provider:
        lab.hosts["b"].files[CLAIM_PATH] = content

        with pytest.raises(ClaimedByOther, match="somebody whose claim we cannot read"):
            await provider.adopt_server("b", "s-u1", order().owner, was=None)

        assert (await provider.get_server("b")).owner not in (None, order().owner)
        assert lab.hosts["b"].files[CLAIM_PATH] == content


async def test_an_adopted_host_of_somebody_else_stays_his() -> None:
    lab = three()
    async with lab.provider() as provider:
        lab.claim("b", "u9", cluster="other")

        with pytest.raises(ClaimedByOther, match="other/shop/u9"):
            await provider.adopt_server("b", "s-u1", order().owner, was=None)

        assert lab.claimed("b") == "u9"


async def test_what_is_not_in_the_inventory_is_told_with_what_is() -> None:
    async with three().provider() as provider:
        with pytest.raises(NotFound, match=r"'z' is not in the inventory of Provider 'lab' \(it names: a, b, c\)"):
            await provider.get_server("z")


async def test_power_is_refused_with_a_sentence() -> None:
    async with three().provider() as provider:
        calls = (
            provider.start_server("a"),
            provider.stop_server("a", force=True),
            provider.reboot_server("a"),
            provider.rescue_server("a"),
            provider.rebuild_server("a", order()),
            provider.resize_server("a", "big"),
        )
        for call in calls:
            with pytest.raises(Invalid, match="'a' is from an inventory"):
                await call


async def test_floating_addresses_are_listed_and_checked() -> None:
    lab = three()
    async with lab.provider(floatingAddresses=["192.0.2.200"]) as provider:
        assert [ip.address for ip in await provider.list_floating_ips()] == ["192.0.2.200"]
        await provider.assign_floating_ip("192.0.2.200", "a")
        await provider.unassign_floating_ip("192.0.2.200")
        for call in (
            provider.assign_floating_ip("192.0.2.201", "a"),
            provider.assign_floating_ip("192.0.2.200", "z"),
            provider.unassign_floating_ip("192.0.2.201"),
        ):
            with pytest.raises(NotFound):
                await call


async def test_errors_are_ours_only() -> None:
    lab = three()
    async with lab.provider() as provider:
        for host in lab.hosts.values():
            host.cut = True

        with pytest.raises(AgentMetalError):
            await provider.provision_server(order())
