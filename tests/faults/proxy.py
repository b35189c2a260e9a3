"""A TCP proxy that can go silent: bytes are neither forwarded nor refused, as behind a router that has forgotten us.

Used by `test_control_plane_faults.py`, between an operator and its API server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Link:
    """One connection through it."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Forwarding; cleared for ever when it is silenced."""
    asked_at: float = 0.0
    """When the client last said something."""


class Proxy:
    """Forwards to one port on loopback."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.links: list[Link] = []
        self._to = port
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.StreamWriter] = []

    def silence(self, *, idle: float = 0.0) -> int:
        """Let every open connection go silent whose client has said nothing for so long; new ones work. How many."""
        now = asyncio.get_running_loop().time()
        chosen = [link for link in self.links if link.open.is_set() and now - link.asked_at >= idle]
        for link in chosen:
            link.open.clear()
        return len(chosen)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        link = Link(asked_at=asyncio.get_running_loop().time())
        link.open.set()
        self.links.append(link)
        self._ends.append(writer)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._ends.append(far_writer)
        self._tasks.append(asyncio.create_task(self._pump(link, reader, far_writer, asks=True)))
        self._tasks.append(asyncio.create_task(self._pump(link, far_reader, writer, asks=False)))

    async def _pump(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asks: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await link.open.wait()
                if asks:
                    link.asked_at = asyncio.get_running_loop().time()
                writer.write(data)
                await writer.drain()
        if link.open.is_set():  # a silent one does not even say that the other side has gone
            writer.close()

    async def close(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end.close()
        await asyncio.gather(*(end.wait_closed() for end in self._ends), return_exceptions=True)


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy to that port, on a port of its own."""
    made = Proxy(port)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = int(server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        server.close()
        await made.close()
