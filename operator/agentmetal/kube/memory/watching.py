"""Objects of one type, what happened to them, and who listens. The storage below `cluster`; knows no rules."""

from __future__ import annotations

import asyncio
import marshal
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from agentmetal.core.errors import Gone
from agentmetal.core.ports import WatchEvent
from agentmetal.core.resource import ResourceType
from agentmetal.kube.memory.kinds import Kind

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


class Request(NamedTuple):
    """What was asked, in the order of arrival. A dry run has the verb `dry-run`."""

    verb: str
    plural: str
    name: str
    subresource: str


class Entry:
    """A version of an object. `item` is never changed; `copy` is the caller's own."""

    __slots__ = ("_frozen", "item")

    def __init__(self, item: dict[str, Any]) -> None:
        self.item = item
        self._frozen: bytes | None = None

    def copy(self) -> dict[str, Any]:
        """The whole object, for somebody who may change it."""
        if self._frozen is None:
            self._frozen = marshal.dumps(self.item)
        copied: dict[str, Any] = marshal.loads(self._frozen)  # noqa: S302 - we made these bytes ourselves
        return copied


@dataclass(frozen=True, slots=True)
class Happened:
    """One line of a type's history."""

    version: int
    type: EventType
    namespace: str
    entry: Entry


@dataclass
class Faults:
    """What goes wrong on purpose. Plain fields: set them, and set them back."""

    before: Callable[[str, ResourceType, str], None] = lambda _verb, _type, _name: None
    """Called with each request before its effect; what it raises is the answer."""
    after: Callable[[str, ResourceType, str], None] = lambda _verb, _type, _name: None
    """Called with each write after its effect: raise OutcomeUnknown to lose the answer."""
    drop_events: int = 0
    """So many of the next events reach no watch."""
    duplicate_events: int = 0
    """So many of the next events reach each watch twice."""
    delay_events: float = 0.0
    """Events reach watches so many seconds late, in order."""

    def deliveries(self) -> int:
        """How often the event at hand reaches each watch."""
        if self.drop_events > 0:
            self.drop_events -= 1
            return 0
        if self.duplicate_events > 0:
            self.duplicate_events -= 1
            return 2
        return 1


class Feed:
    """One open watch."""

    def __init__(self, namespace: str | None) -> None:
        self._namespace = namespace
        self._queue: asyncio.Queue[tuple[float, Happened | None]] = asyncio.Queue()

    def offer(self, happened: Happened, delay: float = 0.0) -> None:
        """Tell the watcher, if it is about its namespace."""
        if self._namespace is None or happened.namespace == self._namespace or happened.type == "BOOKMARK":
            due = asyncio.get_running_loop().time() + delay if delay else 0.0
            self._queue.put_nowait((due, happened))

    def end(self) -> None:
        """The server closes the watch."""
        self._queue.put_nowait((0.0, None))

    async def events(self) -> AsyncIterator[WatchEvent]:
        """What the watcher is told, until the server closes the watch."""
        loop = asyncio.get_running_loop()
        while True:
            due, happened = await self._queue.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if happened is None:
                return
            yield WatchEvent(type=happened.type, object=happened.entry.copy())


class Table:
    """All objects of a type."""

    def __init__(self, kind: Kind, faults: Faults, history: int) -> None:
        self.kind = kind
        self._faults = faults
        self._spaces: dict[str, dict[str, Entry]] = {}
        self._history: deque[Happened] = deque(maxlen=history)
        self._floor = 0
        self._feeds: list[Feed] = []

    def find(self, namespace: str, name: str) -> Entry | None:
        """The object as it is now."""
        space = self._spaces.get(namespace)
        return space.get(name) if space else None

    def entries(self, namespace: str | None) -> Iterator[Entry]:
        """All objects in the order of their names, of one namespace or of all."""
        for place in sorted(self._spaces) if namespace is None else (namespace,):
            space = self._spaces.get(place, {})
            for name in sorted(space):
                yield space[name]

    def put(self, version: int, item: dict[str, Any], *, new: bool) -> Entry:
        """Store a version and tell about it."""
        metadata, entry = item["metadata"], Entry(item)
        namespace = metadata.get("namespace", "")
        self._spaces.setdefault(namespace, {})[metadata["name"]] = entry
        self._tell(Happened(version, "ADDED" if new else "MODIFIED", namespace, entry))
        return entry

    def drop(self, version: int, item: dict[str, Any]) -> None:
        """Remove an object and tell about it, with its last state."""
        metadata = item["metadata"]
        namespace = metadata.get("namespace", "")
        del self._spaces[namespace][metadata["name"]]
        self._tell(Happened(version, "DELETED", namespace, Entry(item)))

    def compact(self, version: int) -> None:
        """Forget what happened until then."""
        self._history.clear()
        self._floor = version

    def bookmark(self, version: int) -> None:
        """Tell every watch how far it is."""
        type = self.kind.type
        metadata = {"resourceVersion": str(version), "creationTimestamp": None}
        entry = Entry({"apiVersion": type.api_version, "kind": type.kind, "metadata": metadata})
        for feed in self._feeds:
            feed.offer(Happened(version, "BOOKMARK", "", entry))

    def subscribe(self, namespace: str | None, since: int | None) -> Feed:
        """Open a watch: after that version, or from all that is there now."""
        feed = Feed(namespace)
        if since is None:
            for entry in self.entries(namespace):
                version = int(entry.item["metadata"]["resourceVersion"])
                feed.offer(Happened(version, "ADDED", entry.item["metadata"].get("namespace", ""), entry))
        elif since < self._floor:
            raise Gone(f"too old resource version: {since} ({self._floor})")
        else:
            for happened in self._history:
                if happened.version > since:
                    feed.offer(happened)
        self._feeds.append(feed)
        return feed

    def unsubscribe(self, feed: Feed) -> None:
        """The watcher has gone."""
        self._feeds.remove(feed)

    def end_watches(self) -> None:
        """Close all watches, as the server does now and then."""
        for feed in self._feeds:
            feed.end()

    def _tell(self, happened: Happened) -> None:
        if len(self._history) == self._history.maxlen:
            self._floor = self._history[0].version
        self._history.append(happened)
        if self._feeds:
            for _ in range(self._faults.deliveries()):
                for feed in self._feeds:
                    feed.offer(happened, self._faults.delay_events)
