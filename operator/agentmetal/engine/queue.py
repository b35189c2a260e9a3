"""The work queue: keyed, de-duplicating, delaying, with priorities. Filled by the edge, drained by workers.

A key is in work at most once; woken meanwhile, it comes again afterwards. One timer task serves all delays. Some
workers are kept free for what is more urgent: a look at a dead host takes ten seconds, and there may be many of them.
It knows nothing of resources, and it never loses a key.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum

from agentmetal.core.resource import Key
from agentmetal.engine.metrics import Metrics

TICK = 0.001
"""A timer so close is due: waiting for less than the clock can tell would go round and round."""
SLACK = 64
"""Timers that were replaced or forgotten are dropped when there are more of them than of the others, and than this."""
KEPT_FREE = 8
"""One worker of so many takes decisions only, and one decisions and changes only."""


class Priority(IntEnum):
    """Lower goes first: a human's word before the world's news, news before routine."""

    DECISION = 0  # delete, pause, approve, reject
    CHANGE = 1  # spec changed, something broke, a step ended
    RESYNC = 2  # routine looks at the world


class WorkQueue:
    """Keys that want a pass, now or later."""

    def __init__(self, metrics: Metrics, *, jitter: Callable[[float], float] | None = None) -> None:
        self._metrics = metrics
        self._jitter = jitter or (lambda delay: delay * random.uniform(1.0, 1.1))  # noqa: S311 - spreads load, no secret
        self._ready: list[tuple[int, int, Key]] = []
        self._wanted: dict[Key, Priority] = {}
        self._working: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._later: list[tuple[float, int, Key, Priority]] = []
        self._order = itertools.count()
        self._idle: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}
        """Workers that wait, by the least urgent thing that they take."""
        self._timer_changed = asyncio.Event()
        self._added_at: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def add(self, key: Key, priority: Priority = Priority.CHANGE) -> None:
        """Want a pass now. A key that waits already keeps its place, or moves up."""
        waiting = self._wanted.get(key)
        if waiting is not None and waiting <= priority:
            return
        self._wanted[key] = priority
        self._metrics.queue_added()
        if key not in self._working:
            self._push(key, priority)

    def add_after(self, key: Key, delay: float, priority: Priority = Priority.RESYNC) -> None:
        """Want a pass in `delay` seconds, with jitter; an earlier timer of the key stays."""
        due = asyncio.get_running_loop().time() + self._jitter(delay)
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._order), key, priority))
        if len(self._later) > 2 * len(self._due) + SLACK:
            self._later = [timer for timer in self._later if self._due.get(timer[2]) == timer[0]]
            heapq.heapify(self._later)
        self._timer_changed.set()

    def forget(self, key: Key) -> None:
        """The object is gone: no timer any more."""
        self._due.pop(key, None)

    async def run(self, work: Callable[[Key], Awaitable[None]], workers: int) -> None:
        """Drain until cancelled. `work` turns everything into a value: what it raises ends the operator."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_time(), name="queue timer")
            for number in range(workers):
                group.create_task(self._work(work, _takes(number, workers)), name=f"worker {number}")

    def _push(self, key: Key, priority: Priority) -> None:
        loop = asyncio.get_running_loop()
        self._added_at.setdefault(key, loop.time())
        heapq.heappush(self._ready, (priority, next(self._order), key))
        self._metrics.queue_depth(len(self._wanted))
        self._wake_for(priority)

    def _wake_for(self, priority: int) -> None:
        """Wake one worker that takes it, of those that take most; those that work look for themselves afterwards."""
        for takes in sorted(self._idle, reverse=True):
            waiting = self._idle[takes]
            while takes >= priority and waiting:
                worker = waiting.popleft()
                if not worker.done():
                    worker.set_result(None)
                    return

    async def _work(self, work: Callable[[Key], Awaitable[None]], takes: Priority) -> None:
        while True:
            key = await self._take(takes)
            started = asyncio.get_running_loop().time()
            try:
                await work(key)
            finally:
                self._done(key, started)

    async def _take(self, takes: Priority) -> Key:
        while (key := self._next(takes)) is None:
            idle = asyncio.get_running_loop().create_future()
            self._idle[takes].append(idle)
            await idle
        del self._wanted[key]
        self._working.add(key)
        now = asyncio.get_running_loop().time()
        self._metrics.queue_waited(now - self._added_at.pop(key, now))
        self._metrics.queue_depth(len(self._wanted))
        return key

    def _next(self, takes: Priority) -> Key | None:
        """The most urgent key, if a worker that takes no more than that takes it."""
        while self._ready:
            priority, _, key = self._ready[0]
            # A key that moved up stands in the heap twice; the slower entry finds nothing wanted any more.
            wanted = self._wanted.get(key) == priority and key not in self._working
            if wanted and priority > takes:
                return None
            heapq.heappop(self._ready)
            if wanted:
                return key
        return None

    def _done(self, key: Key, started: float) -> None:
        self._working.discard(key)
        self._metrics.queue_worked(asyncio.get_running_loop().time() - started)
        if (priority := self._wanted.get(key)) is not None:
            self._push(key, priority)

    async def _keep_time(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._timer_changed.clear()
            while self._later and self._later[0][0] <= loop.time() + TICK:
                due, _, key, priority = heapq.heappop(self._later)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key, priority)
            wait = self._later[0][0] - loop.time() if self._later else None
            try:
                async with asyncio.timeout(wait):  # wait_for (Python 3.11) now and then swallows a cancellation
                    await self._timer_changed.wait()
            except TimeoutError:
                continue


def _takes(number: int, workers: int) -> Priority:
    """The least urgent thing that a worker takes. Where there are few of them, each takes everything."""
    share = workers // KEPT_FREE
    if number < share:
        return Priority.DECISION
    return Priority.CHANGE if number < 2 * share else Priority.RESYNC
