"""How the process hears from a pass that it leads no more, and how patient it is before it leads."""

from __future__ import annotations

import asyncio

import pytest

from agentmetal.core.errors import Forbidden, OutcomeUnknown, RateLimited, StaleLeader, Unavailable
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


@pytest.mark.looptime
async def test_whoever_takes_over_while_nobody_answers_asks_again() -> None:
    deaf = Deaf(Unavailable("503 etcd has no leader"), OutcomeUnknown("no answer within 10 s"))
    assert await answered(deaf.ask, 30.0) == "claimed"
    assert deaf.asked == 3


@pytest.mark.looptime
async def test_whoever_is_not_answered_for_long_gives_the_lease_to_others() -> None:
    deaf, began = Deaf(*[Unavailable("the password is refused")] * 1000), asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match="password"):
        await answered(deaf.ask, 30.0)
    assert 15 < asyncio.get_running_loop().time() - began <= 30
    assert deaf.asked < 10


@pytest.mark.looptime
async def test_a_server_that_says_when_is_not_asked_sooner() -> None:
    deaf, began = Deaf(RateLimited("429", retry_after=7.0)), asyncio.get_running_loop().time()
    await answered(deaf.ask, 30.0)
    assert asyncio.get_running_loop().time() - began == pytest.approx(7.0)


@pytest.mark.looptime
@pytest.mark.parametrize("final", [Forbidden("operations is forbidden"), StaleLeader("epoch 9 leads")])
async def test_what_will_not_pass_by_itself_ends_a_takeover(final: Exception) -> None:
    deaf = Deaf(Unavailable("503"), final, Unavailable("503"))
    with pytest.raises(type(final)):
        await answered(deaf.ask, 30.0)
    assert deaf.asked == 2
