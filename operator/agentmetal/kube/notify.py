"""Notifications to people elsewhere: a signed POST when a human is needed. A `kube.status.Announcer`; built by `app`.

Called by the status writer after a turn, beside `kube.events`; never waits. One task delivers, in order, with backoff;
what cannot be delivered within a bounded time is dropped and counted: what matters stands in status. What is told is
one table, `kube.telling.TOLD`; where to is a Secret, read anew now and then.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agentmetal.clients.webhook import checked_url
from agentmetal.core.clock import Clock
from agentmetal.core.errors import AgentMetalError, Invalid, OutcomeUnknown, Transient
from agentmetal.core.resource import AnyResource
from agentmetal.core.tool import Secrets
from agentmetal.engine.metrics import Metrics
from agentmetal.kube.telling import Notice, as_json, as_slack, notices

SIGNATURE = "X-AgentMetal-Signature"
TIMESTAMP = "X-AgentMetal-Timestamp"
DELIVERY = "X-AgentMetal-Delivery"
"""The same over all tries and over restarts: a receiver drops what it has seen."""
MAX_PENDING = 256
GIVE_UP_AFTER = 900.0
"""Seconds from the turn on. Older news mislead."""
DELAYS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds before the next try, up to a half less at random; the last one repeats."""
LONGEST_WAIT = 300.0
"""Of what a receiver may ask for by Retry-After."""
SETTINGS_AGE = 30.0
"""Seconds after which the Secret is read anew."""
CLOSE_WITHIN = 1.0

Format = Literal["json", "slack"]

log = logging.getLogger("agentmetal.notify")


class Sink(Protocol):
    """Posts once. Real: `clients.webhook`."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Raises Transient errors (try again) and Permanent ones (do not)."""

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to, and in which form."""

    url: str = field(repr=False)
    key: bytes = field(default=b"", repr=False)
    format: Format = "json"


Load = Callable[[], Awaitable[Target]]


def target_of(secret: str, held: Mapping[str, bytes], *, development: bool) -> Target:
    """What the Secret says: `url`, `hmac-key`, `format`. Raises Invalid, without showing a value."""
    form = held.get("format", b"json").decode("utf-8", "replace").strip()
    if form not in ("json", "slack"):
        raise Invalid(f"Secret {secret!r}: format must be json or slack")
    if not held.get("url"):
        raise Invalid(f"Secret {secret!r} lacks 'url'")
    key = held.get("hmac-key", b"").strip()
    if form == "json" and len(key) < 16:
        raise Invalid(f"Secret {secret!r}: 'hmac-key' needs 16 characters or more, e.g. of openssl rand -hex 32")
    url = checked_url(held["url"].decode("utf-8", "replace").strip(), development=development)
    return Target(url=url, key=key, format="slack" if form == "slack" else "json")


def loader(secrets: Secrets, namespace: str, name: str, *, development: bool) -> Load:
    """Reads the target from a Secret of the operator's own namespace."""

    async def load() -> Target:
        return target_of(name, await secrets.read(namespace, name), development=development)

    return load


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """What a receiver computes too: HMAC-SHA256 of `<timestamp>.<body>`."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Pending:
    notice: Notice
    since: float
    """By the event loop's clock."""


class Notifier:
    """Implements `kube.status.Announcer`."""

    def __init__(
        self, sink: Sink, load: Load, clock: Clock, metrics: Metrics, *, cluster: str, jitter: random.Random
    ) -> None:
        self._sink, self._load, self._clock, self._metrics = sink, load, clock, metrics
        self._cluster = cluster
        self._jitter = jitter
        self._pending: deque[_Pending] = deque()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._target: Target | None = None
        self._read_at = float("-inf")
        self._overflowing = False
        self._dropped = 0
        """How many were dropped that no receiver was told of yet."""

    def announce(self, before: AnyResource, after: AnyResource) -> None:
        """Queue what became true."""
        for notice in notices(before, after, cluster=self._cluster, now=self._clock.now()):
            self._queue(notice)

    async def close(self) -> None:
        """End within a second; what was not delivered is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_WITHIN / 2)
        for _ in self._pending:
            self._metrics.notified("dropped")
        self._pending.clear()
        try:
            async with asyncio.timeout(CLOSE_WITHIN / 2):
                await self._sink.close()
        except TimeoutError:
            log.info("the webhook's connections did not close in time")

    def _queue(self, notice: Notice) -> None:
        if len(self._pending) >= MAX_PENDING:
            self._pending.popleft()
            self._dropped += 1
            self._metrics.notified("dropped")
            if not self._overflowing:
                log.warning("more than %s notifications wait: the oldest are dropped", MAX_PENDING)
            self._overflowing = True
        self._pending.append(_Pending(notice=notice, since=asyncio.get_running_loop().time()))
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="notifications")
            self._task.add_done_callback(_told_of)

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._pending:
                await self._deliver(self._pending.popleft())
            self._overflowing = False

    async def _deliver(self, pending: _Pending) -> None:
        """Try until it is taken, refused, or too old."""
        loop, tries = asyncio.get_running_loop(), 0
        wait: float | None = 0.0
        why = "too many others came before"
        while wait is not None:
            if loop.time() + wait - pending.since > GIVE_UP_AFTER:
                log.warning("notification about %s given up after %s tries: %s", pending.notice.place, tries, why)
                self._metrics.notified("failed")
                return
            if tries:
                self._metrics.notified("retried")
                await asyncio.sleep(wait)
            wait, why = await self._try(pending.notice, tries)
            tries += 1

    async def _try(self, notice: Notice, tries: int) -> tuple[float | None, str]:
        """Seconds until the next try, and why; None when there is none."""
        try:
            target = await self._where()
        except AgentMetalError as error:  # somebody may be mending the Secret
            if not tries:
                log.warning("notifications wait, for nobody knows where to: %s", error.message)
            return self._delay(tries, error), error.message
        dropped = self._dropped
        try:
            await self._sink.post(target.url, *self._rendered(notice, target, dropped))
        except (Transient, OutcomeUnknown) as error:
            return self._delay(tries, error), error.message
        except AgentMetalError as error:
            log.warning("notification about %s is lost: %s", notice.place, error.message)
            self._metrics.notified("failed")
            self._read_at = float("-inf")  # the next one goes by what the Secret says then
            return None, ""
        self._metrics.notified("delivered")
        self._dropped -= dropped
        return None, ""

    async def _where(self) -> Target:
        now = asyncio.get_running_loop().time()
        if self._target is None or now - self._read_at >= SETTINGS_AGE:
            self._target = await self._load()
            self._read_at = now
        return self._target

    def _rendered(self, notice: Notice, target: Target, dropped: int) -> tuple[bytes, dict[str, str]]:
        """Body and headers. The timestamp is of this very try: receivers refuse old ones."""
        body = (as_slack if target.format == "slack" else as_json)(notice, dropped)
        timestamp = str(int(self._clock.now().timestamp()))
        headers = {"Content-Type": "application/json", TIMESTAMP: timestamp, DELIVERY: notice.id}
        if target.key:
            headers[SIGNATURE] = signature(target.key, timestamp, body)
        return body, headers

    def _delay(self, tries: int, error: AgentMetalError) -> float:
        usual = DELAYS[min(tries, len(DELAYS) - 1)] * (1 - self._jitter.random() / 2)
        return max(usual, min(error.retry_after or 0.0, LONGEST_WAIT))


def _told_of(task: asyncio.Task[None]) -> None:
    """A bug ended it: the next notification begins anew. The error's text may hold the URL."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("notifications ended by a bug (%s), the next one begins anew", type(error).__name__)
