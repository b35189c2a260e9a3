"""The audit trail in one SQLite file: embedded, for one replica on a volume. Built by `app`, called by the ledger.

Writes share commits (`batches`), made on one thread. Nobody returns before the commit that carries his record is on the
disk (WAL, synchronous=FULL).

Any failure closes the connection and the next call opens a new one, so the store recovers by itself. A record whose
commit failed may nevertheless be found later (its last sync failed after it was written): the head is therefore read
inside every transaction and never remembered. Replicas need PostgreSQL; this file refuses a second process.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from agentmetal.core.audit import AuditEntry, AuditRecord, Head, entry_from, entry_json, follow, unacknowledged
from agentmetal.core.canonical import canonical
from agentmetal.core.errors import AgentMetalError, Invalid, Unavailable
from agentmetal.store.batches import GroupCommit
from agentmetal.store.filelock import FileLock
from agentmetal.store.retention import refuse_prune

PAGE = 500
"""Records read at once while streaming."""
BUSY_SECONDS = 2.0
"""How long a lock of another program (a backup, the sqlite3 shell) is waited for."""
REMOVED_AT_ONCE = 5000
"""Records that one transaction of retention removes: others write in between."""

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], Any]

_WHAT_TO_DO = {
    sqlite3.SQLITE_FULL: "its disk is full: free space there, the store goes on by itself",
    sqlite3.SQLITE_BUSY: "another program keeps it locked: end that program (a backup, the sqlite3 shell)",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked: end that program (a backup, the sqlite3 shell)",
    sqlite3.SQLITE_READONLY: "it is read-only: mount its volume writable and let the operator's user own the file",
    sqlite3.SQLITE_PERM: "permission is denied: let the operator's user own the file and its directory",
    sqlite3.SQLITE_AUTH: "permission is denied: let the operator's user own the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its directory exists, is writable, and has space",
    sqlite3.SQLITE_IOERR: "its disk fails: look at the kernel's log (dmesg) and at the volume",
    sqlite3.SQLITE_TOOBIG: "a record is too big: this is a bug, please report it",
    sqlite3.SQLITE_NOMEM: "memory is used up: give the operator more",
    sqlite3.SQLITE_CORRUPT: "it is damaged: keep it as evidence and put a backup in its place",
    sqlite3.SQLITE_NOTADB: "it is not an audit file of ours: set another store path, or put a backup in its place",
}
_UNKNOWN = "somebody changed the file, or this is a bug: run 'agentmetal audit verify' and report what it says"


def translated(error: sqlite3.Error, path: Path) -> AgentMetalError:
    """The one place where SQLite's errors become ours.

    Refused by a trigger or a constraint = Invalid (the caller's mistake); all the rest = nothing can be stored now.
    """
    # Errors of the Python module itself (a closed connection) carry no code.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_CONSTRAINT:
        return Invalid(f"the audit store {str(path)!r} refuses it: {error}")
    todo = _WHAT_TO_DO.get(code, _UNKNOWN)
    return Unavailable(f"the audit store {str(path)!r} cannot be used: {todo} ({error})")


class SqliteAuditStore:
    """`core.audit.AuditStore` in a file. Make it with `open`."""

    def __init__(self, path: Path, lock: FileLock | None) -> None:
        self.path = path
        self.commits = 0
        """Transactions so far: what group commit saves can be seen."""
        self.seen = Head()
        """The newest record that this process has seen committed; genesis before the first."""
        self._lock = lock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")
        self._connection: sqlite3.Connection | None = None  # used on that thread only
        self._writer: GroupCommit[Job] = GroupCommit(self._commit_jobs)

    @classmethod
    async def open(cls, path: Path, *, alone: bool = True) -> SqliteAuditStore:
        """Open the file, or make it. Raises Unavailable when it cannot be used or another operator uses it.

        Not `alone` is for commands beside a running operator: the head is read in every transaction.
        """
        store = cls(path, FileLock.acquire(path) if alone else None)
        try:
            _make(path)
            await store._on_thread(store._connected)
        except AgentMetalError:
            store._thread.shutdown()
            if store._lock:
                store._lock.release()
            raise
        store._writer.start()
        return store

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """Add to the chain; durable when it returns."""
        canonical(entry_json(entry))  # what cannot be hashed fails here, alone, and not the batch it would be in

        def job(connection: sqlite3.Connection) -> AuditRecord:
            record = follow(head(connection), entry)
            row = (record.sequence, record.hash, record.previous, record.format, _text(entry))
            connection.execute(
                "INSERT INTO audit (sequence, hash, previous, format, entry) VALUES (?, ?, ?, ?, ?)", row
            )
            return record

        return await self._stored(job)

    async def head(self) -> Head:
        """The newest record; the start when there is none after it."""
        return await self._read(head)

    async def start(self) -> Head:
        """What the first record that is still there follows."""
        return await self._read(start)

    async def places(self, hashes: Collection[str]) -> dict[str, int]:
        """Where the trail accounts for these hashes."""
        return await self._read(partial(places, hashes))

    async def gaps(self) -> tuple[AuditRecord, ...]:
        """The gap records that nobody has acknowledged, oldest first."""
        return await self._read(gaps)

    async def prune(self, upto: Head) -> int:
        """Remove that record and all before it; their hashes, used digests and numbers are kept. How many went."""
        await self._stored(partial(_start_after, upto))
        went = 0
        while count := await self._stored(_remove):
            went += count
        return went

    async def records(self, *, after: int = 0) -> AsyncIterator[AuditRecord]:
        """All records after that sequence, oldest first. Raises Invalid at one that is not what a store writes."""
        while rows := await self._read(partial(page, after)):
            for row in rows:
                yield record_of(*row)
            after = rows[-1][0]

    async def use_digest(self, digest: str, operation: str) -> bool:
        """Mark a digest as used by an operation, for ever. False when another operation used it."""

        def job(connection: sqlite3.Connection) -> bool:
            connection.execute("INSERT INTO used_digests VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, operation))
            (user,) = connection.execute("SELECT operation FROM used_digests WHERE digest = ?", (digest,)).fetchone()
            return bool(user == operation)

        return await self._stored(job)

    async def used_by(self, digest: str) -> str:
        """The operation that used a digest; empty when none has."""
        query = "SELECT coalesce(max(operation), '') FROM used_digests WHERE digest = ?"
        return await self._read(lambda connection: str(connection.execute(query, (digest,)).fetchone()[0]))

    async def highest_number(self, uid: str) -> int:
        """The highest operation number ever noted for an object; 0 when none."""
        query = "SELECT coalesce(max(number), 0) FROM numbers WHERE uid = ?"
        return await self._read(lambda connection: int(connection.execute(query, (uid,)).fetchone()[0]))

    async def note_number(self, uid: str, number: int) -> None:
        """Remember an operation number of an object."""
        upsert = "INSERT INTO numbers VALUES (?, ?) ON CONFLICT DO UPDATE SET number = max(number, excluded.number)"
        await self._stored(lambda connection: connection.execute(upsert, (uid, number)))

    async def next_epoch(self, at_least: int) -> int:
        """A leader epoch that is higher than any before and at least this; durable when it returns."""
        update = "UPDATE epoch SET epoch = max(epoch + 1, ?) RETURNING epoch"
        return await self._stored(lambda connection: int(connection.execute(update, (at_least,)).fetchone()[0]))

    async def close(self) -> None:
        """Store what waits, close the file, let another process have it."""
        if not await self._writer.close():
            return
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()
        if self._lock:
            self._lock.release()

    async def _stored(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What the job returns, once the transaction that it ran in is committed."""
        self._usable()
        result: T = await self._writer.stored(job)
        return result

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._usable()
        return await self._on_thread(lambda: job(self._connected()))

    async def _commit_jobs(self, jobs: list[Job]) -> list[Any]:
        return await self._on_thread(lambda: self._commit(jobs))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[], T]) -> T:
        """On the thread: translate what goes wrong, and start anew after it."""
        try:
            return work()
        except sqlite3.Error as error:
            self._disconnect()
            raise translated(error, self.path) from error

    def _commit(self, jobs: list[Job]) -> list[Any]:
        with _transaction(self._connected()) as connection:
            results = [job(connection) for job in jobs]
            newest = head(connection)
        self.commits += 1
        self.seen = newest
        return results

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                _prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _usable(self) -> None:
        if not self._writer.open:
            raise Unavailable(f"the audit store {str(self.path)!r} is closed: open it again")


