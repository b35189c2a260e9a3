"""The audit trail in PostgreSQL: for two replicas, or where a database is kept anyway. Built by `storing`.

Writes share commits (`batches`): one transaction takes the trail's lock, reads the head inside, and is durable when it
returns. `UNIQUE (previous)` and the triggers of `sql/` keep two writers from ever forking the chain.

A commit whose answer was lost is neither repeated nor forgotten: whoever takes the lock afterwards finds the record or
knows that the transaction failed. While the server is away calls raise Unavailable; the pool connects again by itself.

A server that has failed over to a standby may lack the newest records. What this process has seen committed is looked
for in every transaction; when it is gone, a gap record says so before anything else is written (`core.audit`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from agentmetal.core.audit import (
    AuditEntry,
    AuditRecord,
    Head,
    entry_from,
    entry_json,
    follow,
    gap_entries,
    held_by,
    unacknowledged,
)
from agentmetal.core.canonical import canonical
from agentmetal.core.clock import Clock, SystemClock, rfc3339
from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.store.batches import GroupCommit
from agentmetal.store.libpq import Target, target, translated, within
from agentmetal.store.retention import refuse_prune
from agentmetal.store.statements import migrations, statements

PAGE = 2000
"""Records read at once while streaming."""
REMOVED_AT_ONCE = 5000
"""Records that one transaction of retention removes: others write in between."""
CONNECTIONS = 4
WAIT_SECONDS = 5.0
"""For a connection, while the server is away."""
DEADLINE = 10.0
"""Of one transaction or read; a migration may take longer."""
DOUBT_SECONDS = 15.0
"""How long the end of a commit is looked for whose answer was lost."""
DOUBT_LOOK = 0.2

T = TypeVar("T")
Connection = AsyncConnection[tuple[Any, ...]]
log = logging.getLogger("agentmetal.store")


@dataclass(kw_only=True)
class Transaction:
    """What the jobs of a batch run in."""

    connection: Connection
    head: Head
    rows: list[tuple[int, str, str, int, str]] = field(default_factory=list)

    def append(self, entry: AuditEntry) -> AuditRecord:
        """Add to the chain; sent with the others of the batch."""
        record = follow(self.head, entry)
        text = canonical(entry_json(entry)).decode()
        self.rows.append((record.sequence, record.hash, record.previous, record.format, text))
        self.head = Head(sequence=record.sequence, hash=record.hash)
        return record

    async def flush(self) -> None:
        """Send what was appended."""
        if self.rows:
            async with self.connection.cursor() as cursor:
                await cursor.executemany(statements()["append"], self.rows)


Job = Callable[[Transaction], Awaitable[Any]]


@dataclass(kw_only=True)
class _Attempt:
    """One try to commit a batch."""

    results: list[Any] = field(default_factory=list)
    head: Head = field(default_factory=Head)
    wrote: bool = False
    """Did it append? Its newest record then tells whether it was committed."""
    sent: bool = False
    """Was COMMIT sent? Then its end is in doubt until it is known."""


async def _checked(connection: Connection) -> None:
    """Does it still answer? The pool itself would wait for a frozen server for ever."""
    async with within(connection, WAIT_SECONDS):
        await AsyncConnectionPool.check_connection(connection)


class PostgresTrail:
    """The trail read from its database, also from a standby, and by a role that may only read."""

    def __init__(self, place: Target) -> None:
        self.place = place
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            place.conninfo,
            min_size=1,
            max_size=CONNECTIONS,
            open=False,
            timeout=WAIT_SECONDS,
            reconnect_timeout=2.0,
            configure=_configure,
            check=_checked,
            kwargs={"autocommit": True},
            name="audit",
        )

    @classmethod
    async def look(cls, url: str) -> PostgresTrail:
        """Open for reading. Raises Invalid for a URL that may not be used, Unavailable."""
        trail = cls(target(url))
        await trail._begin()
        return trail

    async def _begin(self) -> None:
        """Know first, in the server's own words, why it cannot be used; the pool would only say that time is up."""
        await prepare(self.place, migrate=False)
        await self._pool.open()

    async def head(self) -> Head:
        """The newest record; the start when there is none after it."""
        sequence, hash, _ = await self._one("head", {"seen": Head().hash})
        return Head(sequence=sequence, hash=hash)

    async def start(self) -> Head:
        """What the first record that is still there follows."""
        sequence, hash = await self._one("start")
        return Head(sequence=sequence, hash=hash)

    async def places(self, hashes: Collection[str]) -> dict[str, int]:
        """Where the trail accounts for these hashes."""
        return dict(await self._all("places", (list(hashes),)))

    async def gaps(self) -> tuple[AuditRecord, ...]:
        """The gap records that nobody has acknowledged, oldest first."""
        return unacknowledged(_record(*row) for row in await self._all("gaps"))

    async def records(self, *, after: int = 0) -> AsyncIterator[AuditRecord]:
        """All records after that sequence, oldest first. Raises Invalid at one that is not what a store writes."""
        while rows := await self._all("page", (after, PAGE)):
            for row in rows:
                yield _record(*row)
            after = rows[-1][0]

    async def used_by(self, digest: str) -> str:
        """The operation that used a digest; empty when none has."""
        return str((await self._one("used_by", (digest,)))[0])

    async def highest_number(self, uid: str) -> int:
        """The highest operation number ever noted for an object; 0 when none."""
        return int((await self._one("highest_number", (uid,)))[0])

    async def close(self) -> None:
        """Let the connections go."""
        await self._pool.close()

    async def _one(self, name: str, values: Any = ()) -> tuple[Any, ...]:
        return (await self._all(name, values))[0]

    async def _all(self, name: str, values: Any = ()) -> list[tuple[Any, ...]]:
        self._usable()
        try:
            async with self._connected() as connection:
                return await (await connection.execute(statements()[name], values)).fetchall()
        except psycopg.Error as error:
            raise await self._explained(error) from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """A connection that answered just now, for as long as `DEADLINE`."""
        async with self._pool.connection() as connection, within(connection, DEADLINE):
            yield connection

    async def _explained(self, error: psycopg.Error) -> Exception:
        """The pool only knows that it has waited long enough: why is asked for once more."""
        if isinstance(error, PoolTimeout):
            try:
                await (await _connect(self.place)).close()
            except psycopg.Error as reason:
                error = reason
        return translated(error, self.place)

    def _usable(self) -> None:
        if self._pool.closed:
            raise Unavailable(f"the audit store {self.place.shown!r} is closed: open it again")


