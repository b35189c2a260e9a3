"""The audit trail in memory: for tests and dry runs. Ships beside the real store and passes the same contract suite.

Nothing survives the process. `unavailable` makes every write fail the way a full disk does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from agentmetal.core.audit import AuditEntry, AuditRecord, Head, follow
from agentmetal.core.errors import Unavailable


class MemoryAuditStore:
    """`core.audit.AuditStore` in a list."""

    def __init__(self) -> None:
        self.trail: list[AuditRecord] = []
        """All records; tests read it, and tamper with it."""
        self.unavailable = ""
        """Say why, and nothing can be stored until it is empty again."""
        self._digests: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._epoch = 0
        self._closed = False

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """Add to the chain."""
        self._writable()
        record = follow(await self.head(), entry)
        self.trail.append(record)
        return record

    async def head(self) -> Head:
        """The newest record."""
        return Head(sequence=self.trail[-1].sequence, hash=self.trail[-1].hash) if self.trail else Head()

    async def records(self, *, after: int = 0) -> AsyncIterator[AuditRecord]:
        """All records after that sequence, oldest first."""
        for record in tuple(self.trail):
            if record.sequence > after:
                yield record

    async def use_digest(self, digest: str, operation: str) -> bool:
        """Mark a digest as used by an operation. False when another operation used it."""
        self._writable()
        return self._digests.setdefault(digest, operation) == operation

    async def used_by(self, digest: str) -> str:
        """The operation that used a digest; empty when none has."""
        return self._digests.get(digest, "")

    async def highest_number(self, uid: str) -> int:
        """The highest operation number noted for an object; 0 when none."""
        return self._numbers.get(uid, 0)

    async def note_number(self, uid: str, number: int) -> None:
        """Remember an operation number of an object."""
        self._writable()
        self._numbers[uid] = max(number, self._numbers.get(uid, 0))

    async def next_epoch(self, at_least: int) -> int:
        """A leader epoch that is higher than any before and at least this."""
        self._writable()
        self._epoch = max(self._epoch + 1, at_least)
        return self._epoch

    async def close(self) -> None:
        """Nothing is stored after this."""
        self._closed = True

    def _writable(self) -> None:
        if self._closed:
            raise Unavailable("the audit store in memory is closed: open a new one")
        if self.unavailable:
            raise Unavailable(self.unavailable)
