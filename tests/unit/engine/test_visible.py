"""What people see over a whole life: conditions, phases, the plan, and the few Events."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.system import NAMESPACE, System, running
from tests.support.trouble import condition, says

from agentmetal.core.errors import CommandFailed
from agentmetal.core.kubetypes import EVENT
from agentmetal.engine.status import ALWAYS
from agentmetal.kube.events import Events

pytestmark = pytest.mark.looptime


async def test_every_condition_is_restated_at_each_generation_and_its_time_moves_only_with_its_status() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        first = await system.ready()
        await asyncio.sleep(100)
        await system.edit("web-1", management={"resyncInterval": "4m"})
        second = await system.until(lambda: (r := system.see()).status.observed_generation == 2 and r)
        assert {c.type for c in second.status.conditions} >= set(ALWAYS)
        assert {c.observed_generation for c in second.status.conditions} == {2}
        for type in ALWAYS:
            before, after = condition(first, type), condition(second, type)
            assert (before.status, before.last_transition_time) == (after.status, after.last_transition_time)


async def test_ready_turns_at_once_with_the_generation_when_something_differs() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        seen = await system.until(lambda: (r := system.see()).status.observed_generation == 2 and r)
        assert condition(seen).status == "False"


async def test_phases_tell_a_life() -> None:
    async with running(boot_seconds=10.0) as system:
        phases: list[str] = []

        async def watch() -> None:
            while True:
                seen = system.see()
                phase = seen.status.phase if seen else None
                if phase and (not phases or phases[-1] != phase):
                    phases.append(phase)
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        await system.instance()
        await system.ready()
        await system.edit("web-1", powerState="Off")
        await system.ready()
        await system.delete("web-1")
        await system.annotate("web-1", approve=await system.awaiting())
        await system.gone()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert phases == ["Creating", "Running", "Updating", "Running", "Deleting"]


async def test_the_plan_is_shown_while_it_waits_and_while_it_runs_and_then_only_its_end() -> None:
    async with running() as system:
        await system.instance()
        await system.until(lambda: system.see().status.plan)
        shown = system.see().status.plan
        operation = system.plans()[0]
        assert shown.digest == operation.digest
        assert shown.short_digest == operation.digest.removeprefix("sha256:")[:12]
        assert (shown.risk, shown.origin, shown.operation) == ("Moderate", "Deterministic", operation.metadata.name)
        assert [step.tool for step in shown.steps] == ["provision_instance", "wait_for_ready", "prepare_host"]
        assert shown.evidence == ("no server exists", "nobody else claims the host")
        ready = await system.ready()
        assert ready.status.plan is None
        assert (ready.status.last_operation.name, ready.status.last_operation.result) == (
            operation.metadata.name,
            "Succeeded",
        )


async def test_verbs_acted_on_are_named_as_handled() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.annotate("web-1", as_=system.erin, reconcile_at="one", replan="two")
        await system.until(lambda: system.see().status.handled)
        assert (system.see().status.handled.reconcile_at, system.see().status.handled.replan) == ("one", "two")


def _events(system: System) -> list[tuple[str, str]]:
    places = [place for place in system.cluster.contents(NAMESPACE) if place[0] == EVENT]
    found = [system.cluster.peek(*place) or {} for place in places]
    found.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
    return [(event["type"], event["reason"]) for event in found]


async def _with_events(system: System) -> None:
    """Announce as the real operator does."""
    system.announcer = Events(system.operator_api, system.clock, "operator-1")
    await system.processes[-1].crash()
    await system.start()


async def test_a_life_without_trouble_makes_no_events() -> None:
    async with running() as system:
        await _with_events(system)
        await system.instance()
        await system.ready()
        await system.edit("web-1", powerState="Off")
        await system.ready()
        assert _events(system) == []


async def test_events_tell_that_approval_is_needed_and_that_it_is_stalled_once_each() -> None:
    async with running(hosts=False) as system:
        await _with_events(system)
        await system.instance(management={"retries": 0, "resyncInterval": "15s"})
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        await system.awaiting()
        await asyncio.sleep(600)
        assert _events(system) == [("Normal", "ApprovalRequired")]
        await system.edit("web-1", image="bookworm")
        await system.ready()
        (server_id,) = system.cloud._servers
        system.cloud.faults.fail(CommandFailed("no reaction"), times=100, call="start_server")
        system.cloud.lose_power(server_id)
        await says(system, "no reaction", type="Stalled", status="True")
        await asyncio.sleep(5)
        assert _events(system) == [("Normal", "ApprovalRequired"), ("Warning", "PlanFailed")]
