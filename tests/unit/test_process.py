"""How the process hears from a pass that it leads no more: an end in order, and never a crash."""

from __future__ import annotations

import asyncio

import pytest

from agentmetal.core.errors import StaleLeader
from agentmetal.core.resource import Key
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import WorkQueue
from agentmetal.process import passes

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
