"""Processes that die: every call through a port is a point at which `kill -9` can come. Used by `world.py`.

After its death a process does nothing more: its tasks are cancelled there and then, and every port of it raises.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from tests.sweep.virtual import PROCESS, VirtualLoop

READS = frozenset(
    {"get_server", "find_server", "list_servers", "list_server_types", "list_images", "list_locations", "run"}
    | {"unit_state", "authorized", "head", "highest_number", "used_by"}
)
"""Calls that change nothing: dying after one is dying before the next call, so only `before` is a point."""
API_READS = frozenset({"get", "list", "watch"})
"""Reads of the API are no points at all: there are many, and writes stand between any two that matter."""


class Crash(BaseException):
    """The process is dead. No `except Exception` ever sees it."""


class Life:
    """One process from its start to its death."""

    def __init__(self, dies_at: int = 0, *, armed: bool = True) -> None:
        self.points: list[str] = []
        """The points that were passed while armed, in order."""
        self.armed = armed
        self.died = asyncio.Event()
        self._dies_at = dies_at

    def point(self, label: str, *, counts: bool = True) -> None:
        """Something is about to happen or has just happened. Raises Crash at the point of death and ever after."""
        if self.died.is_set():
            raise Crash(label)
        if not counts or not self.armed:
            return
        self.points.append(label)
        if len(self.points) == self._dies_at:
            self.die()
            raise Crash(label)

    def die(self) -> None:
        """Everything of this process ends here."""
        self.died.set()
        current = asyncio.current_task()
        for task in self._tasks():
            if task is not current:
                task.cancel()

    async def bury(self) -> None:
        """Wait until its last task has ended."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    def run(self, start: Callable[[], Any]) -> asyncio.Task[Any]:
        """Begin it; everything that is started in it belongs to it."""
        token = PROCESS.set(self)
        try:
            task = asyncio.get_running_loop().create_task(_quiet(start))
        finally:
            PROCESS.reset(token)
        return task

    def _tasks(self) -> list[asyncio.Task[Any]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.tasks_of(self)


async def _quiet(start: Callable[[], Any]) -> Any:
    try:
        return await start()
    except Crash:
        return None


class Mortal:
    """A port as one process holds it."""

    def __init__(
        self,
        name: str,
        port: Any,
        life: Life,
        *,
        uncounted: frozenset[str] = frozenset(),
        witness: Callable[[str], None] = lambda method: None,
    ) -> None:
        self._name, self._port, self._life = name, port, life
        self._uncounted, self._witness = uncounted, witness

    def __getattr__(self, method: str) -> Any:
        target = getattr(self._port, method)
        if not inspect.iscoroutinefunction(target):
            return target
        counts = method not in self._uncounted

        async def call(*args: Any, **options: Any) -> Any:
            label = f"{self._name}.{method} {_about(args)}".rstrip()
            self._life.point(f"before {label}", counts=counts)
            self._witness(method)
            answer = await target(*args, **options)
            self._life.point(f"after {label}", counts=counts and method not in READS)
            return answer

        return call


class MortalMachines:
    """Hosts as one process reaches them: connections are its own and end with it."""

    def __init__(self, machines: Any, life: Life) -> None:
        self._machines, self._life = machines, life

    async def connect(self, identity: Any) -> Any:
        self._life.point("before hosts.connect")
        host = await self._machines.connect(identity)
        self._life.point("after hosts.connect", counts=False)
        return Mortal("host", host, self._life)

    async def forget(self, owner: Any) -> None:
        self._life.point("before hosts.forget", counts=False)
        await self._machines.forget(owner)

    async def shown_host_key(self, identity: Any) -> Any:
        self._life.point("before hosts.shown_host_key")
        return await self._machines.shown_host_key(identity)


def _about(args: tuple[Any, ...]) -> str:
    """What a call is about, for people who read where a process died."""
    texts = [str(getattr(arg, "plural", arg))[:40] for arg in args if isinstance(arg, str) or hasattr(arg, "plural")]
    return " ".join(texts)
