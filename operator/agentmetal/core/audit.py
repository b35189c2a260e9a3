"""The audit trail: what a record is, how records are chained, and how a chain is proved. Pure.

Stores (`store/`) keep the records; the ledger writes them; `agentmetal audit verify` calls `verify`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Protocol

from agentmetal.core.canonical import sha256_hex
from agentmetal.core.errors import Invalid

FORMAT = 1
GENESIS = "0" * 64
"""Previous hash of the first record."""
TRAIL = "AuditTrail"
"""The resource of records about the trail itself."""
NAMED_IN_A_GAP = 256
"""Lost hashes that one gap record names; more of them make more records."""


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
    GAP = "gap"
    """The newest records are missing: they were seen outside, and the store does not have them any more."""
    ACKNOWLEDGE = "acknowledge"
    """A person has looked at a gap."""


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
    """The chain is whole, from its start on."""

    records: int
    head: str
    start: int = 0
    """The sequence that a checkpoint vouches for; what was before it has been removed."""
    gaps: int = 0
    """Records that tell of lost ones; a person has acknowledged each."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The first record that is not as it was written."""

    sequence: int
    what: str


_FIELDS = tuple(field.name for field in fields(AuditEntry))


def record_hash(sequence: int, entry: AuditEntry, previous: str, format: int = FORMAT) -> str:
    """sha256 over the RFC 8785 form of everything in the record."""
    body: dict[str, Any] = {"format": format, "sequence": sequence, "previous": previous, "entry": entry_json(entry)}
    return sha256_hex(body)


def entry_json(entry: AuditEntry) -> dict[str, Any]:
    """The stored form of an entry."""
    stored = {name: getattr(entry, name) for name in _FIELDS}  # flat: `asdict` would cost more than the hash
    return {**stored, "action": entry.action.value, "steps": list(entry.steps)}


def entry_from(stored: Mapping[str, Any]) -> AuditEntry:
    """The entry that `entry_json` stored."""
    return AuditEntry(**{**stored, "action": AuditAction(stored["action"]), "steps": tuple(stored["steps"])})


def follow(head: Head, entry: AuditEntry) -> AuditRecord:
    """The record that comes next."""
    sequence = head.sequence + 1
    return AuditRecord(sequence=sequence, entry=entry, previous=head.hash, hash=record_hash(sequence, entry, head.hash))


def gap_entries(head: Head, lost: Mapping[str, str], timestamp: str) -> tuple[AuditEntry, ...]:
    """What the trail says of lost records: their hashes, and where each was seen. The chain goes on after `head`."""
    found = sorted(lost.items(), key=lambda item: item[1])
    return tuple(
        AuditEntry(
            agent="operator",
            action=AuditAction.GAP,
            resource=TRAIL,
            timestamp=timestamp,
            actor="operator",
            reasoning="the store does not have its newest records any more: it failed over or was restored",
            steps=tuple(f"{hash} {where}" for hash, where in found[begin : begin + NAMED_IN_A_GAP]),
            outcome=f"{len(found)} lost hashes were seen outside; goes on after record {head.sequence}",
        )
        for begin in range(0, len(found), NAMED_IN_A_GAP)
    )


def lost_in(gap: AuditEntry) -> tuple[str, ...]:
    """The hashes that a gap record names; none of any other record."""
    if gap.action is not AuditAction.GAP:
        return ()
    return tuple(step.partition(" ")[0] for step in gap.steps)


def acknowledgement(gap: AuditRecord, by: str, reason: str, timestamp: str) -> AuditEntry:
    """A person has looked at a gap, and what had to be done is done."""
    return AuditEntry(
        agent="operator",
        action=AuditAction.ACKNOWLEDGE,
        resource=TRAIL,
        timestamp=timestamp,
        actor=by,
        reasoning=reason,
        digest=gap.hash,
        decision=f"Acknowledged the gap of record {gap.sequence}",
    )


