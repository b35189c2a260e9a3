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


async def test_a_decision_does_not_wait_for_a_thousand_looks_at_dead_hosts(queue: WorkQueue) -> None:
    began: dict[Key, float] = {}

    async def look(key: Key) -> None:
        began[key] = asyncio.get_running_loop().time()
        await asyncio.sleep(10.0)

    task = asyncio.create_task(queue.run(look, 32))
    for number in range(1000):
        queue.add(Key("Instance", "default", f"dead-{number}"), Priority.RESYNC)
    for number in range(100):
        queue.add(Key("Instance", "default", f"dies-{number}"), Priority.CHANGE)
    await asyncio.sleep(5.0)
    queue.add(A, Priority.DECISION)
    await asyncio.sleep(1.0)
    assert began[A] == 5.0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_change_does_not_wait_for_looks_at_dead_hosts(queue: WorkQueue) -> None:
    worker = Worker(seconds=10.0)
    task = asyncio.create_task(queue.run(worker, 32))
    for number in range(1000):
        queue.add(Key("Instance", "default", f"dead-{number}"), Priority.RESYNC)
    await asyncio.sleep(5.0)
    queue.add(A, Priority.CHANGE)
    await asyncio.sleep(10.1)
    assert A in worker.done
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_hot_object_keeps_one_worker_busy_and_no_more(queue: WorkQueue) -> None:
    waited: list[float] = []

    async def work(key: Key) -> None:
        if key == A:
            queue.add(A, Priority.DECISION)  # it changes all the time
        else:
            waited.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)

    task = asyncio.create_task(queue.run(work, 2))
    queue.add(A, Priority.DECISION)
    for number in range(20):
        queue.add(Key("Instance", "default", f"cold-{number}"), Priority.RESYNC)
    await asyncio.sleep(2.5)
    assert len(waited) == 20
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_with_few_workers_each_takes_everything(queue: WorkQueue) -> None:
    worker = Worker(seconds=1.0)
    for key in (A, B):
        queue.add(key, Priority.RESYNC)
    await drained(queue, worker, workers=2, seconds=1.1)
    assert set(worker.done) == {A, B}


async def test_timers_that_were_replaced_are_not_kept(queue: WorkQueue) -> None:
    """A look in three seconds takes the place of one in a year, again and again."""
    task = asyncio.create_task(queue.run(Worker(), 2))
    for _ in range(2000):
        queue.add_after(A, 3e7)
        queue.add_after(A, 3.0)
        await asyncio.sleep(3.1)
    assert len(queue._later) < 200
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_no_timer_is_lost_when_old_ones_are_dropped(queue: WorkQueue) -> None:
    keys = [Key("Instance", "default", f"web-{number}") for number in range(500)]
    for key in keys:
        for delay in (50.0, 40.0, 30.0, 20.0):
            queue.add_after(key, delay)
    worker = Worker()
    await drained(queue, worker, seconds=60.0)
    assert sorted(worker.done) == sorted(keys)
