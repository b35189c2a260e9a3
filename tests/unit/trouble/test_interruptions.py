"""What happens to a plan in the middle: edited, deleted, paused, its namespace gone. It ends at a boundary."""

from __future__ import annotations

import pytest
from bench.day.census import census
from tests.support.system import NAMESPACE, System, running
from tests.support.trouble import created, phases, quiet, running_step, says, tools

from agentmetal.core.kubetypes import NAMESPACE as NAMESPACES
from agentmetal.core.kubetypes import SECRET

pytestmark = pytest.mark.looptime


async def _booting(system: System) -> None:
    """An Instance in the middle of its first plan."""
    await system.instance()
    await running_step(system, "provision_instance")
    await system.until(lambda: created(system))


async def _left_nothing(system: System) -> None:
    assert system.cloud._servers == {}
    assert [place for place in system.cluster.contents(NAMESPACE) if place[0] == SECRET and "web" in place[2]] == []


async def test_an_edited_spec_ends_the_plan_and_the_new_one_follows() -> None:
    async with running(boot_seconds=60.0) as system:
        await _booting(system)
        await system.edit("web-1", powerState="Off")
        await system.ready()
        assert phases(system)[0] == "Cancelled"
        assert system.plans()[0].status.message == "the spec has changed"
        assert created(system) == 1


async def test_an_edit_that_changes_nothing_about_the_machine_lets_the_plan_go_on() -> None:
    async with running(boot_seconds=60.0) as system:
        await _booting(system)
        await system.edit("web-1", management={"resyncInterval": "7m"})
        await system.ready()
        assert phases(system) == ["Succeeded"]


@pytest.mark.parametrize("propagation", ["Background", "Foreground", "Orphan"])
async def test_a_deletion_ends_the_plan_and_the_teardown_follows(propagation: str) -> None:
    async with running(boot_seconds=60.0) as system:
        await _booting(system)
        await system.delete("web-1", propagation=propagation)
        digest = await system.awaiting()
        assert phases(system)[0] == "Cancelled"
        assert system.plans()[0].status.message == "the object is being deleted"
        await system.annotate("web-1", approve=digest)
        await system.gone()
        await _left_nothing(system)


async def test_a_deletion_while_the_order_is_under_way_waits_for_the_order() -> None:
    async with running(boot_seconds=60.0) as system:
        system.cloud.faults.latency = 3.0
        await system.instance()
        await running_step(system, "provision_instance")
        await system.delete("web-1")
        await system.annotate("web-1", approve=await system.awaiting())
        await system.gone()
        assert created(system) <= 1
        await _left_nothing(system)


async def test_a_namespace_that_goes_tears_down_by_the_journal_in_status() -> None:
    async with running(boot_seconds=60.0) as system:
        await _booting(system)
        system.cluster.delete_namespace(NAMESPACE)
        await system.until(lambda: system.see() and system.see().status.teardown)
        digest = await system.awaiting()
        (kept,) = system.see().status.teardown["operations"].values()
        assert kept["spec"]["digest"] == digest
        assert kept["status"]["phase"] == "AwaitingApproval"
        await system.annotate("web-1", approve=digest)
        await system.gone()
        await _left_nothing(system)
        await system.until(lambda: system.cluster.peek(NAMESPACES, "", NAMESPACE) is None)


async def test_of_a_journal_in_the_status_of_what_is_gone_nothing_is_kept() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        system.cluster.delete_namespace(NAMESPACE)
        await system.annotate("web-1", approve=await system.awaiting())
        core = system.processes[-1].core
        assert census(core)["KubeJournal._embedded"], "then this test tests nothing"
        await system.until(lambda: system.cluster.peek(NAMESPACES, "", NAMESPACE) is None)
        await core.compare()
        assert census(core)["KubeJournal._embedded"] == 0


async def test_a_teardown_in_a_going_namespace_survives_a_restart() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        system.cluster.delete_namespace(NAMESPACE)
        digest = await system.awaiting()
        await system.processes[-1].crash()
        await system.start()
        await system.annotate("web-1", approve=digest)
        await system.gone()
        await _left_nothing(system)


async def test_pausing_holds_between_two_steps_and_goes_on_afterwards() -> None:
    async with running() as system:
        await system.instance()
        await running_step(system, "provision_instance")
        await system.annotate("web-1", as_=system.erin, paused="true")
        await says(system, "no step begins", type="Paused")
        await quiet(900)
        (operation,) = system.plans()
        assert operation.phase == "Running"
        assert [step.state for step in operation.status.steps][1:] == ["Pending", "Pending"]
        assert not system.hosts.journal
        await system.annotate("web-1", as_=system.erin, paused=None)
        await system.ready()
        assert phases(system) == ["Succeeded"]


async def test_a_paused_object_is_not_healed_and_says_what_would_be_done() -> None:
    async with running(hosts=False) as system:
        await system.instance(management={"resyncInterval": "30s"})
        await system.ready()
        await system.annotate("web-1", as_=system.erin, paused="true")
        (server_id,) = system.cloud._servers
        system.cloud.lose_power(server_id)
        said = await says(system, "nothing is done: paused", type="Drifted")
        assert said.status == "True"
        assert [step.tool for step in system.see().status.plan.steps] == ["start_instance"]
        assert system.see().status.plan.digest is None
        assert phases(system) == ["Succeeded"]
        await system.annotate("web-1", as_=system.erin, paused=None)
        await system.ready()


async def test_a_restart_in_the_middle_goes_on_where_it_was() -> None:
    async with running(boot_seconds=60.0) as system:
        await _booting(system)
        await system.processes[-1].crash()
        await system.start()
        await system.ready()
        assert phases(system) == ["Succeeded"]
        assert system.plans()[0].status.resumed == 1
        assert created(system) == 1


async def test_a_spec_edited_while_nobody_led_is_seen_at_the_next_boundary() -> None:
    async with running(boot_seconds=60.0) as system:
        await _booting(system)
        await system.processes[-1].crash()
        await system.edit("web-1", powerState="Off")
        await system.start()
        await system.ready()
        assert phases(system)[0] == "Cancelled"
        assert tools(system.plans()[-1]) == ["stop_instance"]