def unacknowledged(records: Iterable[AuditRecord]) -> tuple[AuditRecord, ...]:
    """Of gap and acknowledge records, the gaps that nobody has acknowledged."""
    open_ones: dict[str, AuditRecord] = {}
    for record in records:
        if record.entry.action is AuditAction.GAP:
            open_ones[record.hash] = record
        elif record.entry.action is AuditAction.ACKNOWLEDGE:
            open_ones.pop(record.entry.digest, None)
    return tuple(open_ones.values())


def held_by(gap: AuditRecord) -> str:
    """Why nothing above Safe begins while the gap is open, and what to do."""
    seen = f": {gap.entry.steps[0][:12]} was seen in {gap.entry.steps[0][65:]}" if gap.entry.steps else ""
    return (
        f"the audit trail lost its newest records (gap record {gap.sequence}{seen}): nothing above Safe begins until a"
        f" person has looked at it and runs 'agentmetal audit acknowledge {gap.sequence} --reason ...'"
    )


async def verify(
    records: AsyncIterable[AuditRecord],
    anchors: Mapping[str, str],
    *,
    start: Head = Head(),
    removed: Collection[str] = (),
) -> Verified | Broken:
    """Walk the chain; `anchors` are hashes seen outside of it (head hash -> where, e.g. an Operation's name).

    Finds a changed, removed, inserted or reordered record, and, by the anchors, a cut-off end. What is before `start`
    was removed by retention: an anchor must vouch for the start, and `removed` are the anchors that lie before it.
    Needs memory for the anchors only.
    """
    if start.hash != GENESIS and start.hash not in anchors:
        what = (
            f"the trail begins after record {start.sequence}, and no checkpoint names that one: its beginning was cut"
        )
        return Broken(sequence=start.sequence, what=f"{what} off by hand, or the checkpoint was deleted")
    head, missing, open_gaps, gaps = start, dict(anchors), dict[str, AuditRecord](), 0
    for hash in (GENESIS, start.hash, *removed):
        missing.pop(hash, None)
    try:
        async for record in records:
            if what := _wrong(head, record):
                return Broken(sequence=head.sequence + 1, what=what)
            head = Head(sequence=record.sequence, hash=record.hash)
            missing.pop(record.hash, None)
            if record.entry.action is AuditAction.GAP:
                gaps, open_gaps[record.hash] = gaps + 1, record
                for hash in lost_in(record.entry):
                    missing.pop(hash, None)
            elif record.entry.action is AuditAction.ACKNOWLEDGE:
                open_gaps.pop(record.entry.digest, None)
    except Invalid as error:  # the store cannot even read it
        return Broken(sequence=head.sequence + 1, what=error.message)
    for gap in open_gaps.values():
        return Broken(sequence=gap.sequence, what=held_by(gap))
    if missing:
        hash, where = next(iter(missing.items()))
        what = f"the trail ends at record {head.sequence} without {hash[:12]}, which {where} saw"
        return Broken(
            sequence=head.sequence + 1, what=f"{what}: its newest records are missing, or it was written anew"
        )
    return Verified(records=head.sequence - start.sequence, head=head.hash, start=start.sequence, gaps=gaps)


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

    @property
    def seen(self) -> Head:
        """The newest record that this process has seen committed; genesis before the first."""

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """Add to the chain; durable when it returns (appends made together share one commit)."""

    async def head(self) -> Head:
        """The newest record; the start when there is none after it."""

    async def start(self) -> Head:
        """What the first record that is still there follows: genesis, or the record that retention removed last."""

    async def places(self, hashes: Collection[str]) -> dict[str, int]:
        """Where the trail accounts for these hashes; what was never here is left out.

        The sequence of the record, removed ones included; of a lost one that of the gap record that names it.
        """

    async def gaps(self) -> tuple[AuditRecord, ...]:
        """The gap records that nobody has acknowledged, oldest first. Cheap: asked before every step above Safe."""

    async def prune(self, upto: Head) -> int:
        """Remove that record and all before it; their hashes, used digests and numbers are kept. How many went.

        May be repeated, and goes on where it was interrupted. Raises Invalid when the trail has no such record, or one
        of them is a gap that nobody has acknowledged.
        """

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
