"""What an orderly end leaves to the next leader, and how a new one takes over: nothing lost, nothing called twice."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.boxes import DRAIN, GRACE, Emptying, Table, at_emptying, drained
from tests.sweep.gadget import Gadget, GadgetAgent

from agentmetal.core.operation import Operation, OperationPhase, OperationStatus, StepState
from agentmetal.engine.recovery import CLAIMS_AT_ONCE
from agentmetal.kube.journal import KubeJournal

pytestmark = pytest.mark.looptime


async def test_a_call_that_can_be_repeated_is_left_to_the_next_leader_after_a_short_grace() -> None:
    emptying = Emptying(10.0, idempotent=True)
    async with at_emptying(emptying) as table:
        assert await drained(table) == pytest.approx(GRACE, abs=0.1)
        assert table.the_operation().status.steps[0].state is StepState.RUNNING
        await table.start()
        await table.ready("box-1", kind=Gadget)
        assert (emptying.calls, emptying.ended) == (2, 1)
        assert table.the_operation().phase is OperationPhase.SUCCEEDED


async def test_a_call_that_cannot_be_repeated_is_waited_for_and_its_end_is_written() -> None:
    emptying = Emptying(10.0, idempotent=False)
    async with at_emptying(emptying) as table:
        assert await drained(table) == pytest.approx(10.0, abs=0.5)
        states = [step.state for step in table.the_operation().status.steps]
        assert states == [StepState.SUCCEEDED, StepState.PENDING]
        await table.start()
        await table.ready("box-1", kind=Gadget)
        assert emptying.calls == 1
        assert table.the_operation().phase is OperationPhase.SUCCEEDED


async def test_a_call_that_takes_longer_than_any_patience_ends_in_doubt() -> None:
    emptying = Emptying(50.0, idempotent=False)
    async with at_emptying(emptying) as table:
        assert await drained(table) == pytest.approx(DRAIN, abs=0.5)
        await table.start()
        await table.until(lambda: table.the_operation().phase is OperationPhase.BLOCKED)
        assert emptying.calls == 1


async def test_the_end_of_a_step_is_written_before_the_next_leader_reads() -> None:
    emptying = Emptying(0.5, idempotent=True)
    async with at_emptying(emptying) as table:
        assert await drained(table) < GRACE
        states = [step.state for step in table.the_operation().status.steps]
        assert states == [StepState.SUCCEEDED, StepState.PENDING]
        await table.start()
        await table.ready("box-1", kind=Gadget)
        assert emptying.calls == 1


class SlowJournal(KubeJournal):
    """Every write takes a tenth of a second; it is seen how many go on at once."""

    together = 0
    most = 0
    fails = False

    async def write(self, operation: Operation, status: OperationStatus) -> Operation:
        self.together += 1
        self.most = max(self.most, self.together)
        try:
            await asyncio.sleep(0.1)
            if self.fails:
                raise LookupError("a bug")
            return await super().write(operation, status)
        finally:
            self.together -= 1


async def primed(table: Table, count: int, *, fails: bool = False) -> SlowJournal:
    """So many plans wait, and a new leader comes."""
    await table.start()
    for number in range(count):
        await table.apply("Gadget", f"box-{number}", {"content": "new"})
    await table.until(lambda: len(table.operations()) == count)
    core = table.processes[-1].core
    await table.processes[-1].crash()
    ledger, journal = core.ledger, SlowJournal(table.operator_api, core.cache)
    journal.fails = fails
    new = type(ledger)(journal, table.audit, table.clock, core.metrics, epoch=lambda: 99)
    await new.prime()
    return journal


async def test_a_new_leader_claims_many_plans_at_once_before_it_acts() -> None:
    table, loop = Table(GadgetAgent), asyncio.get_running_loop()
    try:
        began = loop.time()
        journal = await primed(table, 4 * CLAIMS_AT_ONCE)
        assert loop.time() - began < 5.0
        assert journal.most == CLAIMS_AT_ONCE
        assert {operation.status.epoch for operation in table.operations()} == {99}
    finally:
        await table.close()


async def test_a_claim_that_fails_ends_all_others() -> None:
    table = Table(GadgetAgent)
    try:
        with pytest.raises(LookupError):
            await primed(table, 2, fails=True)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "claim"]
    finally:
        await table.close()


async def test_whoever_leads_no_more_writes_nothing_at_its_end() -> None:
    emptying = Emptying(0.5, idempotent=True)
    async with at_emptying(emptying) as table:
        table.processes[-1].leader.leads = False
        assert await drained(table) < GRACE
        assert emptying.ended == 1
        assert table.the_operation().status.steps[0].state is StepState.RUNNING
