"""One leader after the other, lost answers, records that are gone: what the journal must not lose or repeat."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from tests.support.system import NAMESPACE, System

from agentmetal.core.errors import OutcomeUnknown, StaleLeader, Unavailable
from agentmetal.core.operation import Operation, OperationPhase, StepState, Unreadable
from agentmetal.core.plan import Plan, Step
from agentmetal.core.resource import ResourceType
from agentmetal.core.risk import Risk
from agentmetal.engine.approval import Approved
from agentmetal.engine.ledger import Ledger
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.writing import JournalGone
from agentmetal.kube.cache import Cache
from agentmetal.kube.journal import KubeJournal

pytestmark = pytest.mark.looptime

STEP = Step(tool="rebuild_instance", parameters={"image": "a"}, risk=Risk.DANGEROUS, description="image a")
PLAN = Plan(steps=(STEP,), reasoning="because", targets={"serverID": "s-1"})
ANN = Approved(by="ann", via="Annotation")


@dataclass
class Desk:
    """An object, and a ledger for each leader that comes."""

    system: System
    epochs: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def leader(self) -> Ledger:
        api, epoch = self.system.operator_api, next(self.epochs)
        journal = KubeJournal(api, Cache(api, lambda key, priority: None))
        return Ledger(journal, self.system.audit, self.system.clock, Metrics(), epoch=lambda: epoch)

    async def opened(self, ledger: Ledger) -> Operation:
        return await ledger.open(self.system.see(), PLAN, needs_human=True)

    def stored(self) -> Operation:
        (operation,) = self.system.operations()
        return operation


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    system = System(hosts=False)
    await system.instance()
    yield Desk(system)


async def test_an_older_leader_cannot_begin_what_waited_when_the_new_one_came(desk: Desk) -> None:
    old, new = desk.leader(), desk.leader()
    approved = await old.begin(await desk.opened(old), ANN)
    await new.prime()
    assert (desk.stored().status.epoch, desk.stored().phase) == (2, OperationPhase.AWAITING_APPROVAL)
    with pytest.raises(StaleLeader):
        await old.intend(approved, 0, 1)
    assert desk.stored().status.steps[0].state is StepState.PENDING


class LateJournal(KubeJournal):
    """An older leader's last write arrives between the new one's LIST and its first write."""

    late: Ledger
    begun: Operation
    closes = False

    async def open_operations(self) -> tuple[Operation | Unreadable, ...]:
        listed = await super().open_operations()
        begun = await self.late.intend(self.begun, 0, 1)
        if self.closes:
            await self.late.close(begun, OperationPhase.SUCCEEDED, "done")
        return listed


@pytest.mark.parametrize(
    ("closes", "phase"), [(False, OperationPhase.RUNNING), (True, OperationPhase.SUCCEEDED)], ids=["intent", "end"]
)
async def test_what_an_older_leader_wrote_last_is_not_written_over(
    desk: Desk, closes: bool, phase: OperationPhase
) -> None:
    old, api = desk.leader(), desk.system.operator_api
    journal = LateJournal(api, Cache(api, lambda key, priority: None))
    journal.late, journal.begun, journal.closes = old, await old.begin(await desk.opened(old), ANN), closes
    new = Ledger(journal, desk.system.audit, desk.system.clock, Metrics(), epoch=lambda: 2)
    await new.prime()
    assert desk.stored().phase is phase
    assert desk.stored().status.steps[0].state is StepState.RUNNING, "its intent is what keeps the step from a repeat"
    assert (new.running(desk.system.see().uid) is not None) is not closes


def _lose(system: System, times: int) -> list[str]:
    """Requests to create Operations are lost on their way; the list of what was asked for."""
    asked: list[str] = []

    def lose(verb: str, type: ResourceType, name: str) -> None:
        if (verb, type) == ("create", Operation.info.type):
            asked.append(name)
            if len(asked) <= times:
                raise OutcomeUnknown("the connection broke")

    system.cluster.faults.before = lose
    return asked


async def test_a_request_to_create_that_never_arrived_is_sent_again(desk: Desk) -> None:
    asked = _lose(desk.system, 1)
    opened = await desk.opened(desk.leader())
    assert asked == [opened.metadata.name, opened.metadata.name]
    assert desk.stored().phase is OperationPhase.AWAITING_APPROVAL


async def test_what_cannot_be_created_at_all_is_tried_again_later_not_told_as_missing(desk: Desk) -> None:
    _lose(desk.system, 99)
    with pytest.raises(Unavailable, match="could not be recorded: the connection broke"):
        await desk.opened(desk.leader())


async def test_no_step_begins_whose_operation_does_not_exist_any_more(desk: Desk) -> None:
    ledger = desk.leader()
    approved = await ledger.begin(await desk.opened(ledger), ANN)
    api, place = desk.system.operator_api, (Operation.info.type, NAMESPACE, approved.metadata.name)
    await api.patch(*place, {"metadata": {"finalizers": None}})
    await api.delete(*place)
    with pytest.raises(JournalGone):
        await ledger.intend(approved, 0, 1)
    assert not ledger.waiting(approved.spec.resource_ref.uid), "it is planned anew, not waited for"
    assert not ledger._let_go, "nothing is kept of it"
    closed = await ledger.close(approved, OperationPhase.CANCELLED, "nothing is left to write it into")
    assert closed.phase is OperationPhase.CANCELLED
