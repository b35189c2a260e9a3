"""An API server that fails and a watch that lies, between one world in memory and the operator. Used by `worlds.py`.

`LyingApi` is the operator's way to the API: each call may meet one `Fault`. `Rumours` is what its watch makes of what
truly happened: late, twice, in another order, never. Both tell the truth until they are armed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from random import Random
from typing import Any

from tests.sweep.virtual import PROCESS

from agentmetal.clients.kubeerrors import refused
from agentmetal.core.errors import AgentMetalError, AlreadyExists, OutcomeUnknown, Unavailable
from agentmetal.core.ports import KubeApi, WatchEvent

ANSWER_WITHIN = 10.0
"""Seconds after which our client gives a request up."""
LATE = 80.0
"""Seconds after that at which a request that hung takes effect all the same."""


class Fault(StrEnum):
    """What can become of one request."""

    CONFLICT = "conflict"
    """Somebody else has really written first; a create has arrived twice."""
    SLOW_DOWN = "slow down"
    """429 with Retry-After."""
    ERROR = "error"
    """500, 503 or 504, and nothing was done."""
    FORBIDDEN = "forbidden"
    """403, as a young API server says that does not know our roles yet."""
    LOST = "lost"
    """It was done; the connection was reset before the answer came."""
    HANG = "hang"
    """No answer, and nothing was done."""
    AFTERWARDS = "afterwards"
    """No answer; it is done a minute after we have given it up (a server that was stopped, and goes on)."""


READ_FAULTS = (Fault.SLOW_DOWN, Fault.ERROR, Fault.FORBIDDEN, Fault.HANG)
"""The others mean nothing to a read."""
Choose = Callable[[str], Fault | None]
"""Given what is asked (`patch operations op-1`), what becomes of it."""
Send = Callable[[], Awaitable[Any]]


class LyingApi:
    """Implements `core.ports.KubeApi` for the operator."""

    def __init__(self, api: KubeApi, others: KubeApi, heard: Callable[[str, Any], None]) -> None:
        self.choose: Choose = lambda _what: None
        self._api = api
        self._others = others
        """Somebody who may touch the labels of everything."""
        self._heard = heard
        """Told of each call before it is made, and of each answer to a read."""
        self._touches = 0

    async def get(self, type: Any, namespace: str, name: str) -> Any:
        body = await self._read(f"get {type.plural} {name}", lambda: self._api.get(type, namespace, name))
        self._heard(f"got {type.plural} {name}", body)
        return body

    async def list(self, type: Any, namespace: str | None = None, **options: Any) -> Any:
        listing = await self._read(f"list {type.plural}", lambda: self._api.list(type, namespace, **options))
        self._heard(f"listed {type.plural}", listing)
        return listing

    async def create(self, type: Any, body: Any, **options: Any) -> Any:
        what = f"create {type.plural} {body['metadata']['name']}"
        return await self._write(what, lambda: self._api.create(type, body, **options), None)

    async def patch(self, type: Any, namespace: str, name: str, patch: Any, **options: Any) -> Any:
        what = f"patch {type.plural} {name} {options.get('subresource', '')}".rstrip()
        send = lambda: self._api.patch(type, namespace, name, patch, **options)  # noqa: E731
        return await self._write(what, send, lambda: self._touch(type, namespace, name))

    async def delete(self, type: Any, namespace: str, name: str, **options: Any) -> Any:
        what = f"delete {type.plural} {name}"
        send = lambda: self._api.delete(type, namespace, name, **options)  # noqa: E731
        return await self._write(what, send, lambda: self._touch(type, namespace, name))

    def watch(self, type: Any, namespace: str | None = None, **options: Any) -> Any:
        """Watches are `Rumours`' business."""
        return self._api.watch(type, namespace, **options)

    async def _read(self, what: str, send: Send) -> Any:
        match self._fault(what):
            case Fault.HANG:
                await asyncio.sleep(ANSWER_WITHIN)
                raise Unavailable(f"{what}: no answer")
            case Fault.SLOW_DOWN:
                raise refused(what, 429, {}, retry_after=1.0)
            case Fault.ERROR:
                raise refused(what, 503, {})
            case Fault.FORBIDDEN:
                raise refused(what, 403, {})
            case _:
                return await send()

    async def _write(self, what: str, send: Send, touch: Send | None) -> Any:
        fault = self._fault(what)
        match fault:
            case Fault.CONFLICT if touch is not None:
                await touch()
            case Fault.CONFLICT:
                await send()
                raise AlreadyExists(f"{what}: a proxy has sent it twice")
            case Fault.SLOW_DOWN:
                raise refused(what, 429, {}, retry_after=1.0)
            case Fault.ERROR:
                raise refused(what, 500, {}, write=True)
            case Fault.FORBIDDEN:
                raise refused(what, 403, {})
            case Fault.LOST:
                await send()
                raise OutcomeUnknown(f"{what}: connection reset")
            case Fault.HANG | Fault.AFTERWARDS:
                if fault is Fault.AFTERWARDS:
                    _later(LATE, send)
                await asyncio.sleep(ANSWER_WITHIN)
                raise OutcomeUnknown(f"{what}: no answer")
            case None:
                pass
        return await send()

    def _fault(self, what: str) -> Fault | None:
        self._heard(what, None)
        return self.choose(what)

    async def _touch(self, type: Any, namespace: str, name: str) -> None:
        self._touches += 1
        labels = {"metadata": {"labels": {"example.com/touched": str(self._touches)}}}
        try:
            await self._others.patch(type, namespace, name, labels)
        except AgentMetalError:
            return  # it is gone: then there is nothing to write over either


def _later(delay: float, send: Send) -> None:
    """Let a request take effect when the one who sent it does not listen any more, or is dead."""

    async def arrive() -> None:
        await asyncio.sleep(delay)
        try:
            await send()
        except AgentMetalError:
            return  # refused: nobody is there to hear it

    token = PROCESS.set(None)
    try:
        _UNHEARD.add(task := asyncio.get_running_loop().create_task(arrive()))
        task.add_done_callback(_UNHEARD.discard)
    finally:
        PROCESS.reset(token)


_UNHEARD: set[asyncio.Task[None]] = set()
"""asyncio itself holds tasks weakly."""


class Rumours:
    """What a watch makes of events: when each is told, if at all."""

    def __init__(self, random: Random | None = None) -> None:
        self.armed = False
        self.random = random or Random(0)  # noqa: S311 - stories, no secrets
        self.missed = self.doubled = self.late = 0.0
        """How probable it is that an event is never told, told twice, told late."""
        self.delay = 0.0
        """Seconds that it may be late."""

    def deliveries(self, event: WatchEvent) -> tuple[float, ...]:
        """After how many seconds it is told, each time that it is."""
        if not self.armed:
            return (0.0,)
        random = self.random
        if random.random() < self.missed:
            return ()
        first = random.uniform(0.0, self.delay) if random.random() < self.late else 0.0
        if random.random() < self.doubled:
            return (first, first + random.uniform(0.0, self.delay))
        return (first,)
