"""The PostgreSQL server of the audit trail: killed under two writers, frozen, failed over to a standby that lags."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from tests.contract.audit_store.entries import entry
from tests.support.postgres import Server, server
from tests.support.seeds import ALL, seeded

from agentmetal.core.audit import (
    AuditRecord,
    Broken,
    Head,
    Verified,
    acknowledgement,
    entry_json,
    follow,
    verify,
)
from agentmetal.core.canonical import canonical
from agentmetal.core.errors import Unavailable
from agentmetal.store.postgres import PostgresAuditStore
from agentmetal.store.sqlite import SqliteAuditStore

NOW = "2026-01-02T00:00:00Z"
RECORDS = 1_000_000 if ALL else 20_000
KILLS = 5 if ALL else 2
VERIFY = """
import asyncio, sys, time
from pathlib import Path
from agentmetal.core.audit import verify
from agentmetal.store.postgres import PostgresTrail
from agentmetal.store.reader import AuditFile
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
async def main(where):
    trail = await PostgresTrail.look(where) if where.startswith("postgresql:") else AuditFile(Path(where))
    before, began = peak(), time.perf_counter()
    verdict = await verify(trail.records(), {})
    took = time.perf_counter() - began
    await trail.close()
    print(verdict.records, took, before, peak())
asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def durable() -> Iterator[Server]:
    """A server that waits for its disk: what it has confirmed must survive it."""
    with server(durable=True) as running:
        yield running


class Writer:
    """Appends one record after the other, and remembers what it was told."""

    def __init__(self, name: str, store: PostgresAuditStore) -> None:
        self.name = name
        self.store = store
        self.confirmed: list[AuditRecord] = []
        self.tried = 0

    async def write(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.tried += 1
            try:
                self.confirmed.append(await self.store.append(entry(0, reasoning=f"{self.name}/{self.tried}")))
            except Unavailable:
                await asyncio.sleep(0.05)


async def written(writers: list[Writer], more: int) -> None:
    """Until each has so many more records confirmed."""
    wanted = [len(writer.confirmed) + more for writer in writers]
    async with asyncio.timeout(60):
        while any(len(w.confirmed) < enough for w, enough in zip(writers, wanted, strict=True)):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)


@pytest.mark.timeout(240)
@seeded(daily=1, all=20)
async def test_kill_9_under_two_writers_forks_loses_and_repeats_nothing(seed: int, durable: Server) -> None:
    dice, stop = random.Random(seed), asyncio.Event()  # noqa: S311 - a story, told again by its seed
    writers = [Writer(name, await PostgresAuditStore.open(durable.url())) for name in ("first", "second")]
    tasks = [asyncio.create_task(writer.write(stop)) for writer in writers]
    for _ in range(KILLS):
        await written(writers, dice.randrange(1, 40))
        durable.kill()
        await asyncio.sleep(dice.random() * 0.3)
        await asyncio.to_thread(durable.start)
    await written(writers, 5)
    stop.set()
    await asyncio.gather(*tasks)
    records = [record async for record in writers[0].store.records()]
    assert isinstance(await verify(writers[0].store.records(), {}), Verified)
    assert await writers[0].store.gaps() == ()
    told = [record for writer in writers for record in writer.confirmed]
    assert [record for record in told if records[record.sequence - 1] != record] == []
    assert max(Counter(record.entry.reasoning for record in records).values()) == 1
    for writer in writers:
        await writer.store.close()


async def test_while_the_server_is_away_a_sentence_says_so_and_it_goes_on_by_itself(durable: Server) -> None:
    store = await PostgresAuditStore.open(durable.url())
    await store.append(entry(1))
    durable.stop()
    with pytest.raises(Unavailable, match="no connection: look whether its server runs"):
        await store.append(entry(2))
    with pytest.raises(Unavailable, match="no connection"):
        await store.head()
    await asyncio.to_thread(durable.start)
    assert (await store.append(entry(3))).entry == entry(3)
    assert isinstance(await verify(store.records(), {}), Verified)
    await store.close()


@pytest.mark.timeout(120)
async def test_a_frozen_server_is_unavailable_in_seconds(durable: Server) -> None:
    store = await PostgresAuditStore.open(durable.url())
    await store.append(entry(1))
    durable.freeze(frozen=True)
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            await store.append(entry(2))
        assert time.monotonic() - began < 45
    finally:
        durable.freeze(frozen=False)
    async with asyncio.timeout(30):
        while True:
            try:
                await store.append(entry(3))
                break
            except Unavailable:
                await asyncio.sleep(0.2)
    assert isinstance(await verify(store.records(), {}), Verified)
    await store.close()


async def test_a_failover_that_lost_the_newest_records_becomes_a_gap_before_anything_else(durable: Server) -> None:
    store = await PostgresAuditStore.open(durable.url())
    for number in range(10):
        await store.append(entry(number))
    durable.stop()
    durable.keep("standby")
    durable.start()
    lost = [await store.append(entry(number)) for number in range(10, 15)]
    durable.stop()
    durable.fail_over("standby")
    durable.start()
    with pytest.raises(Unavailable, match="the audit trail lost its newest records"):
        await store.append(entry(15))
    (gap,) = await store.gaps()
    assert (gap.sequence, await store.places([lost[-1].hash])) == (11, {lost[-1].hash: 11})
    assert isinstance(await verify(store.records(), {lost[-1].hash: "Operation shop/op-1"}), Broken)
    await store.append(acknowledgement(gap, "ann", "the standby was a second behind", NOW))
    assert (await store.append(entry(16))).sequence == 13
    told = await verify(store.records(), {lost[-1].hash: "Operation shop/op-1"})
    assert isinstance(told, Verified)
    assert (told.records, told.gaps) == (13, 1)
    await store.close()


def _chain() -> Iterator[tuple[int, str, str, int, str]]:
    """The rows of so many records, each following the one before it."""
    head = Head()
    for number in range(RECORDS):
        record = follow(head, entry(number))
        yield (record.sequence, record.hash, head.hash, record.format, canonical(entry_json(record.entry)).decode())
        head = Head(sequence=record.sequence, hash=record.hash)


async def _fill_file(path: Path) -> None:
    """In one transaction, through the triggers that every append meets."""
    await (await SqliteAuditStore.open(path)).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO audit (sequence, hash, previous, format, entry) VALUES (?, ?, ?, ?, ?)", _chain()
        )


async def _fill_database(url: str) -> None:
    """The same."""
    await (await PostgresAuditStore.open(url)).close()
    into = "COPY audit (sequence, hash, previous, format, entry) FROM STDIN"
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(into) as copy:
        for row in _chain():
            copy.write_row(row)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_verify_streams_long_trails_in_bounded_memory(
    kind: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with server() as running:
        where = str(tmp_path / "audit.db") if kind == "sqlite" else running.url()
        await (_fill_file(Path(where)) if kind == "sqlite" else _fill_database(where))
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", VERIFY, where], capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    records, took, before, peak = (float(part) for part in done.stdout.split())
    record_property("points", RECORDS)
    said = f"{kind}: {records / took:,.0f} records/s, peak {peak / 1024:.0f} MB, {(peak - before) / 1024:.0f} for it"
    print(said)  # noqa: T201 - a measurement, for docs/reliability.md
    assert records == RECORDS
    assert peak - before < 64 * 1024, "kilobytes: a page, not the trail"