def _make(path: Path) -> None:
    """The file, readable by its owner only; SQLite gives the files beside it the same mode."""
    try:
        path.touch(mode=0o600)
    except OSError as error:
        todo = "check that its directory is writable and has space"
        raise Unavailable(f"the audit store {str(path)!r} cannot be made: {todo} ({error})") from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back
        yield connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Durability first, then the schema, version by version."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (stored,) = connection.execute("PRAGMA user_version").fetchone()
    versions = schema()
    if stored > max(versions):
        raise Unavailable(
            f"the audit store {str(path)!r} has version {stored}, this program knows up to {max(versions)}:"
            " run the newer program that wrote it"
        )
    for version in range(stored + 1, max(versions) + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {versions[version]} PRAGMA user_version = {version}; COMMIT;")


def schema() -> dict[int, str]:
    """The statements of `schema.sql` by version; each version is added to the ones before, never changed."""
    text = resources.files("agentmetal.store").joinpath("schema.sql").read_text(encoding="utf-8")
    parts = [part.split("\n", 1) for part in text.split("-- version ")[1:]]
    return {int(number): statements for number, statements in parts}


def head(connection: sqlite3.Connection) -> Head:
    """The newest record; the start when there is none after it."""
    row = connection.execute("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
    return Head(sequence=row[0], hash=row[1]) if row else start(connection)


def start(connection: sqlite3.Connection) -> Head:
    """What the first record follows."""
    sequence, hash = connection.execute("SELECT sequence, hash FROM start").fetchone()
    return Head(sequence=sequence, hash=hash)


def places(hashes: Collection[str], connection: sqlite3.Connection) -> dict[str, int]:
    """Where records with these hashes are, were, or are said to be lost."""
    query = """
        WITH named (hash, sequence) AS (
            SELECT substr(step.value, 1, 64), sequence FROM audit, json_each(entry, '$.steps') AS step
            WHERE json_extract(entry, '$.action') IN ('gap', 'acknowledge') AND action = 'gap')
        SELECT wanted.value, coalesce(audit.sequence, removed.sequence, named.sequence) AS place
        FROM json_each(?) AS wanted LEFT JOIN audit ON audit.hash = wanted.value
        LEFT JOIN removed ON removed.hash = wanted.value LEFT JOIN named ON named.hash = wanted.value
        WHERE place IS NOT NULL"""
    return dict(connection.execute(query, (json.dumps(list(hashes)),)).fetchall())


def gaps(connection: sqlite3.Connection) -> tuple[AuditRecord, ...]:
    """The gap records that nobody has acknowledged, by an index that holds nothing else."""
    query = """
        SELECT sequence, hash, previous, format, entry FROM audit
        WHERE json_extract(entry, '$.action') IN ('gap', 'acknowledge')
          AND sequence > (SELECT sequence FROM start) ORDER BY sequence"""
    return unacknowledged(record_of(*row) for row in connection.execute(query).fetchall())


def _start_after(upto: Head, connection: sqlite3.Connection) -> None:
    """Let the trail start after a record; raises Invalid when it may not."""
    if (found := start(connection)) == upto:
        return  # the removal was interrupted: it goes on
    refuse_prune(upto, found, places([upto.hash], connection), gaps(connection))
    connection.execute("UPDATE start SET sequence = ?, hash = ?", (upto.sequence, upto.hash))


def _remove(connection: sqlite3.Connection) -> int:
    """The next records before the start, oldest first. How many."""
    chosen = """FROM audit WHERE sequence IN (SELECT sequence FROM audit
        WHERE sequence <= (SELECT sequence FROM start) ORDER BY sequence LIMIT ?)"""
    limit = (REMOVED_AT_ONCE,)
    connection.execute(f"INSERT INTO removed SELECT hash, sequence {chosen}", limit)
    connection.execute(
        f"""INSERT OR IGNORE INTO removed SELECT substr(step.value, 1, 64), gap.sequence
            FROM (SELECT sequence, entry {chosen}) AS gap, json_each(gap.entry, '$.steps') AS step
            WHERE json_extract(gap.entry, '$.action') = 'gap'""",  # noqa: S608 - a constant
        limit,
    )
    return connection.execute(f"DELETE {chosen}", limit).rowcount


def page(after: int, connection: sqlite3.Connection) -> list[tuple[int, str, str, int, str]]:
    """The next rows after a sequence, as stored; what retention is removing is not there any more."""
    query = """
        SELECT sequence, hash, previous, format, entry FROM audit
        WHERE sequence > max(?, (SELECT sequence FROM start)) ORDER BY sequence LIMIT ?"""
    return connection.execute(query, (after, PAGE)).fetchall()


def _text(entry: AuditEntry) -> str:
    return canonical(entry_json(entry)).decode()


def record_of(sequence: int, hash: str, previous: str, format: int, entry: str) -> AuditRecord:
    """A stored row as a record. Raises Invalid when it is none."""
    try:
        content = entry_from(json.loads(entry))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Invalid(f"record {sequence} was changed: it is no audit entry any more ({error})") from error
    return AuditRecord(sequence=sequence, entry=content, previous=previous, hash=hash, format=format)
