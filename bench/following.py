"""Following objects by LIST and WATCH while a measurement runs; every wait has a deadline and says what was missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import ResourceType

Body = dict[str, Any]


class TooLate(Exception):
    """What was waited for did not come in time."""


class Follow:
    """Tells each state of each object of a kind, in a namespace or in all, to `see`. Made by `following`."""

    def __init__(self, api: KubeApi, type: ResourceType, namespace: str | None, see: Callable[[Body], None]) -> None:
        self._api = api
        self._type = type
        self._namespace = namespace
        self._see = see
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See what is there; from now on nothing is missed."""
        listing = await self._api.list(self._type, self._namespace)
        for item in listing.items:
            self._see(item)
        self._task = asyncio.create_task(self._watch(listing.resource_version))

    async def stop(self) -> None:
        """See no more."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, reached: Callable[[], bool], *, within: float, what: Callable[[], str]) -> None:
        """Wait until that is so. Raises TooLate, or what ended the watch."""
        try:
            async with asyncio.timeout(within):
                while not reached():
                    self._news.clear()
                    await self._news.wait()
                    if self._task and self._task.done():
                        self._task.result()
        except TimeoutError:
            raise TooLate(f"not within {within:g} s: {what()}") from None

    async def _watch(self, version: str) -> None:
        try:
            while True:
                async for event in self._api.watch(self._type, self._namespace, resource_version=version):
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type in ("ADDED", "MODIFIED"):
                        self._see(event.object)
                        self._news.set()
        finally:
            self._news.set()


@asynccontextmanager
async def following(
    api: KubeApi, type: ResourceType, namespace: str | None, see: Callable[[Body], None]
) -> AsyncIterator[Follow]:
    """A running Follow."""
    follow = Follow(api, type, namespace, see)
    await follow.start()
    try:
        yield follow
    finally:
        await follow.stop()


def condition(body: Body, type: str) -> Body:
    """A condition, if it was said about the newest spec; else an empty one."""
    generation = body["metadata"]["generation"]
    for found in (body.get("status") or {}).get("conditions") or ():
        if found["type"] == type and found.get("observedGeneration") == generation:
            return dict(found)
    return {}


def holds(body: Body, type: str) -> bool:
    """Is that condition True at the newest spec?"""
    return condition(body, type).get("status") == "True"


def step_begun(operation: Body) -> bool:
    """Has one of its steps begun?"""
    steps = (operation.get("status") or {}).get("steps") or ()
    return any(step["state"] != "Pending" for step in steps)
