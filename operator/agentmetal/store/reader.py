"""The audit trail read from its file, beside a running operator: for `agentmetal audit`.

It opens read-only and takes no lock; it makes nothing and repairs nothing: what is there is what is shown.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from pathlib import Path
from typing import TypeVar

from agentmetal.core.audit import AuditRecord, Head
from agentmetal.core.errors import NotFound, Unavailable
from agentmetal.store import sqlite
from agentmetal.store.sqlite import BUSY_SECONDS, record_of, schema, translated

T = TypeVar("T")


class AuditFile:
    """The records of a SQLite audit store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def records(self, *, after: int = 0) -> AsyncIterator[AuditRecord]:
        """All records after that sequence, oldest first. Raises NotFound, Invalid at an unreadable one, Unavailable."""
        while rows := await self._read(partial(sqlite.page, after)):
            for row in rows:
                yield record_of(*row)
            after = rows[-1][0]

    async def head(self) -> Head:
        """The newest record."""
        return await self._read(sqlite.head)

    async def start(self) -> Head:
        """What the first record follows."""
        return await self._read(sqlite.start)

    async def places(self, hashes: Collection[str]) -> dict[str, int]:
        """Where the trail accounts for these hashes."""
        return await self._read(partial(sqlite.places, hashes))

    async def gaps(self) -> tuple[AuditRecord, ...]:
        """The gap records that nobody has acknowledged."""
        return await self._read(sqlite.gaps)

    async def close(self) -> None:
        """Nothing is open between two calls."""

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._answer, job)

    def _answer(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if not self.path.is_file():
            raise NotFound(f"there is no audit store at {str(self.path)!r}: name it by --store")
        try:
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)
            try:
                self._check(connection)
                return job(connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def _check(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != max(schema()):
            raise Unavailable(
                f"the audit store {str(self.path)!r} has version {version}, this program reads {max(schema())}:"
                " run the program that wrote it, or start the newer operator once"
            )