class PostgresAuditStore(PostgresTrail):
    """`core.audit.AuditStore` in a database. Make it with `open`."""

    def __init__(self, place: Target, clock: Clock | None = None) -> None:
        super().__init__(place)
        self.commits = 0
        """Transactions so far: what group commit saves can be seen."""
        self._clock = clock or SystemClock()
        self.seen = Head()
        """The newest record that this process has seen committed; genesis before the first."""
        self._writer: GroupCommit[Job] = GroupCommit(self._commit)

    @classmethod
    async def open(cls, url: str) -> PostgresAuditStore:
        """Open the database and make its tables where they are missing. Raises Invalid, Unavailable."""
        store = cls(target(url))
        await store._begin()
        store._writer.start()
        return store

    async def _begin(self) -> None:
        await prepare(self.place, migrate=True)
        await self._pool.open()

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """Add to the chain; durable when it returns."""
        canonical(entry_json(entry))  # what cannot be hashed fails here, alone, and not the batch it would be in

        async def job(transaction: Transaction) -> AuditRecord:
            return transaction.append(entry)

        record: AuditRecord = await self._stored(job)
        return record

    async def use_digest(self, digest: str, operation: str) -> bool:
        """Mark a digest as used by an operation, for ever. False when another operation used it."""

        async def job(transaction: Transaction) -> bool:
            await transaction.connection.execute(statements()["use_digest"], (digest, operation))
            cursor = await transaction.connection.execute(statements()["used_by"], (digest,))
            return await cursor.fetchone() == (operation,)

        return bool(await self._stored(job))

    async def note_number(self, uid: str, number: int) -> None:
        """Remember an operation number of an object."""

        async def job(transaction: Transaction) -> None:
            await transaction.connection.execute(statements()["note_number"], (uid, number))

        await self._stored(job)

    async def next_epoch(self, at_least: int) -> int:
        """A leader epoch that is higher than any before and at least this; durable when it returns."""

        async def job(transaction: Transaction) -> int:
            cursor = await transaction.connection.execute(statements()["next_epoch"], (at_least,))
            return int((await cursor.fetchall())[0][0])

        return int(await self._stored(job))

    async def prune(self, upto: Head) -> int:
        """Remove that record and all before it; their hashes, used digests and numbers are kept. How many went."""
        if (found := await self.start()) != upto:  # else it was interrupted, and goes on
            refuse_prune(upto, found, await self.places([upto.hash]), await self.gaps())

            async def begin(transaction: Transaction) -> None:
                await transaction.connection.execute(statements()["start_after"], (upto.sequence, upto.hash))

            await self._stored(begin)

        async def remove(transaction: Transaction) -> int:
            cursor = await transaction.connection.execute(statements()["remove"], (REMOVED_AT_ONCE,))
            return int((await cursor.fetchall())[0][0])

        went = 0
        while count := await self._stored(remove):
            went += count
        return went

    async def close(self) -> None:
        """Store what waits, then let the connections go."""
        if await self._writer.close():
            await super().close()

    async def _stored(self, job: Job) -> Any:
        self._usable()
        return await self._writer.stored(job)

    def _usable(self) -> None:
        if not self._writer.open:
            raise Unavailable(f"the audit store {self.place.shown!r} is closed: open it again")

    async def _commit(self, jobs: list[Job]) -> list[Any]:
        """Commit a batch, once. A commit whose answer was lost is looked for until its end is known, or time is up."""
        doubt: _Attempt | None = None
        until = asyncio.get_running_loop().time() + DOUBT_SECONDS
        while True:
            attempt = _Attempt()
            try:
                async with self._connected() as connection:
                    return await self._attempted(connection, jobs, attempt, doubt)
            except psycopg.Error as error:
                doubt = attempt if attempt.sent else doubt
                if doubt is None or asyncio.get_running_loop().time() > until:
                    raise await self._explained(error) from error
                log.warning("the answer to a commit was lost; its end is looked for: %s", translated(error, self.place))
                await asyncio.sleep(DOUBT_LOOK)

    async def _attempted(
        self, connection: Connection, jobs: list[Job], attempt: _Attempt, doubt: _Attempt | None
    ) -> list[Any]:
        await connection.execute(statements()["begin"])
        await connection.execute(statements()["lock"])  # the transaction in doubt has ended when we have it
        if doubt and doubt.wrote and await self._holds(connection, doubt.head):
            await connection.execute(statements()["commit"])
            return self._done(doubt)
        transaction = Transaction(connection=connection, head=await self._head(connection))
        attempt.results = [await job(transaction) for job in jobs]
        await transaction.flush()
        attempt.head, attempt.wrote, attempt.sent = transaction.head, bool(transaction.rows), True
        await connection.execute(statements()["commit"])
        return self._done(attempt)

    def _done(self, attempt: _Attempt) -> list[Any]:
        self.commits += 1
        self.seen = attempt.head
        return attempt.results

    async def _head(self, connection: Connection) -> Head:
        """The newest record. Raises Unavailable, with a gap record written, when what was seen before is gone."""
        cursor = await connection.execute(statements()["head"], {"seen": self.seen.hash})
        sequence, hash, known = (await cursor.fetchall())[0]
        head = Head(sequence=sequence, hash=hash)
        if known:
            return head
        transaction = Transaction(connection=connection, head=head)
        lost = {self.seen.hash: f"this operator, as record {self.seen.sequence}"}
        (gap,) = [transaction.append(entry) for entry in gap_entries(head, lost, rfc3339(self._clock.now()))]
        await transaction.flush()
        await connection.execute(statements()["commit"])
        log.error("%s", held_by(gap))
        self.seen = transaction.head
        raise Unavailable(held_by(gap))

    async def _holds(self, connection: Connection, head: Head) -> bool:
        cursor = await connection.execute(statements()["places"], ([head.hash],))
        return bool(await cursor.fetchall())


