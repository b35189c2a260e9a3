"""The work queue: nothing is lost, nothing runs twice at once, people come first."""

from __future__ import annotations

import asyncio

import pytest

from agentmetal.core.resource import Key
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import Priority, WorkQueue

pytestmark = pytest.mark.looptime

A, B, C = (Key("Instance", "default", name) for name in "abc")


class Worker:
    """Works on keys and remembers when."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.done: list[Key] = []
        self.at_once: list[int] = []
        self._busy: list[Key] = []

    async def __call__(self, key: Key) -> None:
        self._busy.append(key)
        self.at_once.append(self._busy.count(key))
        await asyncio.sleep(self.seconds)
        self._busy.remove(key)
        self.done.append(key)


@pytest.fixture
async def queue() -> WorkQueue:
    return WorkQueue(Metrics(), jitter=lambda delay: delay)


async def drained(queue: WorkQueue, worker: Worker, *, workers: int = 2, seconds: float = 10.0) -> None:
    task = asyncio.create_task(queue.run(worker, workers))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_key_added_many_times_is_worked_on_once(queue: WorkQueue) -> None:
    for _ in range(5):
        queue.add(A)
    worker = Worker()
    await drained(queue, worker)
    assert worker.done == [A]


async def test_a_key_woken_while_in_work_comes_again_and_never_twice_at_once(queue: WorkQueue) -> None:
    worker = Worker(seconds=1.0)
    task = asyncio.create_task(queue.run(worker, 4))
    queue.add(A)
    await asyncio.sleep(0.5)
    queue.add(A)
    queue.add(A)
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert worker.done == [A, A]
    assert set(worker.at_once) == {1}


async def test_decisions_go_before_changes_and_changes_before_routine(queue: WorkQueue) -> None:
    queue.add(A, Priority.RESYNC)
    queue.add(B, Priority.CHANGE)
    queue.add(C, Priority.DECISION)
    worker = Worker()
    await drained(queue, worker, workers=1)
    assert worker.done == [C, B, A]


async def test_a_waiting_key_moves_up_when_a_human_speaks(queue: WorkQueue) -> None:
    queue.add(A, Priority.RESYNC)
    queue.add(B, Priority.CHANGE)
    queue.add(A, Priority.DECISION)
    worker = Worker()
    await drained(queue, worker, workers=1)
    assert worker.done == [A, B]


async def test_a_delayed_key_comes_when_due_and_an_earlier_timer_wins(queue: WorkQueue) -> None:
    worker, loop = Worker(), asyncio.get_running_loop()
    task = asyncio.create_task(queue.run(worker, 1))
    queue.add_after(A, 60.0)
    queue.add_after(A, 5.0)
    queue.add_after(A, 30.0)
    began = loop.time()
    while not worker.done:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.1)
    assert loop.time() - began == pytest.approx(5.0, abs=0.2)
    await asyncio.sleep(100)
    assert worker.done == [A]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_forgotten_key_has_no_timer_any_more(queue: WorkQueue) -> None:
    queue.add_after(A, 5.0)
    queue.forget(A)
    worker = Worker()
    await drained(queue, worker)
    assert worker.done == []
