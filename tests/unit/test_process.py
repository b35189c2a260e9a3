"""How the process hears from a pass that it leads no more, and how patient it is before it leads."""

from __future__ import annotations

import asyncio

import pytest

from agentmetal.core.errors import Forbidden, OutcomeUnknown, StaleLeader, Unavailable
from agentmetal.core.resource import Key
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import WorkQueue
from agentmetal.process import answered, passes

KEY = Key("Instance", "default", "web-1")


async def test_a_pass_that_finds_a_newer_leader_ends_the_passes_without_a_crash() -> None:
    lost: list[StaleLeader] = []

    async def look(_key: Key) -> None:
        raise StaleLeader("taken up by leader epoch 8")

    queue = WorkQueue(Metrics())
    queue.add(KEY)
    async with asyncio.timeout(10):
        await passes(queue, look, 4, lost)
    assert [error.message for error in lost] == ["taken up by leader epoch 8"]


async def test_a_bug_in_a_pass_is_not_hidden_by_a_newer_leader() -> None:
    lost: list[StaleLeader] = []

    async def look(key: Key) -> None:
        if key == KEY:
            raise StaleLeader("taken up by leader epoch 8")
        raise KeyError("a bug")

    queue = WorkQueue(Metrics())
    queue.add(KEY)
    queue.add(Key("Instance", "default", "web-2"))
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(10):
            await passes(queue, look, 4, lost)
    assert caught.group_contains(KeyError)
    assert len(lost) == 1


class Deaf:
    """Somebody who does not answer the first times."""

    def __init__(self, *silences: Exception) -> None:
        self.silences = list(silences)
        self.asked = 0

    async def ask(self) -> str:
        """The answer, at last."""
        self.asked += 1
        if self.silences:
            raise self.silences.pop(0)
        return "claimed"


async def test_whoever_takes_over_while_nobody_answers_asks_again() -> None:
    deaf = Deaf(Unavailable("503 etcd has no leader"), OutcomeUnknown("no answer within 10 s"))
    assert await answered(deaf.ask, 0.0) == "claimed"
    assert deaf.asked == 3


@pytest.mark.parametrize("final", [Forbidden("operations is forbidden"), StaleLeader("epoch 9 leads")])
async def test_what_will_not_pass_by_itself_ends_a_takeover(final: Exception) -> None:
    deaf = Deaf(Unavailable("503"), final, Unavailable("503"))
    with pytest.raises(type(final)):
        await answered(deaf.ask, 0.0)
    assert deaf.asked == 2


async def test_a_takeover_that_waits_for_an_answer_ends_with_its_lease() -> None:
    async def silent() -> None:
        raise Unavailable("connection refused")

    taking_over = asyncio.create_task(answered(silent, 3600.0))
    await asyncio.sleep(0)
    taking_over.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([taking_over])
    assert taking_over.cancelled()
