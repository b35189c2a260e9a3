"""The edge: kopf lists and watches; this module puts what it says into the cache and nothing else. Called by `app`.

Only `kopf.on.event`, returning None: kopf then writes nothing. No framework state, no finalizer, no timer of kopf's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import kopf

from agentmetal.clients.kubeconfig import Connection
from agentmetal.clients.kubernetes import PAGE, connecting, lively_socket
from agentmetal.core.operation import ApprovalPolicy
from agentmetal.core.resource import GROUP, VERSION, KindInfo

CONNECTIONS = 32
NOWHERE = "-"
"""No namespace can have this name."""
BUSY = frozenset({429, 502, 503})
"""What an API server answers that cannot answer now. 500 and 504 may mean that our version is of the future."""
KOPF = Path(kopf.__file__).parent


class Sink(Protocol):
    """Takes what the watch says."""

    def event(self, type: str | None, body: dict[str, Any]) -> None:
        """An object was listed (None), ADDED, MODIFIED or DELETED."""


class Forever:
    """Endless backoffs with jitter. kopf's finite ones drop an event for good after a long network hole (measured)."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.2
        while True:
            yield delay * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, no secret
            delay = min(delay * 2, 10.0)


class NoDiff(kopf.DiffBaseStorage):
    """Remembers nothing and compares nothing: no handler of ours asks for a diff.

    kopf makes one for every event all the same; copying the object and hashing annotation names for it were most of
    what an event cost (measured).
    """

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        """An object's essence, for comparing."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """The essence that was stored."""
        return kopf.BodyEssence()

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Never called: nothing ever differs."""


class Narrowed:
    """Between kopf and the API server: kopf's first LIST of a kind that we have listed ourselves asks for nothing.

    kopf lists before it watches, and ten thousand objects cost seconds, a second time. So that LIST is sent to a
    namespace that cannot be, at exactly the version that we know: the watch then goes on from there. A LIST that comes
    later (after 410, or another failure) is kopf's own, as is this one when the API server does not want it so.
    """

    def __init__(self, since: Mapping[str, str]) -> None:
        self._since = {f"/apis/{GROUP}/{VERSION}/{plural}": version for plural, version in since.items()}

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send it on, the first LIST of a known kind narrowed."""
        whole = request.url
        if request.method != "GET" or "watch" in whole.query or whole.path not in self._since:
            return await handler(request)
        version, (root, _, plural) = self._since[whole.path], whole.path.rpartition("/")
        exactly = {"limit": "1", "resourceVersion": version, "resourceVersionMatch": "Exact"}
        request.url = whole.with_path(f"{root}/namespaces/{NOWHERE}/{plural}").with_query(exactly)
        answer = await handler(request)
        if answer.status in BUSY:  # kopf asks again, and so little again
            return answer
        self._since.pop(whole.path, None)
        if answer.ok:
            return answer
        answer.release()
        request.url = whole
        return await handler(request)


class Others(Collection["asyncio.Task[Any]"]):
    """Every task that is not kopf's own, at the moment somebody asks.

    kopf ends with every task that was begun after it, because a task does not say who began it; when it fails by
    itself those would be ours, in the middle of their steps. But a task's coroutine says whose code it is.
    """

    def __contains__(self, task: object) -> bool:
        code = getattr(task.get_coro(), "cr_code", None) if isinstance(task, asyncio.Task) else None
        return code is None or not Path(code.co_filename).is_relative_to(KOPF)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter([task for task in asyncio.all_tasks() if task in self])

    def __len__(self) -> int:
        return len(list(iter(self)))


def register(registry: kopf.OperatorRegistry, sink: Sink, kinds: Iterable[KindInfo]) -> None:
    """One handler for each kind."""

    async def wake(event: kopf.RawEvent, **_: Any) -> None:
        sink.event(event["type"], dict(event["object"]))

    for info in (*kinds, ApprovalPolicy.info):
        kopf.on.event(GROUP, VERSION, info.plural, id=f"agentmetal-{info.plural}", registry=registry)(wake)


def settings() -> kopf.OperatorSettings:
    """kopf as measured in kopf-facts.md."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    # Another name than ours: an equal one kopf would strip from every object.
    chosen.persistence.finalizer = "kopf.agentmetal.io/unused"
    chosen.persistence.diffbase_storage = NoDiff()
    chosen.queueing.worker_limit = 256
    chosen.queueing.idle_timeout = 0.05
    chosen.networking.request_timeout = 10
    chosen.networking.connect_timeout = 3
    chosen.networking.error_backoffs = Forever()
    chosen.watching.connect_timeout = 3
    chosen.watching.reconnect_backoff = 0.2
    chosen.watching.chunk_size = PAGE  # or ten thousand objects stand in memory at once, as text and parsed
    return chosen


async def watch(
    connection: Connection,
    sink: Sink,
    kinds: Iterable[KindInfo],
    stop: asyncio.Event,
    *,
    since: Mapping[str, str] = {},
    started: Callable[[], None] = lambda: None,
) -> None:
    """Watch until `stop` is set. Returns only then, or raises when the API server refuses us for good.

    `since` is for each plural the version up to which everything is known: those are not listed first.

    kopf takes SIGTERM and SIGINT for itself, and would end before anything else does. `started` is called when it has
    taken them: take them back.
    """
    registry = kopf.OperatorRegistry()
    register(registry, sink, kinds)

    narrowed = Narrowed(since)

    async def login(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(
            aiohttp_session=_session(connection, narrowed),
            server=connection.server,
            default_namespace=connection.namespace,
        )

    kopf.on.login(registry=registry)(login)
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=settings(),
        stop_flag=stop,
        clusterwide=True,
        standalone=True,
    )
    started()
    await kopf.run_tasks(tasks, ignored=Others())


def _session(connection: Connection, narrowed: Narrowed) -> aiohttp.ClientSession:
    """Few connections that notice when the other side is gone; kopf's own are unbounded and do not."""
    token = connection.token_file.read_text().strip() if connection.token_file else connection.token
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=CONNECTIONS, keepalive_timeout=60.0, ssl=connection.tls, socket_factory=lively_socket
        ),
        headers={"Authorization": f"Bearer {token}"} if token else {},
        trust_env=False,
        middlewares=(narrowed, connecting),
    )
