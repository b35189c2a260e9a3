"""The audit trail in memory: for tests and dry runs. Ships beside the real store and passes the same contract suite.

Nothing survives the process. `unavailable` makes every write fail the way a full disk does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from agentmetal.core.audit import AuditAction, AuditEntry, AuditRecord, Head, follow, lost_in, unacknowledged
from agentmetal.core.errors import Unavailable
from agentmetal.store.retention import refuse_prune


class MemoryAuditStore:
    """`core.audit.AuditStore` in a list."""

    def __init__(self) -> None:
        self.trail: list[AuditRecord] = []
        """All records; tests read it, and tamper with it."""
        self.unavailable = ""
        """Say why, and nothing can be stored until it is empty again."""
        self._marks: list[AuditRecord] = []
        self._start = Head()
        self._removed: dict[str, int] = {}
        self._digests: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._epoch = 0
        self._closed = False

    @property
    def seen(self) -> Head:
        """The newest record; genesis before the first."""
        return Head(sequence=self.trail[-1].sequence, hash=self.trail[-1].hash) if self.trail else Head()

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """Add to the chain."""
        self._writable()
        record = follow(await self.head(), entry)
        self.trail.append(record)
        if entry.action in (AuditAction.GAP, AuditAction.ACKNOWLEDGE):
            self._marks.append(record)
        return record

    async def head(self) -> Head:
        """The newest record; the start when there is none after it."""
        return Head(sequence=self.trail[-1].sequence, hash=self.trail[-1].hash) if self.trail else self._start

    async def start(self) -> Head:
        """What the first record that is still there follows."""
        return self._start

    async def places(self, hashes: Collection[str]) -> dict[str, int]:
        """Where the trail accounts for these hashes."""
        named = {hash: gap.sequence for gap in self._marks for hash in lost_in(gap.entry)}
        known = named | self._removed | {record.hash: record.sequence for record in self.trail}
        return {hash: known[hash] for hash in hashes if hash in known}

    async def gaps(self) -> tuple[AuditRecord, ...]:
        """The gap records that nobody has acknowledged, oldest first."""
        return unacknowledged(self._marks)

    async def prune(self, upto: Head) -> int:
        """Remove that record and all before it; their hashes, used digests and numbers are kept. How many went."""
        self._writable()
        if upto == self._start:
            return 0
        refuse_prune(upto, self._start, await self.places([upto.hash]), await self.gaps())
        old = [record for record in self.trail if record.sequence <= upto.sequence]
        for record in old:
            if record.entry.action is AuditAction.GAP:  # the hashes it names stay accounted for
                self._removed |= dict.fromkeys(lost_in(record.entry), record.sequence)
        self._removed |= {record.hash: record.sequence for record in old}
        self.trail, self._start = self.trail[len(old) :], upto
        return len(old)

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
