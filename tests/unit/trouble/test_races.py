"""Moments between two looks: a policy that is gone, a verb that came late, an object that vanished, a shutdown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.operations import instance
from tests.support.system import NAMESPACE, System, running
from tests.support.trouble import condition, phases, quiet, running_step, says

from agentmetal.agents.instance.api import Instance
from agentmetal.core.errors import CommandFailed, OutcomeUnknown, StaleLeader, Unavailable
from agentmetal.core.operation import ApprovalPolicy, OperationPhase
from agentmetal.core.outcome import Settled
from agentmetal.core.resource import FINALIZER, ResourceType
from agentmetal.engine.status import Story, compose, handled

pytestmark = pytest.mark.looptime


async def _policy(system: System) -> None:
    await system.apply("ApprovalPolicy", "p", {"resources": ["instances"], "maxRisk": "Dangerous"}, api=system.ann)


async def test_a_policy_whose_end_the_watch_never_told_approves_nothing() -> None:
    async with running(hosts=False) as system:
        await _policy(system)
        await system.instance()
        await system.ready()
        system.cluster.faults.drop_events = 1
        await system.ann.delete(ApprovalPolicy.info.type, NAMESPACE, "p")
        await system.edit("web-1", image="bookworm-20")
        await system.awaiting()
        await quiet()
        assert phases(system) == ["Succeeded", "AwaitingApproval"]
        assert "rebuild_server" not in system.cloud.calls


async def test_every_plan_above_safe_asks_once_for_its_policies() -> None:
    async with running(hosts=False) as system:
        await _policy(system)
        asked = _reads(system)
        await system.instance()
        await system.ready()
        assert asked.count(("list", "approvalpolicies")) == 1
        await system.edit("web-1", image="bookworm-20")
        await system.ready()
        assert asked.count(("list", "approvalpolicies")) == 2


def _reads(system: System) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def note(verb: str, type: ResourceType, name: str) -> None:
        asked.append((verb, type.plural))

    system.cluster.faults.before = note
    return asked


async def test_a_plan_that_waits_for_a_boot_hardly_reads_the_api() -> None:
    async with running(hosts=False, boot_seconds=60.0) as system:
        await system.instance()
        await running_step(system, "provision_instance")
        await asyncio.sleep(1)
        asked = _reads(system)
        await asyncio.sleep(50)
        assert len([read for read in asked if read[0] == "get"]) <= 2 * 11


async def test_a_plan_that_waits_for_a_boot_ends_at_once_when_the_object_is_deleted() -> None:
    async with running(hosts=False, boot_seconds=600.0) as system:
        await system.instance()
        operation = await running_step(system, "provision_instance")
        await asyncio.sleep(7.3)
        await system.delete("web-1")
        await asyncio.sleep(0.9)
        assert system.plans()[0].metadata.name == operation.metadata.name
        assert phases(system)[0] == "Cancelled"


async def test_a_boot_that_is_waited_for_behind_a_dead_watch_is_left_within_seconds() -> None:
    async with running(hosts=False, boot_seconds=600.0) as system:
        await system.instance()
        await running_step(system, "provision_instance")
        await asyncio.sleep(1)
        system.cluster.faults.drop_events = 1
        await system.delete("web-1")
        await asyncio.sleep(6)
        assert phases(system)[0] == "Cancelled"


async def test_a_moderate_plan_that_was_rejected_in_its_middle_does_not_begin_again() -> None:
    async with running(hosts=False) as system:
        await system.instance(powerState="Off", management={"retries": 9})
        await system.ready()
        system.cloud.faults.fail(CommandFailed("the switch is stuck"), times=2, call="start_server")
        await system.edit("web-1", powerState="On")
        operation = await running_step(system, "start_instance")
        await system.until(lambda: system.see().status.plan and system.see().status.plan.digest == operation.digest)
        await asyncio.sleep(1)
        await system.annotate("web-1", reject=operation.digest, reason="leave it")
        await says(system, "rejected by ann: not proposed again", type="Drifted")
        since = len(system.cloud.calls)
        await quiet()
        assert "start_server" not in system.cloud.calls[since:]
        assert phases(system)[-1] == "Cancelled"
        await system.annotate("web-1", as_=system.erin, replan="now")
        await system.ready()


async def test_an_api_server_away_when_an_object_may_go_ends_no_operator() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        refused: list[str] = []

        def refuse(verb: str, type: ResourceType, name: str) -> None:
            body = system.cluster.peek(Instance.info.type, NAMESPACE, "web-1")
            if verb == "patch" and type == Instance.info.type and not system.cloud._servers and body and not refused:
                refused.append(name)
                raise Unavailable("connection refused")

        await system.annotate("web-1", approve=await _teardown(system))
        system.cluster.faults.before = refuse
        await system.gone()
        assert not any(task.done() for task in system.processes[-1].tasks)


async def _teardown(system: System) -> str:
    await system.delete("web-1")
    return await system.awaiting()


async def test_a_verb_that_came_after_the_pass_is_not_called_handled() -> None:
    seen, now = instance(), System().clock.now()
    story = Story(outcome=Settled(), handled=handled(seen))
    since = instance(annotations={"replan": "again"})
    assert compose(since, story, now)["handled"] is None
    told = compose(since, Story(outcome=Settled(), handled=handled(since)), now)["handled"]
    assert told == {"replan": "again"}


async def test_a_plan_of_an_object_that_vanished_is_closed_and_holds_nothing() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        await system.awaiting()
        await _vanish(system)
        await system.until(lambda: not _held(system), timeout=30)
        assert phases(system)[1:] in ([], ["Superseded"])


async def test_a_plan_of_an_object_that_vanished_while_nobody_led_is_closed_by_the_next_leader() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        await system.awaiting()
        await system.processes[-1].crash()
        await _vanish(system)
        await system.start()
        await system.until(lambda: not _held(system), timeout=30)


async def _vanish(system: System) -> None:
    """An approver breaks the glass: the object goes without its teardown."""
    await system.delete("web-1")
    await system.ann.patch(Instance.info.type, NAMESPACE, "web-1", {"metadata": {"finalizers": None}})


def _held(system: System) -> list[Any]:
    return [op for op in system.plans() if FINALIZER in op.metadata.finalizers]


async def test_an_object_made_anew_behind_a_gap_of_the_watch_is_looked_at_at_once() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await asyncio.sleep(30)
        system.cluster.faults.drop_events = 3
        await _vanish(system)
        system.cluster.faults.drop_events = 0
        await system.instance()
        await system.until(lambda: system.see().status.observed_generation == 1, timeout=5)


async def test_a_leader_that_lost_the_lease_opens_nothing() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        process, before = system.processes[-1], len(system.plans())
        process.leader.leads = False
        await system.edit("web-1", image="bookworm-20")
        await quiet(5)
        assert len(system.plans()) == before
        ended = process.tasks[-1].exception()
        assert isinstance(ended, ExceptionGroup)
        assert ended.subgroup(StaleLeader)


async def test_at_shutdown_nothing_is_planned_beside_what_the_next_leader_resumes() -> None:
    async with running(boot_seconds=30.0) as system:
        await system.instance()
        await running_step(system, "provision_instance")
        core = system.processes[-1].core
        await core.executor.drain(1.0, grace=0.5)
        await quiet(60)
        assert phases(system) == [OperationPhase.RUNNING]
        await says(system, "left for the next leader", type="Reconciling")
        await system.processes[-1].crash()
        await system.start()
        await system.ready()
        assert phases(system) == ["Succeeded"]


async def test_what_a_step_waited_for_is_no_error_of_the_next_one() -> None:
    async with running(boot_seconds=5.0) as system:
        told: set[str | None] = set()

        def note(_: str) -> None:
            told.update(step.error for operation in system.plans() for step in operation.status.steps)

        system.cluster.checkpoint = note
        await system.instance()
        await system.ready()
        assert told == {None}


async def test_status_does_not_say_paused_any_more_once_a_step_goes_on() -> None:
    async with running(hosts=False, boot_seconds=300.0) as system:
        await system.instance()
        await running_step(system, "provision_instance")
        await system.annotate("web-1", as_=system.erin, paused="true")
        await says(system, "paused", type="Reconciling")
        await system.annotate("web-1", as_=system.erin, paused=None)
        await asyncio.sleep(2)
        assert condition(system.see(), "Reconciling").reason == "PlanRunning"


async def test_a_journal_in_the_object_whose_answer_was_lost_is_found_there() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        lost: list[str] = []

        def lose(verb: str, type: ResourceType, name: str) -> None:
            kept = system.see().status.teardown if system.see() else None
            if (verb, type) == ("patch", Instance.info.type) and kept and not lost:
                lost.append(name)
                raise OutcomeUnknown("the connection broke before the answer")

        system.cluster.faults.after = lose
        system.cluster.delete_namespace(NAMESPACE)
        await system.awaiting()
        await quiet()
        assert lost
        assert len(system.see().status.teardown["operations"]) == 1
        await system.annotate("web-1", approve=system.see().status.plan.digest)
        await system.gone()
