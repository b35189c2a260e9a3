"""Machines that exist already: looked at, taken over, shared by nobody, let go of. With a whole operator."""

from __future__ import annotations

import pytest
from tests.support.inventories import stocked, trace
from tests.support.system import System, running
from tests.support.trouble import condition, created, look_again, phases, quiet, says, tools

from agentmetal.clients.keys import fingerprint, make_key_pair
from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.risk import Risk
from agentmetal.providers.fake_host import Effect
from agentmetal_tools.wiping import NO_SUCH_USER, removal

pytestmark = pytest.mark.looptime
OBSERVE = {"mode": "Observe"}
ADOPT = ["adopt_instance", "wait_for_ready", "prepare_host"]


def secret_of(system: System, name: str = "web-1") -> object:
    return system.cluster.peek(SECRET, "default", f"{name}-host-key")


async def test_observe_shows_facts_and_the_plan_and_touches_nothing() -> None:
    async with stocked("h1") as lab:
        before = trace(lab.hosts["h1"])
        await lab.wants(adopt="h1", management=OBSERVE)
        said = await says(lab.system, "it is only looked at")
        assert said.reason == "ObserveOnly"
        shown = lab.system.see()
        assert shown.status.provider_id == "h1"
        assert shown.status.facts.os.startswith("Debian")
        assert [step.tool for step in shown.status.plan.steps] == ADOPT
        assert shown.status.plan.digest is None
        await quiet(1800)
        assert trace(lab.hosts["h1"]) == before
        assert (secret_of(lab.system), phases(lab.system)) == (None, [])
        await lab.system.delete("web-1")
        await lab.system.gone(timeout=30)
        assert trace(lab.hosts["h1"]) == before


async def test_switching_to_manage_takes_it_over_and_keeps_its_name() -> None:
    async with stocked("h1") as lab:
        name = lab.hosts["h1"].hostname
        await lab.wants(adopt="h1", management=OBSERVE)
        await says(lab.system, "it is only looked at")
        await lab.system.edit("web-1", management={"mode": "Manage"})
        ready = await lab.system.ready()
        assert tools(lab.system.plans()[0]) == ADOPT
        assert lab.claimed_by("h1") == ready.uid
        assert lab.hosts["h1"].hostname == name
        assert ready.status.host_key_fingerprint == fingerprint(lab.entries["h1"]["hostKey"])
        assert phases(lab.system) == ["Succeeded"]
        assert lab.system.plans()[0].spec.risk is Risk.MODERATE


@pytest.mark.parametrize("management", [OBSERVE, {"deletionPolicy": "Retain"}], ids=["Observe", "Retain"])
async def test_a_released_host_is_as_it_was(management: dict[str, str]) -> None:
    async with stocked("h1") as lab:
        before = trace(lab.hosts["h1"])
        await lab.wants(adopt="h1")
        await lab.system.ready()
        assert trace(lab.hosts["h1"]) != before
        await lab.system.edit("web-1", management=management)
        await lab.system.delete("web-1")
        await lab.system.gone()
        assert trace(lab.hosts["h1"]) == before
        assert secret_of(lab.system) is None


async def test_deleting_lets_go_of_a_host_without_approval_and_deletes_nothing_on_it() -> None:
    async with stocked("h1") as lab:
        before = trace(lab.hosts["h1"])
        await lab.wants()
        await lab.system.ready()
        await lab.system.delete("web-1")
        await lab.system.gone()
        assert trace(lab.hosts["h1"]) == before


async def test_a_wipe_waits_for_approval_and_names_what_goes() -> None:
    async with stocked("h1", wipe={"paths": ["/srv/data"], "users": ["bob"]}) as lab:
        lab.system.hosts.unit(["find", "-P"], Effect())
        lab.system.hosts.unit(["userdel"], Effect(exit_code=NO_SUCH_USER))
        await lab.wants()
        await lab.system.ready()
        await lab.system.delete("web-1")
        digest = await lab.system.awaiting()
        plan = lab.system.see().status.plan
        assert [step.tool for step in plan.steps] == ["wipe_host", "wipe_host", "decommission_instance"]
        assert "/srv/data with all below" in plan.steps[0].description
        assert "'bob'" in plan.steps[1].description
        assert lab.claimed_by("h1")
        await lab.system.annotate("web-1", approve=digest)
        await lab.system.gone()
        assert [run.argv for run in lab.system.hosts.journal] == [
            removal(["/srv/data"]),
            ("userdel", "--remove", "--", "bob"),
        ]
        assert not lab.claimed_by("h1")


