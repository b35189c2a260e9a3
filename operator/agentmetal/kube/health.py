"""/metrics, /healthz, /readyz and /leading over HTTP, for Prometheus and for whoever restarts us. By `process`.

The server decides nothing: it asks functions. `healthy_when` makes the first of them, from what the edge hears and
how the queue moves; `process` tells the rest. Ready is who leads or stands by, so that two replicas can be rolled out;
leading is who acts.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from agentmetal.core.errors import Unavailable
from agentmetal.engine.metrics import Metrics

WATCH_SILENCE = 90.0
"""Seconds. A living watch bears a bookmark every 60: a longer silence is a dead connection."""
QUEUE_SILENCE = 90.0
"""Seconds in which a queue that holds something must have handed something out."""

Verdict = Callable[[], tuple[bool, str]]
"""True or False, and a sentence for people."""


class HealthServer:
    """Four pages on one port. `port` is the real one once it runs, also when 0 was asked for."""

    def __init__(
        self, metrics: Metrics, healthy: Verdict, ready: Verdict, leading: Verdict, address: str, port: int
    ) -> None:
        self.address = address
        self.port = port
        self._metrics = metrics
        application = web.Application()
        application.router.add_get("/metrics", self._show_metrics)
        application.router.add_get("/healthz", _page(healthy))
        application.router.add_get("/readyz", _page(ready))
        application.router.add_get("/leading", _page(leading))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> None:
        """Listen. Raises Unavailable when the port is taken."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        try:
            listening = socket.create_server((self.address, self.port), family=family)
        except OSError as error:
            raise Unavailable(
                f"metrics and health cannot be served at {self.address!r} port {self.port}:"
                f" end what listens there, or set another metrics port ({error})"
            ) from error
        self.port = listening.getsockname()[1]
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def healthy_when(
    now: Callable[[], float],
    watches_heard_at: Callable[[], Mapping[str, float]],
    queue: Callable[[], tuple[int, float]],
) -> Verdict:
    """Alive: every watch was heard of lately, and the queue is empty or moves. Says which is not.

    All times are the event loop's. `watches_heard_at`: kind -> when; `queue`: what waits, when one was last taken.
    """

    def verdict() -> tuple[bool, str]:
        moment = now()
        silent = {kind: moment - heard for kind, heard in watches_heard_at().items() if moment - heard >= WATCH_SILENCE}
        told = [f"the watch of {kind} is silent for {silence:.0f} s" for kind, silence in sorted(silent.items())]
        waiting, taken_at = queue()
        if waiting and moment - taken_at >= QUEUE_SILENCE:
            told.append(f"the queue holds {waiting} and has not moved for {moment - taken_at:.0f} s")
        return (False, "; ".join(told)) if told else (True, "ok")

    return verdict


def _page(verdict: Verdict) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def show(_: web.Request) -> web.Response:
        good, sentence = verdict()
        return web.Response(status=200 if good else 503, text=f"{sentence}\n")

    return show
