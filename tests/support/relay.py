"""A TCP relay on loopback, in front of a server, that can hold bytes back: a line that hangs, and is not cut.

Use `relay(port)`; whoever is to be fooled connects to `.port` instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
CHUNK = 256 * 1024


@dataclass(eq=False)
class Line:
    """One connection."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    passes: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while bytes go to the server."""
    said: int = 0
    """Bytes from the client since the server last spoke."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """The server spoke after this was cleared."""

    def __post_init__(self) -> None:
        self.passes.set()


@dataclass(eq=False)
class Relay:
    """All connections that go through it."""

    to: int
    port: int = 0
    held: asyncio.Future[Line] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """The connection whose words are held."""
    lines: list[Line] = field(default_factory=list)
    _hangs: bool = False
    _too_much: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def hang(self) -> None:
        """From now on nothing passes, on old connections and on new ones; nobody is told."""
        self._hangs = True
        for line in self.lines:
            line.passes.clear()

    def hold_from(self, size: int) -> None:
        """The first connection whose client says so many bytes at once is held from there on; others are not."""
        self._too_much = size

    def release(self, line: Line) -> None:
        """What was held goes on its way."""
        line.answered.clear()
        line.passes.set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client has connected."""
        task = asyncio.create_task(self._carry(reader, writer), name=f"relay {self.port} to {self.to}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # also when it was cancelled before it began

    async def close(self) -> None:
        """End all connections."""
        await asyncio.sleep(0)  # whoever was let in at this moment is among them then
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # what was hung up on is closed in the loop's next turn

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection(LOOPBACK, self.to)
        line = Line(client=writer, server=there)
        if self._hangs:
            line.passes.clear()
        self.lines.append(line)
        ways = [
            asyncio.create_task(self._towards_server(line, reader)),
            asyncio.create_task(self._towards_client(line, there_reader)),
        ]
        try:
            await asyncio.gather(*ways)  # half of a line may close: what is held still goes on its way
        finally:
            for end in (there, writer):  # before anything is awaited: whoever ends us may cancel once more
                end.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _towards_server(self, line: Line, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                line.said += len(data)
                if self._too_much and line.said >= self._too_much and not self.held.done():
                    line.passes.clear()
                    self.held.set_result(line)
                await line.passes.wait()
                line.server.write(data)
                await line.server.drain()
            line.server.write_eof()

    async def _towards_client(self, line: Line, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                line.said = 0
                line.answered.set()
                if self._hangs:
                    await line.passes.wait()
                line.client.write(data)
                await line.client.drain()
            line.client.close()


@asynccontextmanager
async def relay(to: int) -> AsyncIterator[Relay]:
    """A relay to that port of loopback."""
    made = Relay(to=to)
    server = await asyncio.start_server(made.accept, LOOPBACK, 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