async def test_two_instances_want_the_last_host_and_the_second_gets_it_when_the_first_is_released() -> None:
    async with stocked("h1") as lab:
        await lab.wants("web-1")
        await lab.wants("web-2")
        first = await lab.system.until(lambda: lab.claimed_by("h1"))
        names = {lab.system.see(name).uid: name for name in ("web-1", "web-2")}
        winner, loser = names.pop(first), next(iter(names.values()))
        await lab.system.ready(winner)
        await says(lab.system, "no host is free", name=loser, type="Reconciling")
        await lab.system.delete(winner)
        await lab.system.gone(winner)
        ready = await lab.system.ready(loser, timeout=1200)
        assert lab.claimed_by("h1") == ready.uid


async def test_a_claimed_host_that_leaves_the_inventory_is_not_gone() -> None:
    async with stocked("h1", "h2") as lab:
        await lab.wants(adopt="h1")
        await lab.system.ready()
        before, entry = trace(lab.hosts["h1"]), lab.entries.pop("h1")
        await lab.rewrite()
        said = await says(lab.system, "is not in the inventory of Provider 'lab' any more: put its entry back")
        assert said.reason == "NotInInventory"
        await quiet(1800)
        assert phases(lab.system) == ["Succeeded"]
        assert trace(lab.hosts["h1"]) == before
        assert not lab.claimed_by("h2")
        lab.entries["h1"] = entry
        await lab.rewrite()
        await lab.system.ready()


async def test_an_entry_that_is_called_otherwise_is_the_same_host() -> None:
    async with stocked("h1", "h2") as lab:
        await lab.wants(adopt="h1")
        await lab.system.ready()
        lab.entries["h1"] = {**lab.entries["h1"], "name": "web"}
        await lab.rewrite()
        await lab.system.until(lambda: lab.system.see().status.provider_id == "web")
        await lab.system.ready()
        await lab.system.delete("web-1")
        await lab.system.gone()
        assert not lab.claimed_by("h1")


async def test_a_provisioned_host_that_leaves_the_inventory_is_not_replaced_by_another() -> None:
    async with stocked("h1", "h2") as lab:
        await lab.wants()
        ready = await lab.system.ready()
        had = ready.status.provider_id
        other = next(name for name in lab.hosts if name != had)
        del lab.entries[had]
        await lab.rewrite()
        await says(lab.system, f"host '{had}' is not in the inventory")
        await lab.system.delete("web-1")
        await quiet(900)
        assert lab.system.see() is not None
        await lab.system.edit("web-1", management={"deletionPolicy": "Retain"})
        await lab.system.gone()
        assert not lab.claimed_by(other)


async def test_an_edited_host_key_changes_no_pin_and_stops_everything() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        ready = await lab.system.ready()
        before, pinned = trace(lab.hosts["h1"]), ready.status.host_key_fingerprint
        kept, other = lab.entries["h1"]["hostKey"], make_key_pair("editor").public_line
        lab.entries["h1"] = {**lab.entries["h1"], "hostKey": other}
        await lab.rewrite()
        said = await says(lab.system, fingerprint(other), type="HostKeyMismatch", status="True")
        assert pinned in said.message
        await quiet(1800)
        seen = lab.system.see()
        assert seen.status.host_key_fingerprint == pinned
        assert condition(seen).status == "False"
        assert phases(lab.system) == ["Succeeded"]
        assert trace(lab.hosts["h1"]) == before
        lab.entries["h1"] = {**lab.entries["h1"], "hostKey": kept}
        await lab.rewrite()
        await lab.system.ready()


async def test_another_machine_at_the_same_address_is_a_mismatch_and_nothing_is_done_on_it() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        await lab.system.ready()
        new = lab.replace("h1")
        before = trace(new)
        await look_again(lab.system)
        await says(lab.system, fingerprint(new.host_key), type="HostKeyMismatch", status="True")
        await quiet(1800)
        assert trace(new) == before
        assert phases(lab.system) == ["Succeeded"]


