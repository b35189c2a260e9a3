"""An event loop whose time passes only when nothing else is to do. Thousands of whole lives run in it per minute.

Used by the sweeps instead of looptime, which costs twice as much; it serves no files or sockets.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
PROCESS: ContextVar[object] = ContextVar("the process a task belongs to", default=None)
"""Tasks belong to the process that started them; see `tasks_of`."""


class _NoFiles(selectors.SelectSelector):
    """Waiting is moving the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits for something that can never happen")
        self.now += max(0.0, timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return super().get_map()


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time begins at 0 and jumps from timer to timer."""

    def __init__(self) -> None:
        self._clock = _NoFiles()
        super().__init__(self._clock)
        self._owners: WeakKeyDictionary[asyncio.Task[Any], object] = WeakKeyDictionary()
        self.set_task_factory(self._make)  # type: ignore[arg-type]  # typeshed wants a generic callable object

    def time(self) -> float:
        return self._clock.now

    def tasks_of(self, process: object) -> list[asyncio.Task[Any]]:
        """What a process has under way."""
        return [task for task, owner in list(self._owners.items()) if owner is process and not task.done()]

    def run_in_executor(  # type: ignore[override]  # typeshed names the arguments by a type variable tuple
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Here and now: beside a thread, time would pass as fast as the machine happens to be slow."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _make(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], **options: Any
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        if (process := PROCESS.get()) is not None:
            self._owners[task] = process
            task.add_done_callback(_heard)
        return task


def _heard(task: asyncio.Task[Any]) -> None:
    """A dead process tells nobody how its tasks ended."""
    if not task.cancelled():
        task.exception()


def live(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a story from its beginning to its end, in a time of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(story())
    finally:
        loop.close()
