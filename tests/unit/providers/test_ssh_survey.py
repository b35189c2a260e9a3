"""Inventories: what is seen of hosts, what is said about those that cannot be used, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.support.inventory import Lab, account, order

from agentmetal.clients.keys import make_key_pair
from agentmetal.clients.ssh.dialling import AddressNotAllowed
from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.condition import Reason
from agentmetal.core.errors import Unavailable
from agentmetal.core.machine import Completed, ServerState
from agentmetal.providers.fake_host import FakeHost
from agentmetal.providers.ssh.provider import SshProvider
from agentmetal.providers.ssh.survey import MAX_AGE, WAIT_SECONDS

pytestmark = pytest.mark.looptime


def three() -> Lab:
    lab = Lab()
    for name in ("a", "b", "c"):
        lab.add(name)
    return lab


async def reasons(provider: SshProvider) -> dict[str, Reason]:
    return {one.name: one.reason for one in await provider.list_unusable()}


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_all_is_well_where_all_is_well() -> None:
    async with three().provider() as provider:
        assert await reasons(provider) == {}
        (offered,) = await provider.list_server_types()
        assert (offered.name, offered.vcpus, offered.memory_mb, offered.available) == ("host", 1, 256, 3)
        assert await provider.list_images() == ("existing",)
        (place,) = await provider.list_locations()
        assert (place.name, place.failure_domains) == ("default", ("a", "b", "c"))
        assert await provider.list_servers() == ()


async def test_what_is_offered_is_named_before_anything_was_seen() -> None:
    async with three().provider() as provider:
        (offered,) = await provider.list_server_types()
        assert (offered.vcpus, offered.available) == (0, None)


async def test_a_silent_host_is_a_server_that_says_why() -> None:
    lab = three()
    async with lab.provider() as provider:
        spec = order()
        id = (await provider.provision_server(spec)).id
        lab.hosts[id].cut = True

        server = await provider.get_server(id)

        assert (server.owner, server.name, server.state) == (spec.owner, spec.name, ServerState.RUNNING)
        assert "connection" in server.silent
        lab.hosts[id].cut = False
        assert (await provider.get_server(id)).silent == ""


async def test_a_host_on_which_no_command_runs_is_not_taken_for_nobodys() -> None:
    """So answer sudo that wants a password, a login shell for nobody, and PAM while the host goes down."""
    lab = Lab()
    lab.add("a")
    async with lab.provider() as provider:
        await provider.provision_server(order())
    for command in (["cat"], ["test", "-e"], ["test", "!", "-e"]):
        lab.machines.command(command, lambda host, argv, stdin: Completed(exit_code=1, stdout="", stderr=""))
    async with lab.provider(lab.process()) as provider:
        server = await provider.get_server("a")
        assert (server.owner, "cannot be read" in server.silent) == (None, True)
        assert [one.available for one in await provider.list_server_types()] == [0]


async def test_each_host_that_cannot_be_used_is_named_with_its_reason() -> None:
    lab = Lab()
    for name in ("asks", "dead", "foreign", "fine", "refuses-us", "replaced"):
        lab.add(name, user="ops" if name == "asks" else "root")
    lab.hosts["asks"].sudo_asks = True
    lab.hosts["dead"].cut = True
    lab.claim("foreign", "u9", cluster="other")
    refusing = lab.hosts["refuses-us"]
    refusing.files[refusing.logins("root")] = b""
    lab.hosts["replaced"].host_key = make_key_pair("new").public_line
    async with lab.provider() as provider:
        told = {one.name: one for one in await provider.list_unusable()}

        assert {name: one.reason for name, one in told.items()} == {
            "asks": Reason.NEEDS_ROOT,
            "dead": Reason.UNREACHABLE,
            "foreign": Reason.CLAIMED_BY_OTHER,
            "refuses-us": Reason.AUTHENTICATION_FAILED,
            "replaced": Reason.HOST_KEY_MISMATCH,
        }
        assert "NOPASSWD" in told["asks"].message
        assert "other/shop/u9" in told["foreign"].message
        assert "status.publicKey" in told["refuses-us"].message
        assert "SHA256:" in told["replaced"].message
        await asyncio.sleep(3 * MAX_AGE)
        assert {one.name: one for one in await provider.list_unusable()} == told, "texts are stable"


async def test_an_address_that_may_not_be_dialled_is_told() -> None:
    lab = Lab()
    lab.add("inside")
    lab.machines.faults.fail(AddressNotAllowed("address '10.43.0.1' may not be dialled: it is inside 10.43.0.0/16"))
    async with lab.provider() as provider:
        assert await reasons(provider) == {"inside": Reason.ADDRESS_NOT_ALLOWED}


async def test_a_claim_of_another_namespace_is_foreign() -> None:
    lab = three()
    lab.claim("a", "u9", namespace="elsewhere")
    async with lab.provider() as provider:
        assert await reasons(provider) == {"a": Reason.CLAIMED_BY_OTHER}


@pytest.mark.parametrize("shared", ["address", "hostKey"])
async def test_two_entries_for_one_machine_are_both_not_used(shared: str) -> None:
    lab = three()
    entries = [lab.entries[name] for name in "abc"]
    entries[1] = {**entries[1], shared: entries[0][shared]}
    if shared == "hostKey":
        entries[1]["hostKey"] += " with another comment"
    provider = lab.here(account(entries))

    told = {one.name: one for one in await provider.list_unusable()}

    assert {name: one.reason for name, one in told.items()} == dict.fromkeys("ab", Reason.DUPLICATE_MACHINE)
    assert "'a'" in told["b"].message
    assert (await provider.provision_server(order())).id == "c"
    await provider.close()


async def test_another_port_is_another_machine() -> None:
    lab = Lab()
    lab.add("a", address="192.0.2.9", port=22)
    lab.add("b", address="192.0.2.9", port=2222)
    async with lab.provider() as provider:
        assert await reasons(provider) == {}


async def test_cloned_machine_ids_are_told_and_not_handed_out() -> None:
    lab = Lab()
    for name in ("a", "b"):
        lab.add(name, machine_id="0123456789abcdef" * 2)
    lab.add("c")
    async with lab.provider() as provider:
        assert await reasons(provider) == dict.fromkeys("ab", Reason.DUPLICATE_MACHINE)
        assert (await provider.provision_server(order())).id == "c"


async def test_dead_hosts_cost_only_their_own_time() -> None:
    lab = three()
    for number in range(20):
        lab.add(f"dead-{number}").cut = True
    async with lab.provider() as provider:
        began = now()
        assert len(await provider.list_unusable()) == 20
        assert now() - began <= 5.0 + 0.1, "they are looked at side by side"
        began = now()
        assert (await provider.get_server("a")).silent == ""
        assert now() - began < 0.1


async def test_whoever_asks_too_early_is_told_how_far_it_is() -> None:
    lab = three()
    for number in range(100):
        lab.add(f"dead-{number}").cut = True
    async with lab.provider() as provider:
        began = now()
        with pytest.raises(Unavailable, match=r"still being looked at: \d+ of 103 so far"):
            await provider.list_servers()
        assert now() - began == pytest.approx(WAIT_SECONDS, abs=0.1)
        await asyncio.sleep(30)
        assert await provider.list_servers() == ()


async def test_what_was_seen_lately_is_not_looked_at_again() -> None:
    lab = three()
    async with lab.provider() as provider:
        await provider.list_unusable()
        lab.claim("a", "u9", cluster="other")
        assert await reasons(provider) == {}
        await asyncio.sleep(MAX_AGE + 1)
        assert await reasons(provider) == {"a": Reason.CLAIMED_BY_OTHER}


async def test_a_host_that_was_mended_is_seen_as_soon_as_somebody_asks() -> None:
    lab = three()
    logins = lab.hosts["a"].logins("root")
    ours, lab.hosts["a"].files[logins] = lab.hosts["a"].files[logins], b""
    async with lab.provider() as provider:
        assert await reasons(provider) == {"a": Reason.AUTHENTICATION_FAILED}
        lab.hosts["a"].files[logins] = ours
        await asyncio.sleep(6)
        assert await reasons(provider) == {}


async def test_without_our_own_key_nothing_is_said_about_hosts() -> None:
    lab = three()
    lab.key_there = False
    async with lab.provider() as provider:
        assert await reasons(provider) == {}
        for call in (provider.list_servers(), provider.find_server("x"), provider.get_server("a")):
            with pytest.raises(Unavailable, match="hosts cannot be looked at: Secret 'lab-ssh' does not exist"):
                await call
        lab.key_there = True
        assert (await provider.provision_server(order())).owner == order().owner


async def test_what_was_seen_outlives_an_edit_of_the_inventory() -> None:
    lab = three()
    older = lab.here(lab.account())
    await older.list_unusable()
    lab.hosts["a"].cut = True
    lab.add("d")
    newer = lab.here(lab.account())
    await older.close()

    assert (await newer.provision_server(order())).id in "bcd", "a was seen before, so nobody is held back"

    await newer.close()


async def test_an_edit_keeps_connections_and_the_end_closes_them() -> None:
    lab = three()
    older = lab.here(lab.account())
    await older.list_unusable()
    lab.add("d")
    newer = lab.here(lab.account())
    await older.close()
    await newer.list_unusable()
    assert lab.machines.connections == 4

    await newer.close()
    fresh = lab.here(lab.account())
    await fresh.list_unusable()
    assert lab.machines.connections == 8

    await fresh.close()


async def test_a_host_taken_out_of_the_inventory_is_left_alone() -> None:
    lab = three()
    async with lab.provider() as provider:
        spec = order()
        id = (await provider.provision_server(spec)).id
    del lab.entries[id]
    async with lab.provider() as provider:
        assert await provider.find_server(spec.name) is None
        await provider.decommission_server(id, spec.owner)
        assert CLAIM_PATH in lab.hosts[id].files


async def test_a_claim_file_that_cannot_be_read_is_not_taken_for_none() -> None:
    lab = three()
    async with lab.provider() as provider:
        lab.hosts["a"].files[CLAIM_PATH] = b"x"
        lab.machines.command(["cat", "--", CLAIM_PATH], _broken)
        server = await provider.get_server("a")
        assert "cannot be read" in server.silent


def _broken(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
    return Completed(exit_code=1, stdout="", stderr="cat: Input/output error\n")


async def test_a_claim_that_is_there_and_cannot_be_read_is_not_called_silence() -> None:
    lab = three()
    lab.machines.command(["cat"], lambda host, argv, stdin: Completed(exit_code=1, stdout="", stderr="Is a directory"))
    for host in lab.hosts.values():
        host.files[CLAIM_PATH] = b""
    async with lab.provider() as provider:
        (first, *_) = await provider.list_unusable()
        assert first.reason is Reason.CLAIMED_BY_OTHER
        assert "answers, and whose it is cannot be read: look at /var/lib/agentmetal/claim.json" in first.message