@pytest.mark.parametrize("cloned", [True, False], ids=["with our claim", "reinstalled"])
async def test_another_machine_with_the_same_key_is_told_by_its_machine_id(cloned: bool) -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        ready = await lab.system.ready()
        was, claim = ready.status.machine_id, lab.hosts["h1"].files[CLAIM_PATH]
        new = lab.replace("h1", same_key=True)
        if cloned:
            new.files[CLAIM_PATH] = claim
        before = trace(new)
        await look_again(lab.system)
        said = await says(lab.system, "is another machine: its machine-id was", type="Degraded", status="True")
        assert was in said.message
        await quiet(1800)
        assert trace(new) == before
        assert lab.system.see().status.machine_id == was


async def test_a_foreign_claim_is_shown_and_not_overwritten() -> None:
    async with stocked("h1") as lab:
        theirs = lab.claim("h1", "somebody", cluster="another-cluster")
        await lab.wants(adopt="h1")
        said = await says(lab.system, "another-cluster/default/somebody")
        assert said.reason == "ClaimedByOther"
        await quiet(1800)
        assert lab.hosts["h1"].files[CLAIM_PATH] == theirs
        assert phases(lab.system) == []
        await lab.system.delete("web-1")
        await lab.system.gone(timeout=30)
        assert lab.hosts["h1"].files[CLAIM_PATH] == theirs


async def test_what_another_instance_of_the_namespace_left_behind_is_taken_over_after_approval() -> None:
    async with stocked("h1") as lab:
        lab.claim("h1", "an-earlier-one")
        await lab.wants(adopt="h1")
        digest = await lab.system.awaiting()
        plan = lab.system.see().status.plan
        assert plan.risk is Risk.DANGEROUS
        assert "an-earlier-one" in plan.steps[0].description
        assert lab.claimed_by("h1") == "an-earlier-one"
        await lab.system.annotate("web-1", approve=digest)
        ready = await lab.system.ready()
        assert lab.claimed_by("h1") == ready.uid


async def test_nobody_takes_over_what_a_living_instance_has() -> None:
    async with stocked("h1") as lab:
        await lab.wants("web-1", adopt="h1")
        owner = await lab.system.ready("web-1")
        await lab.wants("web-2", adopt="h1")
        said = await says(lab.system, "belongs to Instance 'web-1', which exists", name="web-2")
        assert said.reason == "ClaimedByOther"
        await quiet(900)
        assert lab.claimed_by("h1") == owner.uid
        await lab.system.edit("web-1", management={"deletionPolicy": "Retain"})
        await lab.system.delete("web-1")
        ready = await lab.system.ready("web-2", timeout=900)
        assert lab.claimed_by("h1") == ready.uid


async def test_a_claim_that_somebody_removed_is_made_again() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        ready = await lab.system.ready()
        del lab.hosts["h1"].files[CLAIM_PATH]
        await look_again(lab.system)
        await lab.system.until(lambda: lab.claimed_by("h1") == ready.uid)
        await lab.system.ready()


async def test_a_machine_id_that_changes_is_told_until_it_is_the_old_one_again() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        await lab.system.ready()
        own = lab.hosts["h1"].files["/etc/machine-id"]
        lab.hosts["h1"].files["/etc/machine-id"] = b"f" * 32
        await look_again(lab.system)
        await says(lab.system, "is another machine", type="Degraded", status="True")
        lab.hosts["h1"].files["/etc/machine-id"] = own
        await look_again(lab.system)
        await lab.system.ready()
        assert "Degraded" not in [c.type for c in lab.system.see().status.conditions if c.status == "True"]


async def test_a_clone_of_a_machine_we_have_is_not_taken_over_until_it_has_an_id_of_its_own() -> None:
    async with stocked("h1", "h2") as lab:
        own = lab.hosts["h2"].files["/etc/machine-id"]
        lab.hosts["h2"].files["/etc/machine-id"] = lab.hosts["h1"].files["/etc/machine-id"]
        await lab.wants("web-1", adopt="h1")
        await lab.system.ready("web-1")
        await lab.wants("web-2", adopt="h2")
        said = await says(lab.system, "is also that of Instance 'web-1'", name="web-2")
        assert said.reason == "DuplicateMachine"
        await quiet(900)
        assert not lab.claimed_by("h2")
        lab.hosts["h2"].files["/etc/machine-id"] = own
        await lab.system.ready("web-2", timeout=900)


