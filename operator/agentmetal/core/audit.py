"""The audit trail: what a record is, how records are chained, and how a chain is proved. Pure.

Stores (`store/`) keep the records; the ledger writes them; `agentmetal audit verify` calls `verify`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

from agentmetal.core.canonical import sha256_hex
from agentmetal.core.errors import Invalid

FORMAT = 1
GENESIS = "0" * 64
"""Previous hash of the first record."""


class AuditAction(StrEnum):
    """The verbs of the trail; the same words as in logs."""

    PLAN = "plan"
    APPROVE = "approve"
    REJECT = "reject"
    EXECUTE = "execute"
    STEP = "step"
    RESOLVE = "resolve"
    CLOSE = "close"
    LEAD = "lead"


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """What is to be recorded. Never holds a secret; texts are bounded by the writer."""

    agent: str
    action: AuditAction
    resource: str
    """`Kind namespace/name (uid)`"""
    timestamp: str
    actor: str
    """The user, policy or operator that caused it."""
    operation: str = ""
    reasoning: str = ""
    digest: str = ""
    steps: tuple[str, ...] = ()
    risk: str = ""
    decision: str = ""
    outcome: str = ""
    duration_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """A recorded entry in its place in the chain."""

    sequence: int
    entry: AuditEntry
    previous: str
    hash: str
    format: int = FORMAT

    def computed(self) -> str:
        """The hash that its content has now."""
        return record_hash(self.sequence, self.entry, self.previous, self.format)


@dataclass(frozen=True, kw_only=True)
class Head:
    """The newest record."""

    sequence: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The chain is whole."""

    records: int
    head: str


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The first record that is not as it was written."""

    sequence: int
    what: str


def record_hash(sequence: int, entry: AuditEntry, previous: str, format: int = FORMAT) -> str:
    """sha256 over the RFC 8785 form of everything in the record."""
    body: dict[str, Any] = {"format": format, "sequence": sequence, "previous": previous, "entry": entry_json(entry)}
    return sha256_hex(body)


def entry_json(entry: AuditEntry) -> dict[str, Any]:
    """The stored form of an entry."""
    return {**asdict(entry), "action": entry.action.value, "steps": list(entry.steps)}


def entry_from(stored: Mapping[str, Any]) -> AuditEntry:
    """The entry that `entry_json` stored."""
    return AuditEntry(**{**stored, "action": AuditAction(stored["action"]), "steps": tuple(stored["steps"])})


def follow(head: Head, entry: AuditEntry) -> AuditRecord:
    """The record that comes next."""
    sequence = head.sequence + 1
    return AuditRecord(sequence=sequence, entry=entry, previous=head.hash, hash=record_hash(sequence, entry, head.hash))


async def verify(records: AsyncIterable[AuditRecord], anchors: Mapping[str, str]) -> Verified | Broken:
    """Walk the chain; `anchors` are hashes seen outside of it (head hash -> where, e.g. an Operation's name).

    Finds a changed, removed, inserted or reordered record, and, by the anchors, a cut-off end.
    """
    head, missing = Head(), dict(anchors)
    missing.pop(GENESIS, None)
    try:
        async for record in records:
            if what := _wrong(head, record):
                return Broken(sequence=head.sequence + 1, what=what)
            head = Head(sequence=record.sequence, hash=record.hash)
            missing.pop(record.hash, None)
    except Invalid as error:  # the store cannot even read it
        return Broken(sequence=head.sequence + 1, what=error.message)
    if missing:
        hash, where = next(iter(missing.items()))
        what = f"the trail ends at record {head.sequence} without {hash[:12]}, which {where} saw"
        return Broken(
            sequence=head.sequence + 1, what=f"{what}: its newest records are missing, or it was written anew"
        )
    return Verified(records=head.sequence, head=head.hash)


def _wrong(head: Head, record: AuditRecord) -> str:
    """Why the record is not the one that was written after the head; empty when it is."""
    if record.sequence != head.sequence + 1:
        return f"record {head.sequence + 1} is missing"
    if record.previous != head.hash:
        return f"record {record.sequence} does not follow the one before it"
    try:
        changed = record.computed() != record.hash
    except ValueError:  # has no canonical form: we never wrote that
        changed = True
    return f"record {record.sequence} was changed" if changed else ""


class AuditStore(Protocol):
    """An append-only chain, and the few numbers that must survive a restored etcd.

    Raises Unavailable when nothing can be stored (disk full, locked): then nothing above Safe may run.
    """

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """Add to the chain; durable when it returns (appends made together share one commit)."""

    async def head(self) -> Head:
        """The newest record."""

    def records(self, *, after: int = 0) -> AsyncIterable[AuditRecord]:
        """All records after that sequence, oldest first, streamed. Raises Invalid at an unreadable one."""

    async def use_digest(self, digest: str, operation: str) -> bool:
        """Mark a digest as used by an operation, for ever. False when another operation used it."""

    async def used_by(self, digest: str) -> str:
        """The operation that used a digest; empty when none has."""

    async def highest_number(self, uid: str) -> int:
        """The highest operation number ever noted for an object; 0 when none."""

    async def note_number(self, uid: str, number: int) -> None:
        """Remember an operation number of an object."""

    async def next_epoch(self, at_least: int) -> int:
        """A leader epoch that is higher than any before and at least this; durable when it returns."""

    async def close(self) -> None:
        """Finish what is pending."""
