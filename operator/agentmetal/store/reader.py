"""The audit trail read from its file, beside a running operator: for `agentmetal audit`.

It opens read-only and takes no lock; it makes nothing and repairs nothing: what is there is what is shown.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from agentmetal.core.audit import AuditRecord
from agentmetal.core.errors import NotFound
from agentmetal.store.sqlite import BUSY_SECONDS, page, record_of, translated


class AuditFile:
    """The records of a SQLite audit store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def records(self, *, after: int = 0) -> AsyncIterator[AuditRecord]:
        """All records after that sequence, oldest first. Raises NotFound, Invalid at an unreadable one, Unavailable."""
        while rows := await asyncio.to_thread(self._page, after):
            for row in rows:
                yield record_of(*row)
            after = rows[-1][0]

    def _page(self, after: int) -> list[tuple[int, str, str, int, str]]:
        if not self.path.is_file():
            raise NotFound(f"there is no audit store at {str(self.path)!r}: name it by --store")
        try:
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)
            try:
                return page(after, connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
