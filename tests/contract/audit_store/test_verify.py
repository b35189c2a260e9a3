"""Tampering with the real file is found, and the first wrong record is named."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.contract.audit_store.entries import entry

from agentmetal.core.audit import AuditRecord, Broken, Head, Verified, follow, verify
from agentmetal.store.sqlite import SqliteAuditStore

RECORDS = 10
Tamper = Callable[[sqlite3.Connection], object]
COLUMNS = "sequence, hash, previous, format, entry"


def edit(sequence: int, change: Callable[[dict[str, object]], object]) -> Tamper:
    def tamper(connection: sqlite3.Connection) -> None:
        (text,) = connection.execute("SELECT entry FROM audit WHERE sequence = ?", (sequence,)).fetchone()
        content = json.loads(text)
        change(content)
        connection.execute("UPDATE audit SET entry = ? WHERE sequence = ?", (json.dumps(content), sequence))

    return tamper


def sql(*statements: str) -> Tamper:
    return lambda connection: [connection.execute(statement) for statement in statements]


def forge(sequence: int) -> Tamper:
    """Insert a record that itself is right in every way, moving the later ones up."""

    def tamper(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE audit SET sequence = -sequence - 1 WHERE sequence >= ?", (sequence,))
        connection.execute("UPDATE audit SET sequence = -sequence WHERE sequence < 0")
        (previous,) = connection.execute("SELECT hash FROM audit WHERE sequence = ?", (sequence - 1,)).fetchone()
        record = follow(Head(sequence=sequence - 1, hash=previous), entry(99))
        (text,) = connection.execute("SELECT entry FROM audit WHERE sequence = 1").fetchone()
        content = json.dumps({**json.loads(text), "operation": "op-99"})
        connection.execute(
            f"INSERT INTO audit ({COLUMNS}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608 - a constant
            (record.sequence, record.hash, record.previous, record.format, content),
        )

    return tamper


async def tampered(path: Path, tamper: Tamper) -> SqliteAuditStore:
    store = await SqliteAuditStore.open(path)
    for number in range(1, RECORDS + 1):
        await store.append(entry(number))
    await store.close()
    connection = sqlite3.connect(path)
    triggers = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    for name in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    tamper(connection)
    connection.commit()
    connection.close()
    return await SqliteAuditStore.open(path)


@pytest.mark.parametrize(
    ("tamper", "first_wrong", "what"),
    [
        pytest.param(edit(4, lambda e: e.update(actor="mallory")), 4, "changed", id="changed actor"),
        pytest.param(edit(1, lambda e: e.update(outcome="Failed")), 1, "changed", id="changed first"),
        pytest.param(edit(10, lambda e: e.update(duration_ms=13)), 10, "changed", id="changed newest"),
        pytest.param(edit(5, lambda e: e.update(steps=["other"])), 5, "changed", id="changed steps"),
        pytest.param(edit(5, lambda e: e.pop("actor")), 5, "no audit entry", id="field removed"),
        pytest.param(edit(5, lambda e: e.update(more=1)), 5, "no audit entry", id="field added"),
        pytest.param(edit(5, lambda e: e.update(action="undo")), 5, "no audit entry", id="unknown action"),
        pytest.param(edit(5, lambda e: e.update(duration_ms=2**70)), 5, "changed", id="number without canonical form"),
        pytest.param(edit(5, lambda e: e.update(steps=None)), 5, "no audit entry", id="steps of another type"),
        pytest.param(sql("UPDATE audit SET hash = 'f00' WHERE sequence = 6"), 6, "changed", id="changed hash"),
        pytest.param(sql("UPDATE audit SET format = 2 WHERE sequence = 6"), 6, "changed", id="changed format"),
        pytest.param(
            sql("UPDATE audit SET previous = 'f00' WHERE sequence = 6"), 6, "not follow", id="changed previous"
        ),
        pytest.param(sql("DELETE FROM audit WHERE sequence = 3"), 3, "missing", id="removed"),
        pytest.param(sql("DELETE FROM audit WHERE sequence = 1"), 1, "missing", id="first removed"),
        pytest.param(
            sql("DELETE FROM audit WHERE sequence = 3", "UPDATE audit SET sequence = sequence - 1 WHERE sequence > 3"),
            3,
            "not follow",
            id="removed and closed up",
        ),
        pytest.param(forge(7), 8, "not follow", id="inserted"),
        pytest.param(
            sql(
                "UPDATE audit SET sequence = -1 WHERE sequence = 4",
                "UPDATE audit SET sequence = 4 WHERE sequence = 5",
                "UPDATE audit SET sequence = 5 WHERE sequence = -1",
            ),
            4,
            "not follow",
            id="reordered",
        ),
        pytest.param(sql("DELETE FROM audit WHERE sequence > 8"), 9, "op-10 saw", id="newest cut off"),
        pytest.param(sql("DELETE FROM audit"), 1, "op-10 saw", id="all cut off"),
    ],
)
async def test_the_first_wrong_record_is_named(tmp_path: Path, tamper: Tamper, first_wrong: int, what: str) -> None:
    untouched = Head()
    for number in range(1, RECORDS + 1):
        untouched = Head(sequence=number, hash=follow(untouched, entry(number)).hash)
    store = await tampered(tmp_path / "audit.db", tamper)
    found = await verify(store.records(), {untouched.hash: "op-10"})
    await store.close()
    assert isinstance(found, Broken)
    assert found.sequence == first_wrong
    assert what in found.what


async def test_an_untouched_file_is_whole(tmp_path: Path) -> None:
    store = await tampered(tmp_path / "audit.db", sql())
    head = await store.head()
    assert await verify(store.records(), {head.hash: "op-10"}) == Verified(records=RECORDS, head=head.hash)
    await store.close()


async def test_a_trail_written_anew_is_whole_in_itself_but_not_by_its_anchors() -> None:
    async def rewritten() -> AsyncIterator[AuditRecord]:
        head = Head()
        for number in range(1, 4):
            record = follow(head, entry(number, reasoning="a nicer story"))
            head = Head(sequence=record.sequence, hash=record.hash)
            yield record

    assert isinstance(await verify(rewritten(), {}), Verified)
    seen = follow(Head(), entry(1)).hash
    found = await verify(rewritten(), {seen: "op-1"})
    assert isinstance(found, Broken)
    assert "op-1 saw: its newest records are missing, or it was written anew" in found.what
