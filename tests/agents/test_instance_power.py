"""Power, size and boots of a server: given this world, then this plan, and these sentences. Without any I/O."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.support.agents import NOW, AgentWorld, instance, prepared, seen, server, tools_of

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.core.condition import Condition, ConditionStatus, ConditionType, Reason
from agentmetal.core.machine import Capabilities, ServerState
from agentmetal.core.plan import Plan
from agentmetal.core.resource import Annotation
from agentmetal.core.risk import Risk
from agentmetal_tools.hosts import Boot

READY = ["wait_for_ready", "prepare_host"]
ABLE = Capabilities(hosts=True, resize=True, rescue=True)
INVENTORY = Capabilities(hosts=True, power=False, makes_servers=False)
LONG_AGO = NOW - timedelta(days=30)
FENCE = {"holder": "Database shop/db", "epoch": 3, "reason": "failover"}
OFF = ServerState.STOPPED

UP = seen(
    server=server(),
    host_key="k",
    capabilities=ABLE,
    reach=Reach.ANSWERING,
    look=prepared(boot=Boot(id="boot-1", up_seconds=30 * 86400.0)),
    booted_at=LONG_AGO,
)
IN_RESCUE = replace(UP, server=replace(server(), rescue=True), look=None, booted_at=None)
RIGID = replace(UP, capabilities=INVENTORY)


@pytest.fixture
def agent() -> InstanceAgent:
    return InstanceAgent(AgentWorld().ports)


def wanted(reboot_at: str = "", **spec: Any) -> Instance:
    """The Instance, asking for a reboot."""
    made = instance(**spec)
    annotations = {Annotation.REBOOT_AT: reboot_at} if reboot_at else {}
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"annotations": annotations})})


def decided(agent: InstanceAgent, resource: Instance, observed: InstanceObservation) -> Plan:
    """The plan the engine would take: the first issue that can be healed, else the change."""
    for issue in agent.issues(resource, observed):
        if plan := agent.heal(resource, observed, issue):
            return plan
    return agent.reconcile(resource, observed)


def told(agent: InstanceAgent, resource: Instance, observed: InstanceObservation, type: ConditionType) -> Condition:
    (found,) = [c for c in agent.report(resource, observed).conditions if c.type is type]
    return found


YESTERDAY, TOMORROW = "2025-12-31T00:00:00Z", "2026-01-02T00:00:00Z"

REBOOTS: list[tuple[str, dict[str, Any], InstanceObservation, list[str]]] = [
    ("booted before the time", {"reboot_at": YESTERDAY}, UP, ["reboot_host"]),
    ("a time in another zone", {"reboot_at": "2025-12-31T02:00:00+02:00"}, UP, ["reboot_host"]),
    ("booted after the time", {"reboot_at": YESTERDAY}, replace(UP, booted_at=NOW - timedelta(hours=1)), []),
    ("a time to come", {"reboot_at": TOMORROW}, UP, []),
    ("a time without a zone", {"reboot_at": "2025-12-31T00:00:00"}, UP, []),
    ("no time at all", {"reboot_at": "now"}, UP, []),
    ("nobody asks", {}, UP, []),
    ("fenced", {"reboot_at": YESTERDAY, "fence": FENCE}, UP, ["stop_instance"]),
    ("only observed", {"reboot_at": YESTERDAY, "management": {"mode": "Observe"}}, UP, []),
    ("to be off", {"reboot_at": YESTERDAY, "powerState": "Off"}, UP, ["stop_instance"]),
    ("off", {"reboot_at": YESTERDAY, "powerState": "Off"}, seen(server=server(OFF)), []),
    ("in rescue", {"reboot_at": YESTERDAY, "powerState": "Rescue"}, IN_RESCUE, []),
    ("silent", {"reboot_at": YESTERDAY}, seen(server=server(), reach=Reach.QUIET), []),
    ("unprepared", {"reboot_at": YESTERDAY}, replace(UP, unprepared=("our claim",)), ["prepare_host"]),
    ("out of an inventory", {"reboot_at": YESTERDAY}, RIGID, ["reboot_host"]),
    ("behind a rebuild", {"reboot_at": YESTERDAY, "image": "bookworm-20"}, UP, ["rebuild_instance", *READY]),
]


@pytest.mark.parametrize(("reason", "asked", "observed", "tools"), REBOOTS, ids=[case[0] for case in REBOOTS])
def test_given_this_annotation_then_this_plan(
    agent: InstanceAgent, reason: str, asked: dict[str, Any], observed: InstanceObservation, tools: list[str]
) -> None:
    assert tools_of(decided(agent, wanted(**asked), observed)) == tools, reason


def test_a_reboot_names_the_time_and_the_boot_that_is_to_end(agent: InstanceAgent) -> None:
    plan = decided(agent, wanted("2025-12-31T02:00:00.5+02:00"), UP)
    (step,) = plan.steps
    assert (step.parameters["askedFor"], step.parameters["bootID"]) == (YESTERDAY, "boot-1")
    assert plan.risk is Risk.MODERATE
    assert "as asked for at 2025-12-31T00:00:00Z" in step.description


def test_a_reboot_in_the_future_is_looked_at_in_time(agent: InstanceAgent) -> None:
    assert agent.report(wanted(TOMORROW), UP).again_in == 86400.0
    assert agent.report(wanted(YESTERDAY), UP).again_in is None


@pytest.mark.parametrize("value", ["now", "2026-01-31", "2026-01-31T03:00:00", "0001-01-01T00:00:00+14:00", "x" * 9000])
def test_a_time_that_is_not_understood_is_told_and_disturbs_nothing(agent: InstanceAgent, value: str) -> None:
    condition = told(agent, wanted(value), UP, ConditionType.DEGRADED)
    assert (condition.status, condition.reason) == (ConditionStatus.TRUE, Reason.INVALID_ANNOTATION)
    assert "write a time with its zone" in condition.message
    assert len(condition.message) < 400
    assert told(agent, wanted(value), UP, ConditionType.READY).status is ConditionStatus.TRUE


BIG = {"type": "large"}
OF_ONE_TYPE = replace(UP, types=("small",))
RESIZE = ["stop_instance", "resize_instance", "start_instance", *READY]
SIZES: list[tuple[str, dict[str, Any], InstanceObservation, list[str]]] = [
    ("running", BIG, UP, RESIZE),
    ("off, and to be off", {**BIG, "powerState": "Off"}, replace(UP, server=server(OFF)), ["resize_instance"]),
    ("to be off", {**BIG, "powerState": "Off"}, UP, ["stop_instance"]),
    ("off by accident", BIG, replace(UP, server=server(OFF)), ["start_instance", *READY]),
    ("in rescue", {**BIG, "powerState": "Rescue"}, IN_RESCUE, []),
    ("quiet", BIG, replace(UP, reach=Reach.QUIET), []),
    ("another key is shown", BIG, replace(UP, reach=Reach.WRONG_HOST_KEY), []),
    ("cannot be", BIG, RIGID, []),
    ("offered", BIG, replace(UP, types=("small", "large")), RESIZE),
    ("not offered: nothing is switched off", BIG, OF_ONE_TYPE, []),
    ("as it is", {}, UP, []),
]


@pytest.mark.parametrize(("reason", "spec", "observed", "tools"), SIZES, ids=[case[0] for case in SIZES])
def test_given_another_type_then_this_plan(
    agent: InstanceAgent, reason: str, spec: dict[str, Any], observed: InstanceObservation, tools: list[str]
) -> None:
    assert tools_of(decided(agent, wanted(**spec), observed)) == tools, reason


def test_nobody_is_left_switched_off_between_the_steps_of_a_resize(agent: InstanceAgent) -> None:
    plan = decided(agent, wanted(**BIG), UP)
    assert plan.risk is Risk.MODERATE
    by_name = {tool.name: tool for tool in agent.tools()}
    assert [by_name[step.tool].leave_after for step in plan.steps[:3]] == [False, False, True]
    assert plan.steps[1].parameters["on"] is True


RESCUE = ["rescue_instance", "wait_for_ready"]
RESCUES: list[tuple[str, dict[str, Any], InstanceObservation, list[str]]] = [
    ("running", {"powerState": "Rescue"}, UP, RESCUE),
    ("off", {"powerState": "Rescue"}, replace(UP, server=server(OFF)), RESCUE),
    ("there", {"powerState": "Rescue"}, IN_RESCUE, []),
    ("there and silent", {"powerState": "Rescue"}, replace(IN_RESCUE, reach=Reach.SILENT), []),
    ("there, another image", {"powerState": "Rescue", "image": "bookworm-20"}, IN_RESCUE, []),
    ("back", {}, IN_RESCUE, ["stop_instance", "start_instance", *READY]),
    ("back, another image", {"image": "bookworm-20"}, IN_RESCUE, ["stop_instance", "start_instance", *READY]),
    ("back, silent", {}, replace(IN_RESCUE, reach=Reach.SILENT), ["stop_instance", "start_instance", *READY]),
    ("from rescue to off", {"powerState": "Off"}, IN_RESCUE, ["stop_instance"]),
    ("cannot be", {"powerState": "Rescue"}, RIGID, []),
    ("fenced", {"powerState": "Rescue", "fence": FENCE}, UP, ["stop_instance"]),
]


@pytest.mark.parametrize(("reason", "spec", "observed", "tools"), RESCUES, ids=[case[0] for case in RESCUES])
def test_given_a_rescue_then_this_plan(
    agent: InstanceAgent, reason: str, spec: dict[str, Any], observed: InstanceObservation, tools: list[str]
) -> None:
    assert tools_of(decided(agent, wanted(**spec), observed)) == tools, reason


SENTENCES: list[tuple[str, dict[str, Any], InstanceObservation, Reason, str]] = [
    ("rescue", {"powerState": "Rescue"}, IN_RESCUE, Reason.AS_SPECIFIED, "set it back to 'On' to leave it"),
    ("to rescue", {"powerState": "Rescue"}, UP, Reason.PLAN_PENDING, "it should run its rescue system"),
    ("from rescue", {}, IN_RESCUE, Reason.PLAN_PENDING, "it should run its own system again"),
    ("no such size", BIG, OF_ONE_TYPE, Reason.UNKNOWN_TYPE, "has no type 'large'; it has: small"),
    ("size", BIG, UP, Reason.PLAN_PENDING, "it is of type 'small', wanted is 'large'"),
    (
        "no size",
        BIG,
        RIGID,
        Reason.NOT_SUPPORTED,
        "type cannot be changed at Provider 'cloud': set it back to 'small'",
    ),
    (
        "no switch",
        {"powerState": "Off"},
        RIGID,
        Reason.NOT_SUPPORTED,
        "powerState Off is not possible at Provider 'cloud': set it back to 'On'",
    ),
    ("no rescue", {"powerState": "Rescue"}, RIGID, Reason.NOT_SUPPORTED, "powerState Rescue is not possible"),
    (
        "silent without power",
        {},
        replace(RIGID, reach=Reach.SILENT, look=None, silent_since=NOW),
        Reason.UNREACHABLE,
        "cannot switch its power: somebody must look at the machine",
    ),
    ("fenced without power", {"fence": FENCE}, RIGID, Reason.FENCED, "cannot be fenced by power, and may run"),
]


@pytest.mark.parametrize(("name", "spec", "observed", "reason", "text"), SENTENCES, ids=[c[0] for c in SENTENCES])
def test_not_ready_says_why(
    agent: InstanceAgent, name: str, spec: dict[str, Any], observed: InstanceObservation, reason: Reason, text: str
) -> None:
    ready = told(agent, wanted(**spec), observed, ConditionType.READY)
    assert (ready.status, ready.reason) == (ConditionStatus.FALSE, reason), name
    assert text in ready.message


def test_a_fence_without_power_is_never_said_to_hold(agent: InstanceAgent) -> None:
    fenced = wanted(fence=FENCE)
    condition = told(agent, fenced, RIGID, ConditionType.FENCED)
    assert (condition.status, condition.reason) == (ConditionStatus.FALSE, Reason.NOT_SUPPORTED)
    assert condition.message == "host 's-1' has no power control: it cannot be fenced by power, and may run"
    assert not decided(agent, fenced, RIGID)


def test_a_silent_host_without_power_is_reported_and_left_alone(agent: InstanceAgent) -> None:
    silent = replace(RIGID, reach=Reach.SILENT, look=None, silent_since=NOW)
    assert [issue.type for issue in agent.issues(wanted(), silent)] == [Reason.UNREACHABLE]
    assert not decided(agent, wanted(), silent)


@pytest.mark.parametrize("observed", [UP, IN_RESCUE, RIGID], ids=["up", "rescue", "inventory"])
@pytest.mark.parametrize("asked", [{"reboot_at": YESTERDAY}, BIG, {"powerState": "Rescue"}], ids=str)
def test_small_errors_of_measurement_change_no_plan(
    agent: InstanceAgent, asked: dict[str, Any], observed: InstanceObservation
) -> None:
    resource = wanted(**asked)
    later = replace(observed, at=NOW + timedelta(hours=3), evidence="quite another story")
    if observed.booted_at is not None:
        later = replace(later, booted_at=observed.booted_at + timedelta(seconds=9))
    assert decided(agent, resource, later).body() == decided(agent, resource, observed).body()
