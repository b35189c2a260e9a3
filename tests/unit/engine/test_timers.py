"""Timers of the queue: what is a hair's breadth away is due."""

from __future__ import annotations

import asyncio

import pytest

from agentmetal.core.resource import Key
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import WorkQueue

pytestmark = pytest.mark.looptime


async def test_a_timer_closer_than_the_clock_can_tell_does_not_go_round_and_round() -> None:
    """With a virtual clock, which moves in whole ticks, such a wait would never end."""
    queue, done = WorkQueue(Metrics(), jitter=lambda delay: delay), []

    async def work(key: Key) -> None:
        done.append(key)
        queue.add_after(key, 3.0000001 + len(done) * 1e-7 / 3)

    task = asyncio.create_task(queue.run(work, 1))
    queue.add(Key("Instance", "default", "web"))
    await asyncio.sleep(900)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(done) in (300, 301)