async def _connect(place: Target) -> Connection:
    return await AsyncConnection.connect(place.conninfo, autocommit=True)


async def _configure(connection: Connection) -> None:
    for statement in statements()["session"].split(b";\n"):
        await connection.execute(statement)


async def prepare(place: Target, *, migrate: bool) -> None:
    """Look whether the database may be used, and bring its tables up to date. Two replicas may do so at once.

    Raises Unavailable; also when the tables are of a newer program, or missing and not to be made.
    """
    try:
        connection = await _connect(place)
        try:
            stored, newest = await _version(connection), max(migrations())
            if stored < newest and migrate:
                await _migrate(connection)
                stored = newest
            await _warn_of_fsync(connection, place)
        finally:
            await connection.close()
    except psycopg.Error as error:
        raise translated(error, place) from error
    if stored != newest:
        todo = "run the newer program that wrote it" if stored > newest else "start the operator once, it makes them"
        raise Unavailable(
            f"the audit store {place.shown!r} has tables of version {stored}, this program knows {newest}: {todo}"
        )


async def _version(connection: Connection) -> int:
    cursor = await connection.execute(statements()["has_versions"])
    if await cursor.fetchone() == (False,):
        return 0
    return int((await (await connection.execute(statements()["version"])).fetchall())[0][0])


async def _migrate(connection: Connection) -> None:
    """All that is missing, in one transaction, under a lock of its own: who comes second finds nothing to do."""
    await connection.execute(statements()["begin"])
    await connection.execute(statements()["lock_migrations"])
    await connection.execute(statements()["make_versions"])
    stored = await _version(connection)
    for number, script in migrations().items():
        if number > stored:
            await connection.execute(script)
            await connection.execute(statements()["migrated"], (number,))
    await connection.execute(statements()["commit"])


async def _warn_of_fsync(connection: Connection, place: Target) -> None:
    if await (await connection.execute(statements()["fsync"])).fetchone() == ("off",):
        log.warning("the server of %r runs with fsync=off: what it has confirmed is lost with its power", place.shown)


def _record(sequence: int, hash: str, previous: str, format: int, entry: str) -> AuditRecord:
    """A stored row as a record. Raises Invalid when it is none."""
    try:
        content = entry_from(json.loads(entry))
    except (ValueError, TypeError, KeyError) as error:
        raise Invalid(f"record {sequence} was changed: it is no audit entry any more ({error})") from error
    return AuditRecord(sequence=sequence, entry=content, previous=previous, hash=hash, format=format)
