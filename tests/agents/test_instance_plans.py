"""Given this world, then this plan: the Instance agent's decisions, without any I/O."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from tests.support.agents import (
    FOREIGN,
    NOW,
    SERVER_NAME,
    TAG,
    AgentWorld,
    instance,
    prepared,
    provider,
    seen,
    server,
    tools_of,
)

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance, hostname, server_name
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.core.condition import ConditionStatus, ConditionType, Reason
from agentmetal.core.machine import Capabilities, ServerState
from agentmetal.core.plan import Plan
from agentmetal.core.resource import Key
from agentmetal.core.risk import Risk
from agentmetal.engine.agent import Volatile
from agentmetal_tools.looks import Vitals

PROVISION = ["provision_instance", "wait_for_ready", "prepare_host"]
START = ["start_instance", "wait_for_ready", "prepare_host"]
RESET = ["reboot_instance", "wait_for_ready", "prepare_host"]
REBUILD = ["rebuild_instance", "wait_for_ready", "prepare_host"]
FENCE = {"holder": "Database shop/db", "epoch": 3, "reason": "failover"}
ORDERED = {"providerID": "s-1", "image": "bookworm"}

OFF, RUNNING = ServerState.STOPPED, ServerState.RUNNING
ANSWERING = seen(server=server(), host_key="k", reach=Reach.ANSWERING, look=prepared())
GONE = seen(host_key="k", missing=True, certainly_gone=True)


@pytest.fixture
def agent() -> InstanceAgent:
    return InstanceAgent(AgentWorld().ports)


def decided(agent: InstanceAgent, resource: Instance, observed: InstanceObservation) -> Plan:
    """The plan the engine would take: the first issue that can be healed, else the change."""
    for issue in agent.issues(resource, observed):
        if plan := agent.heal(resource, observed, issue):
            return plan
    return agent.reconcile(resource, observed)


CASES: list[tuple[str, dict[str, Any], InstanceObservation, list[str]]] = [
    ("a new Instance is ordered and prepared", {}, seen(), PROVISION),
    (
        "servers without hosts are only ordered",
        {},
        seen(capabilities=Capabilities(hosts=False)),
        ["provision_instance"],
    ),
    ("what is as specified stays untouched", {"status": ORDERED}, ANSWERING, []),
    ("what was there and is certainly gone is ordered anew", {"status": ORDERED}, GONE, PROVISION),
    ("what may only be late in a list is waited for", {"status": ORDERED}, seen(host_key="k", missing=True), []),
    ("another image means a rebuild", {"image": "bookworm-20"}, ANSWERING, REBUILD),
    ("a booting server is left alone", {}, seen(server=server(ServerState.PROVISIONING)), []),
    ("a quiet host is left alone", {}, seen(server=server(), reach=Reach.QUIET), []),
    ("a silent host is reset", {}, seen(server=server(), reach=Reach.SILENT, silent_since=NOW), RESET),
    ("a stopped server that should run is started", {}, seen(server=server(OFF)), START),
    ("a running server that should be off is stopped", {"powerState": "Off"}, ANSWERING, ["stop_instance"]),
    ("a stopped server that should be off stays", {"powerState": "Off"}, seen(server=server(OFF)), []),
    (
        "silence of a server that should be off is stopped, not healed",
        {"powerState": "Off"},
        seen(server=server(), reach=Reach.SILENT, silent_since=NOW),
        ["stop_instance"],
    ),
    ("an unprepared host is prepared", {}, replace(ANSWERING, unprepared=("our claim",)), ["prepare_host"]),
    (
        "a host that another Instance claims is left alone",
        {},
        replace(ANSWERING, look=prepared(claimed_by=str(FOREIGN)), unprepared=("our claim",)),
        [],
    ),
    ("a foreign server is left alone", {}, seen(server=server(owner=FOREIGN)), []),
    ("a server without owner is left alone", {"image": "bookworm-20"}, seen(server=server(owner=None)), []),
    ("another host key is never repaired", {}, seen(server=server(), reach=Reach.WRONG_HOST_KEY, evidence="x"), []),
    ("a refused login is not healed by force", {}, seen(server=server(), reach=Reach.REFUSED, evidence="x"), []),
    (
        "a fence cuts the power before anything else",
        {"fence": FENCE, "image": "bookworm-20"},
        ANSWERING,
        ["stop_instance"],
    ),
    ("a fenced server that is off stays off", {"fence": FENCE}, seen(server=server(OFF)), []),
    ("a fenced server that is gone is not ordered anew", {"fence": FENCE, "status": ORDERED}, GONE, []),
    ("a server being deleted behind our back is waited for", {}, seen(server=server(ServerState.DECOMMISSIONING)), []),
]


@pytest.mark.parametrize(("reason", "wanted", "observed", "tools"), CASES, ids=[case[0] for case in CASES])
def test_given_this_world_then_this_plan(
    agent: InstanceAgent, reason: str, wanted: dict[str, Any], observed: InstanceObservation, tools: list[str]
) -> None:
    assert tools_of(decided(agent, instance(**wanted), observed)) == tools, reason


def test_only_deleting_data_needs_a_human(agent: InstanceAgent) -> None:
    assert decided(agent, instance(), seen()).risk is Risk.MODERATE
    assert decided(agent, instance(), seen(server=server(OFF))).risk is Risk.MODERATE
    assert decided(agent, instance(image="bookworm-20"), ANSWERING).risk is Risk.DANGEROUS


def test_a_fence_cuts_the_power_at_once_and_urgently(agent: InstanceAgent) -> None:
    fenced = instance(fence=FENCE)
    (issue,) = agent.issues(fenced, ANSWERING)
    (step,) = agent.heal(fenced, ANSWERING, issue).steps
    assert issue.urgent
    assert step.parameters["force"] is True


TEARDOWNS: list[tuple[str, dict[str, Any], InstanceObservation, list[str], Risk]] = [
    ("a server is deleted", {}, ANSWERING, ["decommission_instance"], Risk.DANGEROUS),
    ("one that is lost is made sure of", {}, seen(host_key="k"), ["decommission_instance"], Risk.SAFE),
    ("nothing was ever ordered", {}, seen(), [], Risk.SAFE),
    ("a foreign server of its name is not ours to delete", {}, seen(server=server(owner=FOREIGN)), [], Risk.SAFE),
    ("Retain only lets go", {"management": {"deletionPolicy": "Retain"}}, ANSWERING, ["release_instance"], Risk.SAFE),
    ("Observe only lets go", {"management": {"mode": "Observe"}}, ANSWERING, ["release_instance"], Risk.SAFE),
]


@pytest.mark.parametrize(("reason", "wanted", "observed", "tools", "risk"), TEARDOWNS, ids=[c[0] for c in TEARDOWNS])
def test_given_this_world_then_this_teardown(
    agent: InstanceAgent,
    reason: str,
    wanted: dict[str, Any],
    observed: InstanceObservation,
    tools: list[str],
    risk: Risk,
) -> None:
    plan = agent.teardown(instance(deleting=True, **wanted), observed)
    assert (tools_of(plan), plan.risk) == (tools, risk), reason


def volatile_fields() -> list[str]:
    hints = get_type_hints(InstanceObservation, include_extras=True)
    annotated = {name: get_args(hint)[1:] for name, hint in hints.items() if get_origin(hint) is Annotated}
    return [name for name, marks in annotated.items() if Volatile in marks]


PERTURBED: dict[str, Any] = {
    "at": NOW + timedelta(hours=3),
    "silent_since": NOW - timedelta(days=1),
    "evidence": "quite another story",
    "shown_by": "m-9",
    "vitals": Vitals(disk_free_ratio=0.01, load_per_cpu=40.0, clock_offset_seconds=-3600.0),
    "booted_at": NOW - timedelta(days=9),
}


@pytest.mark.parametrize("name", volatile_fields())
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_what_changes_by_itself_changes_no_plan(
    agent: InstanceAgent, case: tuple[str, dict[str, Any], InstanceObservation, list[str]], name: str
) -> None:
    resource, observed = instance(**case[1]), case[2]
    perturbed = replace(observed, **{name: PERTURBED[name]})
    assert decided(agent, resource, perturbed).body() == decided(agent, resource, observed).body()


def test_every_volatile_field_is_perturbed() -> None:
    assert set(volatile_fields()) == set(PERTURBED)
    assert set(PERTURBED) < {field.name for field in fields(InstanceObservation)}


READY: list[tuple[str, dict[str, Any], InstanceObservation, ConditionStatus, Reason]] = [
    ("as specified", {}, ANSWERING, ConditionStatus.TRUE, Reason.AS_SPECIFIED),
    ("off as specified", {"powerState": "Off"}, seen(server=server(OFF)), ConditionStatus.TRUE, Reason.AS_SPECIFIED),
    ("nothing yet", {}, seen(), ConditionStatus.FALSE, Reason.PLAN_PENDING),
    ("gone", {"status": ORDERED}, GONE, ConditionStatus.FALSE, Reason.GONE),
    ("off", {}, seen(server=server(OFF)), ConditionStatus.FALSE, Reason.POWERED_OFF),
    ("quiet", {}, seen(server=server(), reach=Reach.QUIET), ConditionStatus.UNKNOWN, Reason.UNREACHABLE),
    ("silent", {}, seen(server=server(), reach=Reach.SILENT), ConditionStatus.FALSE, Reason.UNREACHABLE),
    (
        "other key",
        {},
        seen(server=server(), reach=Reach.WRONG_HOST_KEY),
        ConditionStatus.FALSE,
        Reason.HOST_KEY_MISMATCH,
    ),
    ("refused", {}, seen(server=server(), reach=Reach.REFUSED), ConditionStatus.FALSE, Reason.AUTHENTICATION_FAILED),
    (
        "no key",
        {},
        seen(server=server(), reach=Reach.NO_KEY, evidence="gone"),
        ConditionStatus.FALSE,
        Reason.SECRET_MISSING,
    ),
    ("foreign", {}, seen(server=server(owner=FOREIGN)), ConditionStatus.FALSE, Reason.CLAIMED_BY_OTHER),
    ("fenced", {"fence": FENCE}, seen(server=server(OFF)), ConditionStatus.FALSE, Reason.FENCED),
    ("unprepared", {}, replace(ANSWERING, unprepared=("our claim",)), ConditionStatus.FALSE, Reason.NOT_PREPARED),
    ("other image", {"image": "bookworm-20"}, ANSWERING, ConditionStatus.FALSE, Reason.PLAN_PENDING),
]


@pytest.mark.parametrize(("name", "wanted", "observed", "status", "reason"), READY, ids=[case[0] for case in READY])
def test_ready_says_what_is_so(
    agent: InstanceAgent,
    name: str,
    wanted: dict[str, Any],
    observed: InstanceObservation,
    status: ConditionStatus,
    reason: Reason,
) -> None:
    first = agent.report(instance(**wanted), observed).conditions[0]
    assert (first.type, first.status, first.reason) == (ConditionType.READY, status, reason)
    assert first.message


@pytest.mark.parametrize(
    ("observed", "status"),
    [
        (ANSWERING, ConditionStatus.FALSE),
        (seen(server=server(ServerState.STOPPING)), ConditionStatus.FALSE),
        (seen(host_key="k", missing=True), ConditionStatus.FALSE),
        (seen(server=server(OFF)), ConditionStatus.TRUE),
        (GONE, ConditionStatus.TRUE),
    ],
)
def test_fenced_is_true_only_after_the_state_was_read_as_off(
    agent: InstanceAgent, observed: InstanceObservation, status: ConditionStatus
) -> None:
    conditions = {c.type: c for c in agent.report(instance(fence=FENCE), observed).conditions}
    assert conditions[ConditionType.FENCED].status is status


def test_another_host_key_is_reported_with_both_fingerprints(agent: InstanceAgent) -> None:
    observed = seen(
        server=server(), reach=Reach.WRONG_HOST_KEY, fingerprint="SHA256:ours", evidence="shown SHA256:theirs"
    )
    conditions = {c.type: c for c in agent.report(instance(), observed).conditions}
    message = conditions[ConditionType.HOST_KEY_MISMATCH].message
    assert "SHA256:ours" in message
    assert "SHA256:theirs" in message


def test_a_gone_server_keeps_its_id_in_status_so_that_it_stays_known_as_gone(agent: InstanceAgent) -> None:
    assert "providerID" not in agent.report(instance(status=ORDERED), GONE).fields


WAITS: list[tuple[str, dict[str, Any], Any, Reason | None]] = [
    ("the Provider is ready", {}, provider(), None),
    ("the Provider is missing", {}, None, Reason.WAITING_FOR_REFERENCE),
    ("the Provider is not ready", {}, provider(ready=False), Reason.WAITING_FOR_REFERENCE),
    ("the Provider is going and nothing was ordered", {}, provider(deleting=True), Reason.WAITING_FOR_REFERENCE),
    ("the Provider is going and we have a server", {"status": ORDERED}, provider(deleting=True), None),
    ("unknown type", {"type": "huge"}, provider(), Reason.UNKNOWN_TYPE),
    ("unknown image", {"image": "plan9"}, provider(), Reason.UNKNOWN_IMAGE),
    ("unknown location", {"location": "moon"}, provider(), Reason.UNKNOWN_LOCATION),
    ("an image no longer offered that runs", {"status": ORDERED}, provider(status={"images": []}), None),
    ("deleting waits for nothing", {"deleting": True}, None, None),
    ("a fence waits for nothing", {"fence": FENCE}, None, None),
]


@pytest.mark.parametrize(("name", "wanted", "given", "reason"), WAITS, ids=[case[0] for case in WAITS])
def test_waits_for_a_provider_that_offers_it(
    name: str, wanted: dict[str, Any], given: Any, reason: Reason | None
) -> None:
    world = AgentWorld()
    world.objects.objects = {given.key: given} if given else {}
    waits = InstanceAgent(world.ports).waits_for(instance(**wanted))
    assert (waits.reason if waits else None) is reason


def test_an_unknown_choice_lists_the_known_ones() -> None:
    waits = InstanceAgent(AgentWorld().ports).waits_for(instance(image="plan9"))
    assert waits is not None
    assert waits.message == "Provider 'cloud' has no image 'plan9'; it has: bookworm, bookworm-20"


def test_refers_to_its_provider(agent: InstanceAgent) -> None:
    assert agent.references(instance()) == (Key("Provider", "shop", "cloud"),)


def test_plans_are_bound_to_the_very_server() -> None:
    assert ANSWERING.targets == {"serverID": "s-1"}
    assert seen().targets == {"serverID": ""}


@pytest.mark.parametrize(
    ("name", "server_is", "host_is"),
    [
        ("web", "web-aaaabbbb", "web"),
        ("a" * 70, "a" * 40 + "-aaaabbbb", "a" * 40 + "-aaaabbbb"),
        ("a" * 39 + ".b", "a" * 39 + "-aaaabbbb", "a" * 39 + ".b"),
    ],
)
def test_names_are_short_and_never_shared_with_a_re_created_instance(name: str, server_is: str, host_is: str) -> None:
    named = instance()
    named = named.model_copy(update={"metadata": named.metadata.model_copy(update={"name": name})})
    assert (server_name(named), hostname(named)) == (server_is, host_is)
    assert server_name(instance()) == SERVER_NAME
    assert TAG.uid.startswith(SERVER_NAME[-8:])
