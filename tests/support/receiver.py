"""A receiver of notifications: an HTTP server on loopback that answers as it is told to and remembers what it got."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

PATH = "/s3cr3t-path"
"""Must never be seen in a log."""


@dataclass
class Receiver:
    """What came, and what is answered: 204 when nothing else was said."""

    answers: list[web.Response] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    slow: float = 0.0
    url: str = ""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        """Somebody posts."""
        self.got.append((dict(request.headers), await request.read()))
        self._news.set()
        await asyncio.sleep(self.slow)
        return self.answers.pop(0) if self.answers else web.Response(status=204)

    async def until(self, count: int, within: float = 20.0) -> None:
        """So many have come."""
        async with asyncio.timeout(within):
            while len(self.got) < count:
                await self._news.wait()
                self._news.clear()


@asynccontextmanager
async def receiving(*answers: web.Response) -> AsyncIterator[Receiver]:
    """One that runs."""
    receiver = Receiver(list(answers))
    application = web.Application()
    application.router.add_post(PATH, receiver.take)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    receiver.url = f"http://127.0.0.1:{listening.getsockname()[1]}{PATH}"
    await web.SockSite(runner, listening).start()
    try:
        yield receiver
    finally:
        await runner.cleanup()
