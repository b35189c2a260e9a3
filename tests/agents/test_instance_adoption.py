"""Machines that exist: given this world, then this plan; and the tools that take one over and let go of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.support.agents import (
    CLUSTER,
    FOREIGN,
    NOW,
    SERVER_NAME,
    TAG,
    AgentWorld,
    instance,
    prepared,
    seen,
    server,
    tools_of,
)

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.agents.provider.api import WipeSpec
from agentmetal.clients.keys import fingerprint, make_key_pair
from agentmetal.core.claim import CLAIM_PATH, Claim, claimant
from agentmetal.core.condition import ConditionType, Reason
from agentmetal.core.errors import ClaimedByOther, HostKeyMismatch
from agentmetal.core.machine import Capabilities, OwnerTag, ServerSpec, ServerState
from agentmetal.core.plan import Plan
from agentmetal.core.risk import Risk
from agentmetal.core.tool import Refusal, Result
from agentmetal_tools import adoption
from agentmetal_tools import instance as tools
from agentmetal_tools.adoption import AdoptParams
from agentmetal_tools.hosts import HOST_PUBLIC, HOST_SERVER
from agentmetal_tools.servers import DecommissionParams, HostParams, PrepareParams, ServerFacts

INVENTORY = Capabilities(hosts=True, power=False, makes_servers=False)
KEY, OTHER_KEY = (make_key_pair(name).public_line for name in ("h1", "other"))
ADOPT = ["adopt_instance", "wait_for_ready", "prepare_host"]
CLAIM = ["provision_instance", "wait_for_ready", "prepare_host"]
HELD: dict[str, Any] = {"marked": True, "host_key": KEY, "fingerprint": fingerprint(KEY)}
WANTED: dict[str, Any] = {"adopt": "s-1", "image": "existing"}


def listed(owner: OwnerTag | None = TAG, **fields: Any) -> Any:
    """A host of an inventory."""
    return replace(server(owner=owner, image="existing"), **{"host_key": KEY, **fields})


def on_list(owner: OwnerTag | None = TAG, *, host: dict[str, Any] | None = None, **fields: Any) -> InstanceObservation:
    """A look at it; it answers."""
    look = prepared(claimed_by=str(owner) if owner else "", hostname="theirs")
    given = {"capabilities": INVENTORY, "reach": Reach.ANSWERING, "look": look, "vouched": fingerprint(KEY)}
    return seen(**{"server": listed(owner, **(host or {})), "adopts": True, **given, **fields})


@pytest.fixture
def agent() -> InstanceAgent:
    return InstanceAgent(AgentWorld().ports)


def decided(agent: InstanceAgent, wanted: dict[str, Any], observed: InstanceObservation) -> Plan:
    resource = instance(**wanted)
    for issue in agent.issues(resource, observed):
        if plan := agent.heal(resource, observed, issue):
            return plan
    return agent.reconcile(resource, observed)


SOMEBODY = OwnerTag(cluster="another", namespace="shop", uid="u")
NEIGHBOUR = OwnerTag(cluster=CLUSTER, namespace="bank", uid="u")
FREE = on_list(None)
OURS = on_list(**HELD)
ANY: dict[str, Any] = {"image": "existing"}
NEVER_LISTED = seen(capabilities=INVENTORY, missing=True, adopts=True)
NOT_LISTED = seen(capabilities=INVENTORY, missing=True, adopts=False, **HELD)

CASES: list[tuple[str, dict[str, Any], InstanceObservation, list[str], Risk | None]] = [
    ("nobody's is taken over", WANTED, FREE, ADOPT, Risk.MODERATE),
    ("a dead Instance's of our namespace is taken over", WANTED, on_list(FOREIGN), ADOPT, Risk.DANGEROUS),
    ("a living Instance's is left alone", WANTED, on_list(FOREIGN, held_by="db"), [], Risk.SAFE),
    ("another cluster's is left alone", WANTED, on_list(SOMEBODY), [], Risk.SAFE),
    ("another namespace's is left alone", WANTED, on_list(NEIGHBOUR), [], Risk.SAFE),
    ("who answers not is not taken over", WANTED, replace(FREE, reach=Reach.SILENT, look=None), [], Risk.SAFE),
    ("whose owner is unread is left alone", WANTED, on_list(None, host={"silent": "cut"}), [], Risk.SAFE),
    ("a key that nobody vouches for is not pinned", WANTED, replace(FREE, vouched=""), [], Risk.SAFE),
    ("a clone is not taken over", WANTED, replace(FREE, twin="Instance 'db'"), [], Risk.SAFE),
    ("our own claim on its disk is taken up", WANTED, on_list(None, look=prepared()), ADOPT, None),
    ("what we have is left as it is", WANTED, OURS, [], Risk.SAFE),
    ("a claim without a pin is finished", WANTED, on_list(marked=True), ADOPT, Risk.MODERATE),
    ("an order without a pin is finished", ANY, on_list(marked=True, adopts=False), CLAIM, Risk.MODERATE),
    ("a claim that is gone is made again", ANY, on_list(None, **HELD, adopts=False), ADOPT, Risk.MODERATE),
    ("not listed is not gone", ANY, NOT_LISTED, [], Risk.SAFE),
    ("what is to be adopted is never ordered", WANTED, seen(adopts=True), [], Risk.SAFE),
    ("nor when it is certainly gone", WANTED, seen(adopts=True, missing=True, certainly_gone=True, **HELD), [], None),
    ("another machine is left alone", WANTED, replace(OURS, machine_before="m-0"), [], Risk.SAFE),
    ("an edited key stops everything", WANTED, on_list(host={"host_key": OTHER_KEY}, **HELD), [], Risk.SAFE),
    ("a silent host is not reset", ANY, replace(OURS, reach=Reach.SILENT, silent_since=NOW, look=None), [], Risk.SAFE),
    ("an unprepared host is prepared", ANY, replace(OURS, unprepared=("the wrapper",)), ["prepare_host"], None),
]


@pytest.mark.parametrize(("reason", "wanted", "observed", "steps", "risk"), CASES, ids=[case[0] for case in CASES])
def test_given_this_machine_then_this_plan(
    agent: InstanceAgent,
    reason: str,
    wanted: dict[str, Any],
    observed: InstanceObservation,
    steps: list[str],
    risk: Risk | None,
) -> None:
    plan = decided(agent, {"type": "small", **wanted}, observed)
    assert tools_of(plan) == steps, reason
    assert risk is None or plan.risk is risk


def test_the_plan_names_whose_it_was_and_the_key_that_is_pinned(agent: InstanceAgent) -> None:
    first = decided(agent, WANTED, on_list(FOREIGN)).steps[0]
    assert first.parameters["was"] == str(FOREIGN)
    assert first.parameters["hostKey"] == fingerprint(KEY)
    assert str(FOREIGN) in first.description
    assert fingerprint(KEY) in first.description


def test_what_we_did_not_make_keeps_its_name(agent: InstanceAgent) -> None:
    for observed, wanted in ((FREE, WANTED), (seen(capabilities=INVENTORY), ANY)):
        *_, last = decided(agent, wanted, observed).steps
        assert last.parameters["hostname"] == ""


def test_what_is_taken_over_while_it_is_off_is_started(agent: InstanceAgent) -> None:
    off = seen(server=server(ServerState.STOPPED, owner=FOREIGN), adopts=True, vouched=fingerprint(KEY))
    started = ["adopt_instance", "start_instance", "wait_for_ready", "prepare_host"]
    assert tools_of(decided(agent, {"adopt": "s-1"}, off)) == started
    assert tools_of(decided(agent, {"adopt": "s-1", "powerState": "Off"}, off)) == ["adopt_instance"]


TEARDOWNS: list[tuple[str, dict[str, Any], InstanceObservation, list[str], Risk]] = [
    ("a host is let go of", {}, OURS, ["decommission_instance"], Risk.MODERATE),
    ("what was only looked at is left", {}, FREE, [], Risk.SAFE),
    ("what was marked and never claimed is dropped", {}, on_list(None, marked=True), ["release_instance"], Risk.SAFE),
    ("what somebody else has now is his", {}, on_list(SOMEBODY, **HELD), ["release_instance"], Risk.SAFE),
    ("Retain lets go of what is not listed", {"deletionPolicy": "Retain"}, NOT_LISTED, ["release_instance"], Risk.SAFE),
]


@pytest.mark.parametrize(
    ("reason", "management", "observed", "steps", "risk"), TEARDOWNS, ids=[c[0] for c in TEARDOWNS]
)
def test_given_this_machine_then_this_teardown(
    agent: InstanceAgent,
    reason: str,
    management: dict[str, Any],
    observed: InstanceObservation,
    steps: list[str],
    risk: Risk,
) -> None:
    plan = agent.teardown(instance(deleting=True, management=management, **WANTED), observed)
    assert (tools_of(plan), plan.risk) == (steps, risk), reason


def wiped(agent: InstanceAgent, **wipe: Any) -> Plan:
    return agent.teardown(instance(deleting=True, **WANTED), replace(OURS, wipe=WipeSpec(**wipe)))


def test_a_wipe_comes_first_and_is_dangerous(agent: InstanceAgent) -> None:
    plan = wiped(agent, paths=("/srv/a", "/opt/b"), users=("bob",))
    assert tools_of(plan) == ["wipe_host", "wipe_host", "decommission_instance"]
    assert plan.risk is Risk.DANGEROUS
    assert plan.steps[0].parameters["paths"] == ["/srv/a", "/opt/b"]
    assert plan.steps[1].parameters["user"] == "bob"


def test_whoever_logs_in_and_what_is_ours_is_never_wiped(agent: InstanceAgent) -> None:
    plan = wiped(agent, paths=("/var/lib/agentmetal", "/var/lib/agentmetal/units"), users=("root",))
    assert tools_of(plan) == ["decommission_instance"]


def test_a_long_list_is_wiped_in_portions(agent: InstanceAgent) -> None:
    paths = tuple(f"/srv/{number:03}-{'x' * 200}" for number in range(32))
    plan = wiped(agent, paths=paths)
    assert tuple(path for step in plan.steps[:-1] for path in step.parameters["paths"]) == paths


def test_a_release_wipes_nothing(agent: InstanceAgent) -> None:
    retained = instance(deleting=True, management={"deletionPolicy": "Retain"}, **WANTED)
    plan = agent.teardown(retained, replace(OURS, wipe=WipeSpec(paths=("/srv/a",))))
    assert tools_of(plan) == ["release_instance"]


SENTENCES: list[tuple[InstanceObservation, dict[str, Any], Reason, str]] = [
    (FREE, {"management": {"mode": "Observe"}}, Reason.OBSERVE_ONLY, "is nobody's; it is only looked at"),
    (FREE, {}, Reason.PLAN_PENDING, "is nobody's: it is to be taken over"),
    (on_list(FOREIGN), {}, Reason.PLAN_PENDING, f"carries the mark of {FOREIGN}"),
    (on_list(FOREIGN, held_by="db"), {}, Reason.CLAIMED_BY_OTHER, "belongs to Instance 'db', which exists"),
    (on_list(SOMEBODY), {}, Reason.CLAIMED_BY_OTHER, "belongs to another/shop/u"),
    (replace(FREE, vouched=""), {}, Reason.NOT_SUPPORTED, "knows no host key"),
    (replace(FREE, reach=Reach.NO_ROOT, evidence="sudo"), {}, Reason.NEEDS_ROOT, "sudo"),
    (
        NEVER_LISTED,
        {},
        Reason.NOT_IN_INVENTORY,
        "which spec.adopt names, is not in the inventory of Provider 'cloud': add",
    ),
    (NOT_LISTED, {}, Reason.NOT_IN_INVENTORY, "put its entry back, or set deletionPolicy Retain"),
    (replace(OURS, machine_before="m-0"), {}, Reason.GONE, "its machine-id was m-0 and is m-1"),
]


@pytest.mark.parametrize(("observed", "wanted", "reason", "text"), SENTENCES, ids=[case[3] for case in SENTENCES])
def test_ready_says_whose_it_is(
    agent: InstanceAgent, observed: InstanceObservation, wanted: dict[str, Any], reason: Reason, text: str
) -> None:
    ready = agent.report(instance(**WANTED, **wanted), observed).conditions[0]
    assert ready.reason is reason
    assert text in ready.message


def test_another_machine_does_not_replace_the_id_that_is_known(agent: InstanceAgent) -> None:
    assert "machineID" not in agent.report(instance(**WANTED), replace(OURS, machine_before="m-0")).fields


def test_a_clone_is_degraded_and_ready(agent: InstanceAgent) -> None:
    report = agent.report(instance(**WANTED), replace(OURS, twin="Instance 'db'"))
    told = {c.type: c for c in report.conditions}
    assert told[ConditionType.DEGRADED].reason is Reason.DUPLICATE_MACHINE
    assert "Instance 'db'" in told[ConditionType.DEGRADED].message


# -- the tools

HOST: dict[str, str] = {
    "provider": "cloud",
    "server": SERVER_NAME,
    "host_key_secret": "web-host-key",
    "client_key_secret": "cloud-ssh",
}
WEB = instance(adopt="fake-1")


async def inventory() -> tuple[AgentWorld, str]:
    """One host in an inventory, up; and the fingerprint that is vouched for."""
    world = AgentWorld(inventory=True, boot_seconds=0.0)
    pair = make_key_pair("h1")
    order = ServerSpec(name="h1", owner=TAG, type="small", image="bookworm", host_key=pair.private_openssh)
    server_id = world.cloud.order_by_hand(order)
    client = world.secrets.held["cloud-ssh"]["ssh-publickey"]
    world.hosts.host(server_id).files["/root/.ssh/authorized_keys"] = client
    return world, pair.fingerprint


async def test_a_claim_is_noted_before_it_is_made_and_pinned_after() -> None:
    world, key = await inventory()
    world.cloud.faults.lose_reply(call="adopt_server")
    params = AdoptParams(**HOST, server_id="fake-1", host_key=key)
    with pytest.raises(Exception, match="the answer"):
        await world.call(adoption.adopt_instance, WEB, params)
    assert world.secrets.held["web-host-key"] == {}
    await world.call(adoption.adopt_instance, WEB, params)
    held = world.secrets.held["web-host-key"]
    assert fingerprint(held[HOST_PUBLIC].decode()) == key
    assert held[HOST_SERVER] == b"fake-1"


async def test_a_key_that_was_not_planned_is_not_pinned() -> None:
    world, _ = await inventory()
    params = AdoptParams(**HOST, server_id="fake-1", host_key="SHA256:planned")
    with pytest.raises(HostKeyMismatch, match="SHA256:planned"):
        await world.call(adoption.adopt_instance, WEB, params)
    assert world.cloud.server("fake-1").owner is None
    assert "web-host-key" not in world.secrets.held


async def test_a_pin_is_never_replaced_by_adopting_again() -> None:
    world, key = await inventory()
    world.secrets.held["web-host-key"] = {HOST_PUBLIC: OTHER_KEY.encode()}
    with pytest.raises(HostKeyMismatch, match="the pin stays"):
        await world.call(adoption.adopt_instance, WEB, AdoptParams(**HOST, server_id="fake-1", host_key=key))
    assert world.secrets.held["web-host-key"][HOST_PUBLIC] == OTHER_KEY.encode()


async def test_what_has_another_owner_by_then_is_left_alone() -> None:
    world, key = await inventory()
    world.cloud.server("fake-1").owner = FOREIGN
    params = AdoptParams(**HOST, server_id="fake-1", host_key=key)
    facts = await adoption.adopt_instance.read(world.context(WEB), params)
    assert isinstance(adoption.adopt_instance.holds(params, facts), Refusal)
    with pytest.raises(ClaimedByOther):
        await adoption.adopt_instance.run(world.context(WEB), params)


async def ours() -> AgentWorld:
    """That host, taken over and prepared."""
    world, key = await inventory()
    await world.call(adoption.adopt_instance, WEB, AdoptParams(**HOST, server_id="fake-1", host_key=key))
    await world.call(tools.prepare_host, WEB, PrepareParams(**HOST, server_id="fake-1"))
    return world


async def test_letting_go_leaves_the_host_and_nothing_of_ours() -> None:
    world = await ours()
    host = world.hosts.host("fake-1")
    assert host.installed
    params = DecommissionParams(**HOST, server_id="fake-1", kept=True)
    assert isinstance(await world.call(tools.decommission_instance, WEB, params), Result)
    assert not host.installed
    assert CLAIM_PATH not in host.files
    assert world.cloud.server("fake-1").owner is None
    assert "web-host-key" not in world.secrets.held


async def test_who_was_told_that_it_stays_never_finds_it_deleted() -> None:
    facts = ServerFacts(exists=True, server_id="s-1", kept=False)
    params = DecommissionParams(**HOST, server_id="s-1", kept=True)
    assert isinstance(tools.decommission_instance.holds(params, facts), Refusal)


async def test_a_host_that_somebody_else_has_claimed_meanwhile_is_not_cleared() -> None:
    world = await ours()
    host = world.hosts.host("fake-1")
    host.files[CLAIM_PATH] = Claim.of(FOREIGN).file()
    await world.call(tools.release_instance, WEB, HostParams(**HOST, server_id="fake-1"))
    assert claimant(host.files[CLAIM_PATH]) == str(FOREIGN)
    assert host.installed


async def test_the_claim_of_whom_it_was_taken_from_is_replaced_and_no_other() -> None:
    world = await ours()
    host = world.hosts.host("fake-1")
    host.files[CLAIM_PATH] = Claim.of(FOREIGN).file()
    params = PrepareParams(**HOST, server_id="fake-1", was=str(FOREIGN))
    assert isinstance(await world.call(tools.prepare_host, WEB, params), Result)
    assert claimant(host.files[CLAIM_PATH]) == str(TAG)
    host.files[CLAIM_PATH] = Claim.of(NEIGHBOUR).file()
    with pytest.raises(ClaimedByOther):
        await tools.prepare_host.run(world.context(WEB), params)


async def test_a_claim_that_is_made_while_a_host_without_one_is_cleared_stays() -> None:
    world = await ours()
    host = world.hosts.host("fake-1")
    del host.files[CLAIM_PATH]
    clearing = asyncio.create_task(adoption.clear_host(world.context(WEB), HostParams(**HOST, server_id="fake-1")))
    while host.installed:  # noqa: ASYNC110 - simulated hosts have no events
        await asyncio.sleep(0)
    host.files[CLAIM_PATH] = Claim.of(FOREIGN).file()
    await clearing
    assert claimant(host.files[CLAIM_PATH]) == str(FOREIGN)
