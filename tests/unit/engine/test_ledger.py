"""The life of operations: numbers, names that exist already, what is kept, what counts as unrest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from tests.support.system import NAMESPACE, System

from agentmetal.agents.instance.api import Instance
from agentmetal.core.errors import RateLimited, Transient
from agentmetal.core.operation import Operation, OperationPhase, OperationStatus, operation_name
from agentmetal.core.plan import Plan, Step, Trigger
from agentmetal.core.resource import AnyResource
from agentmetal.core.risk import Risk
from agentmetal.engine.approval import Approved
from agentmetal.engine.ledger import DigestUsed, ForeignOperation, Ledger
from agentmetal.engine.metrics import Metrics
from agentmetal.kube.cache import Cache
from agentmetal.kube.journal import KubeJournal

pytestmark = pytest.mark.looptime


def plan(image: str = "a", *, risk: Risk = Risk.DANGEROUS, trigger: Trigger = Trigger.CHANGE) -> Plan:
    step = Step(tool="rebuild_instance", parameters={"image": image}, risk=risk, description=f"image {image}")
    return Plan(steps=(step,), reasoning="because", trigger=trigger, targets={"serverID": "s-1"})


@dataclass
class Desk:
    """A ledger on an API server in memory, and one object."""

    system: System
    ledger: Ledger

    def another(self) -> Ledger:
        """Of a new process."""
        return _ledger(self.system)

    async def opened(self, wanted: Plan | None = None, *, issue: str | None = None) -> Operation:
        return await self.ledger.open(self.object(), wanted or plan(), needs_human=True, issue=issue)

    async def ended(self, phase: OperationPhase, wanted: Plan | None = None) -> Operation:
        operation = await self.opened(wanted)
        operation = await self.ledger.begin(operation, Approved(by="ann", via="Annotation"))
        return await self.ledger.close(operation, phase, "it ended")

    def object(self, **meta: Any) -> Instance:
        found: Instance = self.system.see()
        return found.model_copy(update={"metadata": found.metadata.model_copy(update=meta)}) if meta else found

    def stored(self) -> list[tuple[int, str]]:
        return [(op.spec.number, op.phase.value) for op in self.system.operations()]


def _ledger(system: System) -> Ledger:
    journal = KubeJournal(system.operator_api, Cache(system.operator_api, lambda key, priority: None))
    return Ledger(journal, system.audit, system.clock, Metrics(), epoch=lambda: 1)


class Crowded(KubeJournal):
    """An API server that says 429, with the smallest Retry-After, to the first ten writes."""

    def __init__(self, system: System) -> None:
        super().__init__(system.operator_api, Cache(system.operator_api, lambda key, priority: None))
        self.asked: list[float] = []

    async def write(self, operation: Operation, status: OperationStatus) -> Operation:
        self.asked.append(asyncio.get_running_loop().time())
        if len(self.asked) <= 10:
            raise RateLimited("HTTP 429", retry_after=1.0)
        return await super().write(operation, status)


class Full(Crowded):
    """It lets nothing be created either."""

    def __init__(self, system: System, retry_after: float) -> None:
        super().__init__(system)
        self._retry_after = retry_after

    async def create(self, operation: Operation, resource: AnyResource) -> Operation:
        self.asked.append(asyncio.get_running_loop().time())
        raise RateLimited("HTTP 429", retry_after=self._retry_after)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    system = System(hosts=False)
    await system.instance()
    yield Desk(system, _ledger(system))


async def test_retry_after_lengthens_pauses_and_stops_none_from_growing(desk: Desk) -> None:
    journal = Crowded(desk.system)
    ledger = Ledger(journal, desk.system.audit, desk.system.clock, Metrics(), epoch=lambda: 1)
    operation = await ledger.open(desk.object(), plan(), needs_human=True)
    await ledger.close(operation, OperationPhase.WITHDRAWN, "it ended")
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(journal.asked)]
    assert pauses == [1.0, 1.0, 1.0, 3.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0]


@pytest.mark.parametrize(("retry_after", "tries", "told"), [(1.0, 3, None), (60.0, 1, 60.0)])
async def test_a_busy_server_costs_one_number_each_pass_and_passes_do_not_come_every_second(
    desk: Desk, retry_after: float, tries: int, told: float | None
) -> None:
    journal = Full(desk.system, retry_after)
    ledger = Ledger(journal, desk.system.audit, desk.system.clock, Metrics(), epoch=lambda: 1)
    with pytest.raises(Transient) as error:
        await ledger.open(desk.object(), plan(), needs_human=True)
    assert len(journal.asked) == tries
    assert error.value.retry_after == told  # none: the next pass comes after `RETRY_OBSERVATION`
    assert len(desk.system.audit.trail) == 1


async def test_a_plan_that_is_created_late_after_it_was_over_and_collected_does_not_begin(desk: Desk) -> None:
    operation, journal = await desk.opened(), Crowded(desk.system)
    await desk.ledger.supersede(operation, "the plan has changed")
    await journal.delete(operation)
    await journal.create(operation, desk.object())  # a request that was given up, and arrived all the same
    another = desk.another()
    (late,) = await another.find_strays()
    with pytest.raises(DigestUsed, match="was over before"):
        await another.begin(late, Approved(by="ann", via="Annotation"))


async def test_the_same_plan_is_opened_once(desk: Desk) -> None:
    first = await desk.opened()
    assert (await desk.opened()).metadata.name == first.metadata.name
    assert desk.stored() == [(1, "AwaitingApproval")]


async def test_numbers_go_up_and_another_plan_supersedes(desk: Desk) -> None:
    await desk.opened(plan("a"))
    await desk.opened(plan("b"))
    assert desk.stored() == [(1, "Superseded"), (2, "AwaitingApproval")]


async def test_a_new_process_goes_on_counting_although_old_operations_are_gone(desk: Desk) -> None:
    for image in "abc":
        await desk.ended(OperationPhase.SUCCEEDED, plan(image))
    for operation in desk.system.operations():
        await desk.system.operator_api.delete(Operation.info.type, NAMESPACE, operation.metadata.name)
    opened = await desk.another().open(desk.object(), plan("d"), needs_human=True)
    assert opened.spec.number == 4, "the store remembers: a digest never repeats"


async def test_after_a_crash_the_same_plan_finds_its_own_operation(desk: Desk) -> None:
    first = await desk.opened()
    desk.system.audit._numbers.clear()
    again = await desk.another().open(desk.object(), plan(), needs_human=True)
    assert again.metadata.name == first.metadata.name
    assert len(desk.stored()) == 1


async def test_after_a_crash_another_plan_supersedes_the_one_it_finds(desk: Desk) -> None:
    await desk.opened(plan("a"))
    desk.system.audit._numbers.clear()
    again = await desk.another().open(desk.object(), plan("b"), needs_human=True)
    assert again.spec.number == 2
    assert desk.stored() == [(1, "Superseded"), (2, "AwaitingApproval")]


async def test_a_name_taken_by_a_closed_operation_is_counted_past(desk: Desk) -> None:
    await desk.ended(OperationPhase.SUCCEEDED)
    desk.system.audit._numbers.clear()
    assert (await desk.another().open(desk.object(), plan("b"), needs_human=True)).spec.number == 2


async def test_a_name_taken_by_another_object_is_told_and_left_alone(desk: Desk) -> None:
    first = await desk.opened()
    body = dict(desk.system.cluster.peek(Operation.info.type, NAMESPACE, first.metadata.name) or {})
    await desk.system.operator_api.patch(
        Operation.info.type, NAMESPACE, first.metadata.name, {"metadata": {"finalizers": None}}
    )
    await desk.system.operator_api.delete(Operation.info.type, NAMESPACE, first.metadata.name)
    ref = {**body["spec"]["resourceRef"], "uid": "somebody-else"}
    forged = {
        **body,
        "spec": {**body["spec"], "resourceRef": ref},
        "metadata": {"name": first.metadata.name, "namespace": NAMESPACE},
    }
    await desk.system.operator_api.create(Operation.info.type, forged)
    desk.system.audit._numbers.clear()
    with pytest.raises(ForeignOperation, match=r"belongs to another object .*delete it as administrator"):
        await desk.another().open(desk.object(), plan(), needs_human=True)


async def test_three_closed_operations_are_kept_and_failures_for_a_day(desk: Desk) -> None:
    await desk.ended(OperationPhase.FAILED, plan("failed"))
    for image in "abcde":
        await desk.ended(OperationPhase.SUCCEEDED, plan(image))
    assert [number for number, _ in desk.stored()] == [1, 4, 5, 6]
    await asyncio.sleep(24 * 3600 + 60)
    await desk.ended(OperationPhase.SUCCEEDED, plan("f"))
    assert [number for number, _ in desk.stored()] == [5, 6, 7]


async def test_failures_in_a_row_double_the_wait_and_a_success_ends_the_row(desk: Desk) -> None:
    waits = []
    for _ in range(3):
        await desk.ended(OperationPhase.FAILED)
        waits.append(desk.ledger.failures(desk.object().uid).wait(desk.system.clock.now()))
    assert waits == pytest.approx([10, 20, 40], abs=1.0)
    await desk.ended(OperationPhase.SUCCEEDED)
    assert desk.ledger.failures(desk.object().uid).count == 0


async def test_a_plan_that_flips_three_times_names_the_parameter(desk: Desk) -> None:
    for image in "abab":
        assert desk.ledger.unstable(desk.object(), desk.system.clock.now()) is None
        await desk.opened(plan(image))
    said = desk.ledger.unstable(desk.object(), desk.system.clock.now())
    assert said == "parameter 'image' of step 'rebuild_instance' flips"


async def test_unrest_is_over_after_ten_minutes_another_spec_or_replan(desk: Desk) -> None:
    for image in "abab":
        await desk.opened(plan(image))
    now = desk.system.clock.now
    assert desk.ledger.unstable(desk.object(generation=2), now()) is None
    await asyncio.sleep(601)
    assert desk.ledger.unstable(desk.object(), now()) is None
    for image in "abab":
        await desk.opened(plan(image))
    assert desk.ledger.unstable(desk.object(), now()) is not None
    desk.ledger.settle_down(desk.object().uid)
    assert desk.ledger.unstable(desk.object(), now()) is None


async def test_a_repair_that_goes_before_a_waiting_plan_is_no_flip(desk: Desk) -> None:
    for _ in range(4):
        await desk.opened(plan("a"))
        repair = await desk.opened(plan("b", trigger=Trigger.ISSUE), issue="PoweredOff")
        await desk.ledger.close(repair, OperationPhase.SUCCEEDED, "it runs")
    assert desk.ledger.unstable(desk.object(), desk.system.clock.now()) is None


async def test_a_repair_leaves_a_waiting_teardown_where_it_is(desk: Desk) -> None:
    await desk.opened(plan("a", trigger=Trigger.DELETION))
    await desk.opened(plan("b", trigger=Trigger.ISSUE), issue="PoweredOff")
    assert desk.stored() == [(1, "AwaitingApproval"), (2, "AwaitingApproval")]


async def test_every_turn_is_in_the_audit_trail_before_it_is_in_the_journal(desk: Desk) -> None:
    await desk.ended(OperationPhase.SUCCEEDED)
    told = [(record.entry.action.value, record.entry.operation) for record in desk.system.audit.trail]
    name = operation_name(desk.object().uid, 1)
    assert told == [("plan", name), ("approve", name), ("close", name)]
    heads = [record.hash for record in desk.system.audit.trail]
    assert desk.system.operations()[0].status.audit_head in heads
