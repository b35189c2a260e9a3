"""How a host is: what status says, what metrics say, and what trouble of a machine does not do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.agents.test_instance_looks import prepared as prepared_host
from tests.support.agents import TAG, AgentWorld, instance, prepared, seen, server
from tests.support.system import NAMESPACE, running

from agentmetal.agents.instance import health
from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.core.condition import Condition, ConditionStatus, ConditionType, Reason
from agentmetal.core.errors import Forbidden, LimitReached
from agentmetal.core.plan import Plan
from agentmetal.engine.metrics import GAUGES
from agentmetal.engine.status import MAX_MESSAGE
from agentmetal.providers.fake_proc import Health
from agentmetal_tools.instance import prepare_host
from agentmetal_tools.looks import MAX_FAILED_UNITS, Vitals
from agentmetal_tools.servers import PrepareParams

DEGRADED = ConditionType.DEGRADED
WELL = Vitals(
    disk_free_ratio=0.5,
    inodes_free_ratio=0.9,
    memory_available_ratio=0.5,
    load_per_cpu=0.1,
    clock_offset_seconds=0.0,
)


def answering(look: dict[str, Any] | None = None, **vitals: float) -> InstanceObservation:
    """A host that answers and is well but for this."""
    found = {"host_key": "k", "server": server(), "reach": Reach.ANSWERING, "look": prepared(**(look or {}))}
    return seen(**found, vitals=replace(WELL, **vitals))


def reasons(observed: InstanceObservation, resource: Instance | None = None) -> list[Reason]:
    return [condition.reason for condition in health.degraded(resource or instance(), observed)]


def told(*conditions: Condition) -> Instance:
    """An Instance whose status says that."""
    wire = [
        {
            "type": c.type.value,
            "status": c.status.value,
            "reason": c.reason.value,
            "message": c.message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for c in conditions
    ]
    return instance(status={"conditions": wire})


ILLS: list[tuple[str, dict[str, Any], dict[str, float], Reason]] = [
    ("disk", {}, {"disk_free_ratio": 0.099}, Reason.DISK_FULL),
    ("inodes", {}, {"inodes_free_ratio": 0.04}, Reason.DISK_FULL),
    ("ahead", {}, {"clock_offset_seconds": 2.1}, Reason.CLOCK_OFF),
    ("behind", {}, {"clock_offset_seconds": -86400.0}, Reason.CLOCK_OFF),
    ("memory", {}, {"memory_available_ratio": 0.04}, Reason.LOW_MEMORY),
    ("read-only", {"root_read_only": True}, {}, Reason.READ_ONLY),
    ("units", {"failed_units": ("a.service",)}, {}, Reason.UNITS_FAILED),
]


@pytest.mark.parametrize(("name", "look", "vitals", "reason"), ILLS, ids=[ill[0] for ill in ILLS])
def test_what_is_wrong_is_told(name: str, look: dict[str, Any], vitals: dict[str, float], reason: Reason) -> None:
    assert reasons(answering(look, **vitals)) == [reason]


def test_a_host_that_is_well_or_says_nothing_is_not_degraded() -> None:
    assert reasons(answering()) == []
    assert reasons(seen(server=server(), reach=Reach.ANSWERING, look=prepared())) == []
    assert reasons(seen(server=server(), reach=Reach.SILENT)) == []


def test_the_worst_comes_first_and_all_is_told() -> None:
    found = reasons(
        answering(
            {"root_read_only": True, "failed_units": ("a.service",)}, disk_free_ratio=0.0, clock_offset_seconds=9.0
        )
    )
    assert found == [Reason.READ_ONLY, Reason.DISK_FULL, Reason.CLOCK_OFF, Reason.UNITS_FAILED]


def test_everything_at_once_fits_into_one_message() -> None:
    units = tuple("u" * 64 for _ in range(MAX_FAILED_UNITS))
    ill = answering(
        {"root_read_only": True, "failed_units": units},
        disk_free_ratio=0.0,
        inodes_free_ratio=0.0,
        clock_offset_seconds=9.0,
        memory_available_ratio=0.0,
    )
    assert len("; ".join(c.message for c in health.degraded(instance(), ill))) <= MAX_MESSAGE


AT_THE_LIMIT = [("disk_free_ratio", 0.11), ("inodes_free_ratio", 0.055), ("memory_available_ratio", 0.07)]
AT_THE_LIMIT += [("clock_offset_seconds", 1.5), ("clock_offset_seconds", -1.5)]


@pytest.mark.parametrize(("vital", "between"), AT_THE_LIMIT)
def test_between_the_limits_stays_said_what_was_said(vital: str, between: float) -> None:
    assert reasons(answering(None, **{vital: between})) == []
    worse = answering(None, **{vital: between * 10 if "clock" in vital else 0.0})
    said = told(*health.degraded(instance(), worse))
    assert health.degraded(said, answering(None, **{vital: between})) == health.degraded(instance(), worse)
    over = answering(None, **{vital: getattr(WELL, vital)})
    assert reasons(over, said) == []


def test_sentences_hold_no_number_that_moves() -> None:
    one, other = answering(disk_free_ratio=0.01), answering(disk_free_ratio=0.09, load_per_cpu=7.0)
    assert health.degraded(instance(), one) == health.degraded(instance(), other)


def test_every_number_has_its_gauge_and_every_gauge_its_number() -> None:
    everything = Vitals(**dict.fromkeys(Vitals.__dataclass_fields__, 0.5))
    boot = replace(prepared().boot, id="b", up_seconds=5.0)
    shown = health.gauges(seen(server=server(), look=prepared(boot=boot), vitals=everything))
    assert shown.keys() == {name for name in GAUGES if name.startswith("agentmetal_host_")}


def test_a_host_that_does_not_answer_has_no_numbers() -> None:
    assert health.gauges(seen(server=server(), reach=Reach.SILENT)) == {}


# ---- trouble, with a simulated host


def report_of(agent: InstanceAgent, web: Instance, observed: InstanceObservation) -> dict[ConditionType, Condition]:
    return {condition.type: condition for condition in agent.report(web, observed).conditions}


@pytest.mark.looptime
@pytest.mark.parametrize("ahead", [-30 * 365 * 86400.0, -3600.0, 3600.0, 10 * 365 * 86400.0])
async def test_a_clock_that_is_far_off_is_told_and_changes_nothing_else(ahead: float) -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared_host(world)
    before = await agent.observe(web)
    world.hosts.host(server_id).health.clock_ahead = ahead
    after = await agent.observe(web)
    assert after.booted_at is not None
    assert before.booted_at is not None
    assert abs(after.booted_at - before.booted_at) < timedelta(seconds=1)
    assert agent.issues(web, after) == ()
    assert agent.diff(web, after) == ()
    said = report_of(agent, web, after)
    assert said[ConditionType.READY].status is ConditionStatus.TRUE
    assert said[DEGRADED].reason is Reason.CLOCK_OFF
    assert "chrony" in said[DEGRADED].message
    assert "systemd-timesyncd" in said[DEGRADED].message


ILL_DISKS = [(Health(disk_free=0.0), Reason.DISK_FULL), (Health(read_only=True), Reason.READ_ONLY)]


@pytest.mark.looptime
@pytest.mark.parametrize(("ill", "reason"), ILL_DISKS)
async def test_a_root_that_cannot_be_written_is_told_and_not_repaired(ill: Health, reason: Reason) -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared_host(world)
    world.hosts.host(server_id).health = ill
    observed = await agent.observe(web)
    assert report_of(agent, web, observed)[DEGRADED].reason is reason
    assert agent.issues(web, observed) == ()


@pytest.mark.looptime
async def test_preparing_a_host_that_cannot_be_written_says_why() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared_host(world)
    host = world.hosts.host(server_id)
    observed = await agent.observe(web)
    params = next(_preparing(agent, web, replace(observed, unprepared=("the command wrapper",))))
    del host.files["/var/lib/agentmetal/claim.json"]
    host.health.read_only = True
    with pytest.raises(Forbidden, match="is read-only"):
        await world.call(prepare_host, web, params)
    host.health.read_only, host.full = False, True
    with pytest.raises(LimitReached, match="no space is left"):
        await world.call(prepare_host, web, params)


def _preparing(agent: InstanceAgent, web: Instance, observed: InstanceObservation) -> Iterator[PrepareParams]:
    plan: Plan = agent.heal(web, observed, agent.issues(web, observed)[0])
    for step in plan.steps:
        if step.tool == "prepare_host":
            yield PrepareParams.model_validate(dict(step.parameters))


@pytest.mark.looptime
async def test_facts_that_change_when_somebody_acts_are_in_status() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared_host(world)
    day = datetime(2025, 12, 24, 13, tzinfo=UTC).timestamp()
    ill = Health(failed_units=("b.service", "a.service"), reboot_required=True, packages_changed=day)
    world.hosts.host(server_id).health = ill
    observed = await agent.observe(web)
    facts = agent.report(web, observed).fields["facts"]
    assert facts["failedUnits"] == ["a.service", "b.service"]
    assert facts["rebootRequired"] is True
    assert facts["packagesFrom"] == "2025-12-24"
    lines = instance(status={"facts": facts}).status.seen()
    assert any("agentmetal.io/reboot-at" in line for line in lines)
    assert observed.tag == TAG


@pytest.mark.looptime
async def test_ten_looks_at_numbers_that_move_write_nothing_and_are_shown_as_metrics() -> None:
    async with running() as system:
        await system.instance()
        web = await system.ready()
        await asyncio.sleep(30)
        host = system.hosts.host(web.status.provider_id)
        host.health = Health(disk_free=0.09)
        await system.annotate("web-1", as_=system.erin, reconcile_at="now")
        await system.until(lambda: system.see().condition(DEGRADED))
        await asyncio.sleep(30)
        since, metrics = len(system.cluster.writes), system.processes[-1].core.metrics
        shown = set()
        for number in range(10):
            host.health = Health(disk_free=0.05 + number / 150, load=number, memory_available=0.9 - number / 20)
            await asyncio.sleep(web.resync_seconds + 30)
            labels = {"namespace": NAMESPACE, "name": "web-1"}
            shown.add(metrics.registry.get_sample_value("agentmetal_host_disk_free_ratio", labels))
        assert [w for w in system.cluster.writes[since:] if w.plural == "instances"] == []
        assert len(shown) == 10


@pytest.mark.looptime
async def test_old_numbers_are_not_shown_of_what_cannot_be_looked_at_or_is_gone() -> None:
    async with running() as system:
        await system.instance()
        web = await system.ready()
        labels = {"namespace": NAMESPACE, "name": "web-1"}

        def shown() -> float | None:
            registry = system.processes[-1].core.metrics.registry
            return registry.get_sample_value("agentmetal_host_up_seconds", labels)

        await system.until(lambda: shown() is not None)
        system.hosts.host(web.status.provider_id).cut = True
        await system.annotate("web-1", as_=system.erin, reconcile_at="1")
        await system.until(lambda: shown() is None)
        system.hosts.host(web.status.provider_id).cut = False
        await system.until(lambda: shown() is not None, timeout=1200)
        await system.delete("web-1")
        await system.annotate("web-1", approve=await system.awaiting())
        await system.gone()
        await system.until(lambda: shown() is None)
