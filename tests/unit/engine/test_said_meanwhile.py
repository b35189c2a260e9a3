"""What is said between a step's intent and its effect, or between two calls of it: nothing is done after a stop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.boxes import DRAIN, GRACE, Emptying, Table, at_emptying, drained, waiting
from tests.sweep.gadget import Gadget

from agentmetal.core.errors import OutcomeUnknown, StaleLeader, Unavailable
from agentmetal.core.operation import Operation, OperationPhase, StepState
from agentmetal.core.resource import ResourceType

pytestmark = pytest.mark.looptime


async def held_after_its_intent(table: Table, digest: str) -> None:
    """The step's intent is written late; a pause was said before it could act."""
    refused: list[str] = []

    def refuse(verb: str, type: ResourceType, name: str) -> None:
        if (verb, type) == ("patch", Operation.info.type):
            refused.append(name)
            raise Unavailable("500 internal error")

    table.cluster.faults.before = refuse
    await table.say(approve=digest)
    await table.until(lambda: refused)
    await asyncio.sleep(2.0)
    await table.say(paused="true")
    table.cluster.faults.before = lambda _verb, _type, _name: None
    await asyncio.sleep(60.0)


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_step_that_was_held_before_it_acted_is_not_in_doubt_after_a_crash(idempotent: bool) -> None:
    emptying = Emptying(1.0, idempotent=idempotent)
    async with waiting(emptying) as (table, digest):
        await held_after_its_intent(table, digest)
        assert table.the_operation().status.steps[0].state is StepState.PENDING
        await table.processes[-1].crash()
        await table.start()
        await table.say(paused=None)
        await table.ready("box-1", kind=Gadget)
        assert emptying.calls == 1
        assert table.the_operation().phase is OperationPhase.SUCCEEDED


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_step_that_was_held_before_it_acted_is_looked_at_anew_before_it_acts(idempotent: bool) -> None:
    emptying = Emptying(1.0, idempotent=idempotent)
    async with waiting(emptying) as (table, digest):
        await held_after_its_intent(table, digest)
        looked = emptying.looked
        emptying.unseen = [Unavailable("the host is silent")]
        await table.say(paused=None)
        await table.until(lambda: emptying.calls)
        assert emptying.looked == looked + 2, "once in vain, once before the call"
        await table.ready("box-1", kind=Gadget)
        assert table.the_operation().phase is OperationPhase.SUCCEEDED


async def test_the_trail_tells_of_a_step_that_did_not_begin_after_all() -> None:
    async with waiting(Emptying(1.0, idempotent=False)) as (table, digest):
        await held_after_its_intent(table, digest)
        told = [record.entry.outcome for record in table.audit.trail if record.entry.action == "step"]
        assert told == ["begins 1/2, attempt 1", "did not begin 1/2: what was asked right before it acts was not go"]


async def test_a_plan_that_was_running_in_its_journal_is_cancelled_by_a_refusal_though_its_step_was_taken_back() -> (
    None
):
    async with waiting(Emptying(1.0, idempotent=True)) as (table, digest):
        await held_after_its_intent(table, digest)
        assert table.the_operation().phase is OperationPhase.RUNNING
        await table.say(approve=None, reject=digest)
        ended = await table.until(lambda: next((op for op in table.operations() if op.phase.closed), None))
        assert ended.phase is OperationPhase.CANCELLED


async def test_a_step_that_could_not_be_recorded_is_not_waited_for_as_if_it_were_under_way() -> None:
    emptying = Emptying(1.0, idempotent=False)
    async with waiting(emptying) as (table, digest):
        emptying.look_seconds = 1.0
        await table.say(approve=digest)
        await table.until(lambda: emptying.looked)
        table.audit.unavailable = "the disk is full"
        emptying.look_seconds = 30.0
        await table.until(lambda: emptying.looked > 1)
        assert await drained(table) == pytest.approx(GRACE, abs=0.2) != DRAIN
        assert emptying.calls == 0


async def test_a_step_whose_intent_is_on_its_way_when_the_process_is_told_to_end_does_not_act() -> None:
    emptying = Emptying(1.0, idempotent=True)
    async with waiting(emptying) as (table, digest):
        ending: list[asyncio.Task[float]] = []

        def told_to_end(verb: str, type: ResourceType, name: str) -> None:
            if (verb, type) == ("patch", Operation.info.type) and not ending:
                ending.append(asyncio.create_task(drained(table)))
                raise Unavailable("500 internal error")  # so that the intent is written a moment later

        table.cluster.faults.before = told_to_end
        await table.say(approve=digest)
        await table.until(lambda: ending and ending[0].done())
        assert emptying.calls == 0
        assert table.the_operation().status.steps[0].state is StepState.PENDING


async def test_a_pause_holds_the_next_call_after_one_without_an_answer() -> None:
    emptying = Emptying(1.0, idempotent=True)
    emptying.unanswered = [OutcomeUnknown("the connection broke")]
    async with at_emptying(emptying) as table:
        await table.say(paused="true")
        await asyncio.sleep(120.0)
        assert emptying.calls == 1
        await table.say(paused=None)
        await table.ready("box-1", kind=Gadget)
        assert (emptying.calls, emptying.ended) == (2, 1)


async def test_a_deletion_ends_a_plan_whose_call_got_no_answer() -> None:
    emptying = Emptying(1.0, idempotent=True)
    emptying.unanswered = [OutcomeUnknown("the connection broke")]
    async with at_emptying(emptying) as table:
        await table.delete("box-1", kind=Gadget)
        await asyncio.sleep(120.0)
        assert emptying.calls == 1
        assert table.operations()[0].phase is OperationPhase.CANCELLED


class Ending(Table):
    """Its first process works no more once it has lost the lead."""

    def stand_on(self, leader: Any, metrics: Any, lost: Any) -> Any:
        def end(error: StaleLeader) -> None:
            lost(error)
            for task in self.processes[0].tasks:
                task.cancel()

        return super().stand_on(leader, metrics, end)


async def test_a_bug_of_a_step_whose_operation_has_a_newer_leader_ends_the_process_and_not_the_plan() -> None:
    emptying = Emptying(5.0, idempotent=True)
    emptying.unanswered = [LookupError("a bug")]
    async with at_emptying(emptying, Ending) as table:
        old = table.processes[0]
        run = old.core.executor.run_of(table.see("box-1", kind=Gadget).uid)
        assert run
        assert run.task
        await table.start()
        await asyncio.wait([run.task])
        assert run.task.exception() is None, "nobody would hear of it"
        assert "leader epoch 2" in old.lost[0].message
        await table.ready("box-1", kind=Gadget)
        assert [operation.phase for operation in table.operations()] == [OperationPhase.SUCCEEDED]
