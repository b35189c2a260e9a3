"""The one writer of status: one write at a time per object, the newest wish wins, only what differs is written.

Called by the engine's publisher; it composes nothing. A wish made for an older spec, or for another object of the same
name, is dropped: the pass that follows makes a new one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from agentmetal.core.errors import (
    AgentMetalError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    OutcomeUnknown,
    StaleLeader,
    Transient,
)
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import AnyResource, Key
from agentmetal.kube.cache import Cache

DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between tries; the last one repeats for ever."""

REFUSED = (5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds until the API server is asked again for what it refused; the last one repeats. Each pass wishes for it."""
TIME = "lastTransitionTime"

log = logging.getLogger("agentmetal.status")


class Announcer(Protocol):
    """Tells people about turns worth telling."""

    def announce(self, before: AnyResource, after: AnyResource) -> None:
        """A status was written; never waits."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What status should say of an object at a generation."""

    uid: str
    generation: int
    make: Callable[[AnyResource], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What the API server did not let us say of an object, and from when on it is asked again."""

    said: Any
    until: float
    delays: Iterator[float]


class StatusWriter:
    """Implements `engine.publish.StatusPort`."""

    def __init__(self, api: KubeApi, cache: Cache, announcer: Announcer, *, leads: Callable[[], bool]) -> None:
        self._api = api
        self._cache = cache
        self._announcer = announcer
        self._leads = leads
        self._wishes: dict[Key, Wish] = {}
        self._writing: dict[Key, asyncio.Task[None]] = {}
        self._refused: dict[Key, Refusal] = {}

    def submit(self, resource: AnyResource, make: Callable[[AnyResource], dict[str, Any]]) -> None:
        """Write what `make` says of the object as it is then, as far as it differs. Never waits."""
        key = resource.key
        self._wishes[key] = Wish(uid=resource.uid, generation=resource.metadata.generation, make=make)
        if key not in self._writing:
            self._writing[key] = asyncio.create_task(self._write(key), name=f"status {key}")

    async def flush(self, timeout: float) -> None:
        """Wait for what is under way."""
        if self._writing:
            await asyncio.wait(list(self._writing.values()), timeout=timeout)

    async def close(self) -> None:
        """End what is under way: statuses are composed anew after a restart."""
        tasks = list(self._writing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, key: Key) -> None:
        delays, lost = _lasting(DELAYS), 0
        try:
            while wish := self._wishes.get(key):
                try:
                    await self._once(key, wish)
                    delays, lost = _lasting(DELAYS), 0
                except NotFound:
                    self._done(key, wish)
                except (Conflict, OutcomeUnknown) as error:
                    lost += 1
                    if lost > 1:  # once may happen to anybody; a server that goes on so is not asked without a pause
                        log.info("status of %s not written, tried again: %s", key, error)
                        await asyncio.sleep(next(delays))
                    await self._refresh(key)
                except Transient as error:
                    log.info("status of %s not written, tried again: %s", key, error)
                    await asyncio.sleep(max(error.retry_after or 0.0, next(delays)))
                except Forbidden as error:  # a young API server does not know our roles yet; or somebody mends them
                    log.error("status of %s may not be written, tried again: %s", key, error)
                    await asyncio.sleep(next(delays))
                except AgentMetalError as error:
                    log.error("status of %s is refused by the API server: %s", key, error)
                    self._done(key, wish)
        finally:
            self._writing.pop(key, None)

    async def _once(self, key: Key, wish: Wish) -> None:
        entry = self._cache.entry(key)
        if not self._leads():  # what a hung leader had to say is said by the next one, better
            self._done(key, wish)
            return
        if entry is None or entry.resource.uid != wish.uid or entry.resource.metadata.generation != wish.generation:
            self._refused.pop(key, None)
            self._done(key, wish)
            return
        before = entry.resource
        changed = _difference(entry.status, wish.make(before))
        if changed and not self._is_refused(key, wish, changed):
            patch = {"metadata": {"resourceVersion": before.metadata.resource_version}, "status": changed}
            try:
                answer = await self._api.patch(before.info.type, key.namespace, key.name, patch, subresource="status")
            except Invalid:
                self._note_refusal(key, wish, changed)
                raise
            self._refused.pop(key, None)
            self._cache.put(answer)
            if after := self._cache.get(key):
                self._announcer.announce(before, after)
        self._done(key, wish)

    def _is_refused(self, key: Key, wish: Wish, changed: dict[str, Any]) -> bool:
        """Was just this refused, not long ago?"""
        refusal = self._refused.get(key)
        return refusal is not None and refusal.said == _said(wish, changed) and _now() < refusal.until

    def _note_refusal(self, key: Key, wish: Wish, changed: dict[str, Any]) -> None:
        before, said = self._refused.get(key), _said(wish, changed)
        delays = before.delays if before and before.said == said else _lasting(REFUSED)
        self._refused[key] = Refusal(said=said, until=_now() + next(delays), delays=delays)

    async def _refresh(self, key: Key) -> None:
        try:
            await self._cache.read(key)
        except (Transient, Forbidden, StaleLeader):  # the last one: this process is ending
            await asyncio.sleep(DELAYS[0])

    def _done(self, key: Key, wish: Wish) -> None:
        """Fulfilled; a newer wish made meanwhile stays."""
        if self._wishes.get(key) is wish:
            del self._wishes[key]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _lasting(delays: tuple[float, ...]) -> Iterator[float]:
    return itertools.chain(delays, itertools.repeat(delays[-1]))


def _said(wish: Wish, changed: dict[str, Any]) -> tuple[str, int, Any]:
    """Without the times of conditions: what was never written begins anew at each pass."""
    return wish.uid, wish.generation, _timeless(changed)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if name != TIME}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def _difference(old: Any, new: dict[str, Any]) -> dict[str, Any]:
    """A merge patch of the fields that differ; None takes a field away that is there."""
    return {
        name: _replacing(old.get(name), value)
        for name, value in new.items()
        if (value is not None and old.get(name) != value) or (value is None and old.get(name) is not None)
    }


def _replacing(old: Any, new: Any) -> Any:
    """A merge patch merges objects: what the old one has and the new one lacks is taken away by name."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**{name: None for name in old if name not in new}, **new}
