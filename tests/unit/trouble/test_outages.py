"""The audit store or the API server is away. No step without an answer, nothing above Safe without a trail."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.system import System, running
from tests.support.trouble import condition, created, phases, quiet, running_step, says

from agentmetal.core.errors import OutcomeUnknown, Unavailable
from agentmetal.core.operation import OperationPhase
from agentmetal.core.resource import ResourceType

pytestmark = pytest.mark.looptime


def _outage(system: System) -> None:
    def refuse(verb: str, type: ResourceType, name: str) -> None:
        raise Unavailable("connection refused")

    system.cluster.faults.before = refuse


def _back(system: System) -> None:
    system.cluster.faults.before = lambda _verb, _type, _name: None


async def test_without_the_audit_store_nothing_above_safe_begins_and_status_says_so() -> None:
    async with running(hosts=False) as system:
        system.audit.unavailable = "the disk is full"
        await system.instance()
        said = await says(system, "the disk is full (the administrator must act)", type="Stalled", status="True")
        assert said.reason == "AuditUnavailable"
        await quiet(300)
        assert (created(system), phases(system)) == (0, [])
        system.audit.unavailable = ""
        await system.ready(timeout=30)
        assert created(system) == 1


async def test_a_safe_plan_goes_on_without_the_audit_store() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", management={"deletionPolicy": "Retain"})
        await system.ready()
        system.audit.unavailable = "the disk is full"
        await system.delete("web-1")
        await system.gone()
        assert len(system.cloud._servers) == 1


async def test_an_approved_plan_waits_for_the_audit_store_and_keeps_its_approval() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        digest = await system.awaiting()
        system.audit.unavailable = "the disk is full"
        await system.annotate("web-1", approve=digest)
        await quiet(120)
        assert system.plans(OperationPhase.AWAITING_APPROVAL)
        said = condition(system.see(), "Reconciling")
        assert (said.status, said.reason) == ("True", "AuditUnavailable")
        assert "the disk is full" in said.message
        system.audit.unavailable = ""
        await system.ready()


async def test_an_audit_store_lost_in_the_middle_lets_no_further_step_begin() -> None:
    async with running(boot_seconds=30.0) as system:
        await system.instance(management={"retries": 0})
        await running_step(system, "provision_instance")
        system.audit.unavailable = "the disk is full"
        await quiet(300)
        assert not system.hosts.journal
        assert not any(phase in ("Succeeded", "Failed") for phase in phases(system))
        await says(system, "the disk is full", type="Reconciling")
        system.audit.unavailable = ""
        await system.ready()
        assert phases(system) == ["Succeeded"]


async def test_an_api_server_away_for_a_minute_in_the_middle_costs_a_minute_and_nothing_else() -> None:
    async with running(boot_seconds=20.0) as system:
        await system.instance()
        await running_step(system, "provision_instance")
        _outage(system)
        await asyncio.sleep(60)
        assert not system.hosts.journal, "a step began although nobody could say that it may"
        _back(system)
        await system.ready(timeout=60)
        assert phases(system) == ["Succeeded"]
        assert created(system) == 1
        assert len(system.hosts.journal) == 1


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.5, 1.0, 6.0])
async def test_an_outage_at_any_moment_of_a_life_leaves_one_server(moment: float) -> None:
    async with running() as system:
        await system.instance()
        await asyncio.sleep(moment)
        _outage(system)
        await asyncio.sleep(60)
        _back(system)
        await system.ready(timeout=120)
        assert created(system) == 1
        assert "Failed" not in phases(system)


async def test_answers_of_the_api_server_that_are_lost_repeat_nothing() -> None:
    async with running() as system:
        lost = iter([True, False, True, True, False, True, False])

        def lose(verb: str, type: ResourceType, name: str) -> None:
            if next(lost, False):
                raise OutcomeUnknown("the connection broke before the answer")

        system.cluster.faults.after = lambda verb, type, name: None
        await system.instance()
        system.cluster.faults.after = lose
        await system.ready()
        assert created(system) == 1
        assert phases(system) == ["Succeeded"]


async def test_a_watch_that_misses_a_pause_cannot_hide_it() -> None:
    async with running(boot_seconds=20.0) as system:
        await system.instance()
        await running_step(system, "provision_instance")
        system.cluster.faults.drop_events = 1
        await system.annotate("web-1", as_=system.erin, paused="true")
        await quiet(120)
        assert not system.hosts.journal
        assert phases(system) == ["Running"]