async def test_two_clones_know_of_each_other_also_after_a_restart() -> None:
    async with stocked("h1", "h2") as lab:
        for number, name in enumerate(("h1", "h2"), start=1):
            await lab.wants(f"web-{number}", adopt=name)
            await lab.system.ready(f"web-{number}")
        clone = lab.hosts["h1"].files["/etc/machine-id"]
        body = lab.system.see("web-2")
        status = {"status": {"machineID": clone.decode().strip()}}
        await lab.system.processes[-1].crash()
        lab.hosts["h2"].files["/etc/machine-id"] = clone
        await lab.system.operator_api.patch(body.info.type, "default", "web-2", status, subresource="status")
        await lab.system.start()
        await look_again(lab.system, "web-1")
        await says(lab.system, "is also that of Instance 'web-2'", type="Degraded", status="True")
        assert condition(lab.system.see()).status == "True"


async def test_deleting_waits_for_a_silent_host_and_retain_is_the_way_out() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1")
        await lab.system.ready()
        lab.hosts["h1"].cut = True
        await lab.system.delete("web-1")
        await says(lab.system, "deleting waits until host 'h1' answers", type="Ready")
        await quiet(900)
        assert lab.system.see() is not None
        lab.hosts["h1"].cut = False
        await lab.system.gone()
        assert not lab.claimed_by("h1")


async def test_nothing_is_wiped_on_another_machine() -> None:
    async with stocked("h1", wipe={"paths": ["/srv/data"]}) as lab:
        await lab.wants(adopt="h1")
        await lab.system.ready()
        claim = lab.hosts["h1"].files[CLAIM_PATH]
        new = lab.replace("h1", same_key=True)
        new.files[CLAIM_PATH] = claim
        await lab.system.delete("web-1")
        await says(lab.system, "host 'h1' is another machine than before")
        await quiet(900)
        assert phases(lab.system) == ["Succeeded"]
        await lab.system.edit("web-1", management={"deletionPolicy": "Retain"})
        await lab.system.gone()
        assert CLAIM_PATH not in new.files


async def test_a_host_whose_disk_is_full_is_released_all_the_same() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1", management={"deletionPolicy": "Retain"})
        await lab.system.ready()
        lab.hosts["h1"].full = True
        await lab.system.delete("web-1")
        await lab.system.gone()
        assert CLAIM_PATH not in lab.hosts["h1"].files


async def test_a_dead_host_keeps_nobody_from_releasing_it() -> None:
    async with stocked("h1") as lab:
        await lab.wants(adopt="h1", management={"deletionPolicy": "Retain"})
        await lab.system.ready()
        lab.hosts["h1"].cut = True
        await lab.system.delete("web-1")
        await lab.system.gone()


async def test_a_silent_host_is_reported_and_not_replaced() -> None:
    async with stocked("h1", "h2") as lab:
        await lab.wants()
        had = (await lab.system.ready()).status.provider_id
        lab.hosts[had].cut = True
        await look_again(lab.system)
        await says(lab.system, "answer", status="False")
        await quiet(3600)
        assert phases(lab.system) == ["Succeeded"]
        lab.hosts[had].cut = False
        ready = await lab.system.ready(timeout=600)
        assert ready.status.provider_id == had


async def test_a_server_that_was_released_is_taken_over_again_after_approval() -> None:
    async with running() as system:
        await system.instance("web-1", management={"deletionPolicy": "Retain"})
        first = await system.ready("web-1")
        server_id = first.status.provider_id
        before = system.hosts.host(server_id).host_key
        await system.delete("web-1")
        await system.gone("web-1")
        await system.instance("web-2", adopt=server_id)
        digest = await system.awaiting("web-2")
        plan = system.see("web-2").status.plan
        assert plan.risk is Risk.DANGEROUS
        assert first.uid in plan.steps[0].description
        await system.annotate("web-2", approve=digest)
        ready = await system.ready("web-2")
        assert (ready.status.provider_id, created(system)) == (server_id, 1)
        assert ready.status.host_key_fingerprint == fingerprint(before)
        assert system.hosts.host(server_id).hostname == "web-1", "it was named before we took it over"
        await system.delete("web-2")
        await system.annotate("web-2", approve=await system.awaiting("web-2"))
        await system.gone("web-2")
        assert await system.cloud.list_servers() == ()


async def test_a_server_that_is_to_be_adopted_and_does_not_exist_is_not_ordered_instead() -> None:
    async with running() as system:
        await system.instance(adopt="fake-99")
        said = await says(system, "server 'fake-99', which spec.adopt names, does not exist; no other one is ordered")
        assert said.reason == "Gone"
        await quiet(900)
        assert created(system) == 0
        await system.delete("web-1")
        await system.gone(timeout=30)
