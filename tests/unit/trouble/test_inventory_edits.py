"""Inventories that are edited, and hosts that change their minds, while Instances are on them: nothing is mistaken.

Who is where is what the claim on a host says; an entry's name is only what it is called this week.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.inventories import Inventory, stocked, trace
from tests.support.system import CLUSTER, NAMESPACE
from tests.support.trouble import condition, look_again, phases, quiet, says, tools

from agentmetal.agents.provider.api import Provider
from agentmetal.clients.keys import fingerprint, make_key_pair
from agentmetal.core.claim import CLAIM_PATH, Claim
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.machine import OwnerTag
from agentmetal.providers.fake_host import Effect

pytestmark = pytest.mark.looptime
WIPE = {"paths": ["/srv/data"]}


def rename(lab: Inventory, name: str, becomes: str) -> None:
    """The same machine under another name."""
    lab.entries[becomes] = {**lab.entries.pop(name), "name": becomes}
    lab.hosts[becomes] = lab.hosts.pop(name)


async def test_a_new_machine_under_the_old_name_is_not_taken_for_the_one_that_was_renamed() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        ready = await lab.system.ready()
        rename(lab, "h1", "web")
        new = lab.add("h1")
        await lab.let_in("h1")
        before = trace(new)
        await lab.rewrite()
        await lab.system.until(lambda: lab.system.see().status.provider_id == "web")
        await quiet(900)
        assert condition(lab.system.see()).status == "True"
        assert trace(new) == before
        assert lab.claimed_by("web") == ready.uid
        await lab.system.delete("web-1")
        await lab.system.gone()
        assert (trace(new), lab.claimed_by("web")) == (before, "")


async def test_an_address_as_long_as_a_name_may_be_is_told_in_status() -> None:
    long = ".".join("x" * 50 for _ in range(5))[:253]
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        await lab.system.ready()
        lab.entries["h1"]["address"] = long
        await lab.rewrite()
        await lab.system.until(lambda: lab.system.see().status.public_ip == long)
        assert lab.system.see().status.addresses == (long,)


async def test_a_host_that_is_dead_for_a_day_is_told_of_once() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        await lab.system.ready()
        lab.hosts["h1"].cut = True
        dead = await says(lab.system, "somebody must look at the machine", status="False")
        await quiet(600)
        before = len(lab.system.cluster.writes)
        await quiet(24 * 3600)
        assert condition(lab.system.see()) == dead
        patched = [write for write in lab.system.cluster.writes[before:] if write.plural == "instances"]
        assert patched == []


async def test_two_hosts_whose_names_are_swapped_keep_their_instances() -> None:
    async with stocked("h1", "h2") as lab:
        await lab.wants("web-1", adopt="h1")
        await lab.wants("web-2", adopt="h2")
        uids = [(await lab.system.ready(name)).uid for name in ("web-1", "web-2")]
        for name, becomes in (("h1", "x"), ("h2", "h1"), ("x", "h2")):
            rename(lab, name, becomes)
        await lab.rewrite()
        await lab.system.until(lambda: lab.system.see("web-1").status.provider_id == "h2")
        await lab.system.until(lambda: lab.system.see("web-2").status.provider_id == "h1")
        await quiet(900)
        assert [condition(lab.system.see(name)).status for name in ("web-1", "web-2")] == ["True", "True"]
        assert [lab.claimed_by("h2"), lab.claimed_by("h1")] == uids
        assert phases(lab.system) == ["Succeeded", "Succeeded"]


async def test_two_hosts_whose_addresses_are_swapped_are_both_left_alone() -> None:
    async with stocked("h1", "h2", wipe=WIPE) as lab:
        await lab.wants("web-1", adopt="h1")
        await lab.wants("web-2", adopt="h2")
        for name in ("web-1", "web-2"):
            await lab.system.ready(name)
        before = [trace(host) for host in lab.hosts.values()]
        one, two = lab.entries["h1"], lab.entries["h2"]
        one["address"], two["address"] = two["address"], one["address"]
        await lab.rewrite()
        for name in ("web-1", "web-2"):
            await says(lab.system, "pinned is", name=name, type="HostKeyMismatch", status="True")
            await lab.system.delete(name)
        await quiet(900)
        assert [trace(host) for host in lab.hosts.values()] == before
        assert all(tools(op)[0] == "adopt_instance" for op in lab.system.plans() if op.phase == "Succeeded")
        assert not lab.system.hosts.journal


async def test_a_host_that_is_named_in_two_providers_is_not_taken_from_a_living_instance() -> None:
    async with stocked("h1") as lab:
        await lab.wants("web-1", adopt="h1")
        ready = await lab.system.ready("web-1")
        wire = [{**lab.entries["h1"], "name": "other"}]
        await lab.system.apply("Provider", "second", {"type": "SSH", "ssh": {"hosts": wire}})
        await lab.system.until(lambda: lab.system.cluster.peek(SECRET, "default", "second-ssh"))
        await lab.let_in("h1", provider="second")
        await lab.system.ready("second", kind=Provider)
        await lab.wants("web-2", providerRef={"name": "second"}, adopt="other")
        said = await says(lab.system, "belongs to Instance 'web-1', which exists", name="web-2")
        assert said.reason == "ClaimedByOther"
        await quiet(900)
        assert lab.claimed_by("h1") == ready.uid
        assert phases(lab.system) == ["Succeeded"]


@pytest.mark.parametrize("wipe", [None, WIPE], ids=["", "with a wipe"])
async def test_a_host_whose_sudo_asks_for_a_password_later_is_not_nobodys(wipe: dict[str, list[str]] | None) -> None:
    async with stocked("h1", **({"wipe": wipe} if wipe else {}), user="ops") as lab:
        await lab.wants(adopt="h1")
        ready = await lab.system.ready()
        lab.hosts["h1"].sudo_asks = True
        await look_again(lab.system)
        said = await says(lab.system, "cannot become root without a password")
        assert said.reason == "NeedsRoot"
        before = trace(lab.hosts["h1"])
        await lab.system.delete("web-1")
        await quiet(1800)
        assert lab.system.see() is not None
        assert (lab.claimed_by("h1"), trace(lab.hosts["h1"])) == (ready.uid, before)


async def test_a_path_that_is_added_after_the_approval_of_a_wipe_is_not_wiped_with_it() -> None:
    async with stocked("h1", wipe=WIPE) as lab:
        lab.system.hosts.unit(["find", "-P"], Effect())
        await lab.wants(adopt="h1")
        await lab.system.ready()
        await lab.system.delete("web-1")
        first = await lab.system.awaiting()
        block = {"hosts": lab.wire(), "wipe": {"paths": ["/srv/data", "/home/bob"]}}
        await lab.system.edit("lab", kind=Provider, ssh=block)
        await lab.system.annotate("web-1", approve=first)
        await quiet(900)
        assert not lab.system.hosts.journal
        assert lab.claimed_by("h1")
        second = await lab.system.awaiting()
        assert second != first
        assert "/home/bob" in lab.system.see().status.plan.steps[0].description


async def test_an_instance_whose_secret_was_deleted_still_lets_go_of_its_host() -> None:
    async with stocked("h1") as lab:
        await lab.wants()
        await lab.system.ready()
        place = (SECRET, "default", "web-1-host-key")
        await lab.system.admin.patch(*place, {"metadata": {"finalizers": []}})
        await lab.system.admin.delete(*place)
        await lab.system.delete("web-1")
        await lab.system.gone()
        assert not lab.claimed_by("h1")


async def test_an_instance_that_is_deleted_while_it_takes_a_host_over_leaves_nothing() -> None:
    async with stocked("h1") as lab:
        before = trace(lab.hosts["h1"])
        lab.system.hosts.faults.latency = 0.5
        await lab.wants(adopt="h1")
        await lab.system.until(lambda: lab.claimed_by("h1"))
        await lab.system.delete("web-1")
        await lab.system.gone()
        assert trace(lab.hosts["h1"]) == before
        assert CLAIM_PATH not in lab.hosts["h1"].files
        assert lab.system.cluster.peek(SECRET, "default", "web-1-host-key") is None


async def test_a_machine_that_hides_its_id_for_a_while_is_still_told_from_another_one() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        was = (await lab.system.ready()).status.machine_id
        claim = lab.hosts["h1"].files[CLAIM_PATH]
        new = lab.replace("h1", same_key=True)
        new.files[CLAIM_PATH] = claim
        own = new.files["/etc/machine-id"]
        new.files["/etc/machine-id"] = b""
        await look_again(lab.system)
        await quiet(900)
        assert lab.system.see().status.machine_id == was
        new.files["/etc/machine-id"] = own
        await look_again(lab.system)
        await says(lab.system, "is another machine", type="Degraded", status="True")


async def test_a_restart_forgets_whose_a_closed_host_is_and_deleting_waits_for_it() -> None:
    async with stocked("h1", wipe=WIPE, user="ops") as lab:
        await lab.wants(adopt="h1")
        ready = await lab.system.ready()
        await lab.system.processes[-1].crash()
        lab.hosts["h1"].sudo_asks = True
        await lab.system.start()
        await lab.system.delete("web-1")
        await says(lab.system, "deleting waits until it is known whose host 'h1' is")
        await quiet(1800)
        assert (lab.claimed_by("h1"), phases(lab.system)) == (ready.uid, ["Succeeded"])
        lab.hosts["h1"].sudo_asks = False
        await lab.system.awaiting()


async def test_an_old_request_for_a_reboot_is_not_carried_out_on_a_machine_that_is_taken_over() -> None:
    async with stocked("h1") as lab:
        await quiet(3600)
        wanted = {"providerRef": {"name": "lab"}, "type": "host", "image": "existing", "adopt": "h1"}
        old = {"agentmetal.io/reboot-at": "2026-01-01T00:30:00Z"}
        await lab.system.apply("Instance", "web-1", wanted, annotations=old)
        await lab.system.ready()
        await quiet(900)
        assert phases(lab.system) == ["Succeeded"]
        assert len(lab.hosts["h1"].server.boots) == 1
        await lab.system.annotate("web-1", as_=lab.system.erin, reboot_at="2026-01-01T01:20:00Z")
        await lab.system.until(lambda: len(lab.hosts["h1"].server.boots) == 2)


async def test_an_edited_host_key_takes_back_the_plan_that_would_trust_it() -> None:
    async with stocked("h1") as lab:
        lab.claim("h1", "an-earlier-one")
        await lab.wants(adopt="h1")
        digest = await lab.system.awaiting()
        lab.entries["h1"]["hostKey"] = make_key_pair("editor").public_line
        await lab.rewrite()
        await lab.system.annotate("web-1", approve=digest)
        await quiet(900)
        assert lab.claimed_by("h1") == "an-earlier-one"
        assert lab.system.cluster.peek(SECRET, "default", "web-1-host-key") is None
        assert "Succeeded" not in phases(lab.system)


@pytest.mark.parametrize("held", [b"", b"x" * 200_000, b"\xff\xfe", b"{}"], ids=["empty", "huge", "binary", "json"])
async def test_a_claim_that_is_none_of_ours_is_somebodys(held: bytes) -> None:
    async with stocked("h1") as lab:
        lab.hosts["h1"].files[CLAIM_PATH] = held
        await lab.wants("web-1", adopt="h1")
        await lab.wants("web-2")
        said = await says(lab.system, "somebody whose claim we cannot read")
        assert said.reason == "ClaimedByOther"
        await says(lab.system, "1 somebody else's", name="web-2", type="Reconciling")
        for name in ("web-1", "web-2"):
            await lab.system.delete(name)
            await lab.system.gone(name)
        assert lab.hosts["h1"].files[CLAIM_PATH] == held


async def test_a_host_that_somebody_only_looks_at_is_given_to_nobody() -> None:
    async with stocked("h1") as lab:
        before = trace(lab.hosts["h1"])
        await lab.wants("web-1", adopt="h1", management={"mode": "Observe"})
        await says(lab.system, "it is only looked at", name="web-1")
        await lab.wants("web-2")
        await says(lab.system, "1 named by spec.adopt of other Instances", name="web-2", type="Reconciling")
        await quiet(900)
        assert trace(lab.hosts["h1"]) == before
        await lab.system.delete("web-1")
        ready = await lab.system.ready("web-2", timeout=1200)
        assert lab.claimed_by("h1") == ready.uid


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"adopt": "h1"},
        {"adopt": "h1", "powerState": "Off"},
        {"adopt": "h1", "userData": "#cloud-config\nruncmd: [[touch, /srv/x]]\n"},
        {"userData": "#cloud-config\nruncmd: [[touch, /srv/x]]\n"},
        {"adopt": "h1", "type": "other"},
        {"adopt": "h1", "management": {"mode": "Observe", "deletionPolicy": "Retain"}},
    ],
    ids=["to be ordered", "adopt", "off", "user data", "user data to be ordered", "another type", "retain"],
)
@pytest.mark.parametrize("left", [False, True], ids=["free", "left behind"])
async def test_whatever_is_only_looked_at_stays_as_it_is(spec: dict[str, Any], left: bool) -> None:
    async with stocked("h1", "h2", wipe=WIPE) as lab:
        if left:
            lab.claim("h1", "an-earlier-one")
        before = {name: trace(host) for name, host in lab.hosts.items()}
        await lab.wants(**{"management": {"mode": "Observe"}, **spec})
        await quiet(60)
        key = fingerprint(make_key_pair("other").public_line)
        await lab.system.annotate("web-1", as_=lab.system.ann, repin=key, reboot_at="2026-01-01T00:03:00Z")
        await quiet(900)
        assert {name: trace(host) for name, host in lab.hosts.items()} == before
        assert all(len(host.server.boots) == 1 for host in lab.hosts.values())
        assert lab.system.cluster.peek(SECRET, "default", "web-1-host-key") is None
        assert phases(lab.system) == []
        await lab.system.delete("web-1")
        await lab.system.gone(timeout=60)
        assert {name: trace(host) for name, host in lab.hosts.items()} == before
        assert phases(lab.system) == []


async def test_a_host_whose_instance_is_gone_is_named_until_somebody_has_it() -> None:
    async with stocked("h1", "h2") as lab:
        await lab.wants(adopt="h1", management={"deletionPolicy": "Retain"})
        gone = await lab.system.ready()
        lab.hosts["h1"].cut = True
        await lab.system.delete("web-1")
        await lab.system.gone()
        lab.hosts["h1"].cut = False
        text = f"h1 cannot be used (ClaimedByOther): Instance with uid '{gone.uid}' claims it and exists no more"
        await lab.system.until(lambda: text in "".join(lab.system.see("lab", kind=Provider).status.seen()))
        await lab.wants("web-2", adopt="h1")
        await lab.system.annotate("web-2", approve=await lab.system.awaiting("web-2"))
        await lab.system.ready("web-2")
        await lab.system.until(lambda: not lab.system.see("lab", kind=Provider).status.unusable)


def lies(lab: Inventory, name: str) -> None:
    """A host writes itself the claim of an Instance that was never on it."""
    uid = lab.system.see().uid
    tag = OwnerTag(cluster=CLUSTER, namespace=NAMESPACE, uid=uid)
    lab.hosts[name].files[CLAIM_PATH] = Claim.of(tag, server=f"web-1-{uid[:8]}").file()


async def test_a_host_that_says_it_is_ours_is_not_taken_for_the_one_that_is_to_be_adopted() -> None:
    async with stocked("h1", "liar") as lab:
        lab.claim("h1", "an-earlier-one")
        await lab.wants(adopt="h1")
        lies(lab, "liar")
        await lab.system.annotate("web-1", approve=await lab.system.awaiting())
        ready = await lab.system.ready()
        assert (ready.status.provider_id, lab.claimed_by("h1")) == ("h1", ready.uid)
        await quiet(900)
        assert not lab.hosts["liar"].installed


async def test_a_host_that_says_it_is_ours_does_not_get_an_order_that_asks_for_another() -> None:
    async with stocked("h1", "liar") as lab:
        lab.entries["h1"]["labels"] = {"trusted": "yes"}
        await lab.rewrite()
        lab.claim("h1", "somebody", cluster="another-cluster")
        await quiet(60)
        await lab.wants(hostSelector={"trusted": "yes"})
        await says(lab.system, "no host is free", type="Reconciling")
        lies(lab, "liar")
        await says(lab.system, "host 'liar' bears the claim", type="Stalled", status="True")
        await quiet(900)
        assert not lab.hosts["liar"].installed
        assert lab.system.see().status.host_key_fingerprint is None
        for name in ("liar", "h1"):
            del lab.hosts[name].files[CLAIM_PATH]
        ready = await lab.system.ready(timeout=3600)
        assert lab.claimed_by("h1") == ready.uid
