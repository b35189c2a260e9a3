"""What the SQLite store promises beyond the contract: durability, group commit, one process, recovery."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.audit_store.entries import entry

from agentmetal.core.audit import Verified, verify
from agentmetal.core.errors import AgentMetalError, Invalid, Unavailable
from agentmetal.store.memory import MemoryAuditStore
from agentmetal.store.sqlite import SqliteAuditStore, schema, translated

APPEND_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
from agentmetal.store.sqlite import SqliteAuditStore
from tests.contract.audit_store.entries import entry
async def main():
    store = await SqliteAuditStore.open(Path(sys.argv[1]))
    await asyncio.gather(*(store.append(entry(n)) for n in range(20)))
    await store.use_digest("sha256:abc", "op-1")
    await store.next_epoch(41)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a disk that can be filled needs root: it is a tmpfs of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "agentmetal-test", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, env=environment
    )


async def test_everything_is_still_there_after_a_kill(path: Path) -> None:
    died = run(APPEND_AND_DIE, str(path))
    assert died.returncode == -9, died.stderr
    store = await SqliteAuditStore.open(path)
    assert isinstance(await verify(store.records(), {}), Verified)
    assert (await store.head()).sequence == 20
    assert not await store.use_digest("sha256:abc", "op-2")
    assert await store.next_epoch(1) == 42
    await store.close()


async def test_the_file_is_in_wal_mode_and_for_the_owner_only(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    await store.append(entry())
    with sqlite3.connect(path) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    reader.close()
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    await store.close()


async def test_appends_that_arrive_together_share_commits(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    await asyncio.gather(*(store.append(entry(number)) for number in range(200)))
    assert store.commits <= 2
    await store.close()


async def test_a_lone_append_does_not_wait_for_company(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    for number in range(3):
        await store.append(entry(number))
    assert store.commits == 3
    await store.close()


async def test_what_waits_is_stored_before_closing(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    appends = [asyncio.create_task(store.append(entry(number))) for number in range(10)]
    await asyncio.sleep(0)
    await store.close()
    assert [record.sequence for record in await asyncio.gather(*appends)] == list(range(1, 11))


async def test_a_caller_that_gives_up_harms_nobody(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    impatient = asyncio.create_task(store.append(entry(1)))
    patient = asyncio.create_task(store.append(entry(2)))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).sequence == 2
    await store.close()


async def test_long_trails_are_read_in_pages(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    await asyncio.gather(*(store.append(entry(number)) for number in range(1203)))
    assert [record.sequence async for record in store.records(after=3)] == list(range(4, 1204))
    await store.close()


async def test_a_second_process_is_refused_with_a_sentence(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    second = run(
        "import asyncio, sys; from pathlib import Path; from agentmetal.store.sqlite import SqliteAuditStore\n"
        "asyncio.run(SqliteAuditStore.open(Path(sys.argv[1])))",
        str(path),
    )
    assert second.returncode == 1
    assert f"is in use by process {os.getpid()}: end that operator, or set another store path" in second.stderr
    await store.append(entry())
    await store.close()


async def test_a_closed_file_can_be_opened_again(path: Path) -> None:
    first = await SqliteAuditStore.open(path)
    await first.append(entry())
    await first.close()
    second = await SqliteAuditStore.open(path)
    assert (await second.append(entry())).sequence == 2
    await second.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET entry = '{}' WHERE sequence = 1",
        "DELETE FROM audit WHERE sequence = 2",
        "INSERT OR REPLACE INTO audit (sequence, hash, previous, format, entry) VALUES (1, 'x', 'y', 1, '{}')",
        "INSERT INTO audit (sequence, hash, previous, format, entry) VALUES (4, 'x', 'y', 1, '{}')",
        "INSERT INTO audit (sequence, hash, previous, format, entry) VALUES (3, 'x', 'y', 1, '{}')",
        "UPDATE used_digests SET operation = 'op-2'",
        "DELETE FROM used_digests",
        "UPDATE numbers SET number = 1",
        "DELETE FROM numbers",
        "UPDATE epoch SET epoch = 1",
        "DELETE FROM epoch",
    ],
)
async def test_the_database_itself_is_append_only(path: Path, statement: str) -> None:
    store = await SqliteAuditStore.open(path)
    await store.append(entry(1))
    await store.append(entry(2))
    await store.use_digest("sha256:abc", "op-1")
    await store.note_number("uid-1", 5)
    await store.next_epoch(5)
    other = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match=r"append-only|only grow"):
        other.execute(statement)
    other.close()
    await store.close()


async def test_columns_for_searching_say_what_the_entry_says(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    await store.append(entry(1))
    await store.close()
    reader = sqlite3.connect(path)
    row = reader.execute("SELECT resource, operation, timestamp, action FROM audit").fetchone()
    plan = reader.execute("EXPLAIN QUERY PLAN SELECT * FROM audit WHERE resource = 'x'").fetchone()
    reader.close()
    assert row == ("Instance shop/web-1 (uid-1)", "op-1", "2026-01-01T00:00:00Z", "execute")
    assert "audit_resource" in plan[3]


async def test_a_file_of_a_newer_program_is_left_alone(path: Path) -> None:
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(Unavailable, match=r"version 99.*run the newer program"):
        await SqliteAuditStore.open(path)


def test_schema_versions_are_numbered_without_a_gap() -> None:
    assert list(schema()) == list(range(1, len(schema()) + 1))


async def test_a_full_disk_is_said_and_gone_when_there_is_space_again(small_disk: Path) -> None:
    store = await SqliteAuditStore.open(small_disk / "audit.db")
    written = 0
    with pytest.raises(Unavailable, match="its disk is full: free space there, the store goes on by itself"):
        while True:
            await store.append(entry(written, reasoning="x" * 4000))
            written += 1
    with pytest.raises(Unavailable, match="full"):
        await store.append(entry(0, reasoning="x" * 4000))
    assert written > 10
    assert (await store.head()).sequence == written
    remount(small_disk, "size=8m")
    assert (await store.append(entry())).sequence == written + 1
    assert await verify(store.records(), {}) == Verified(records=written + 1, head=(await store.head()).hash)
    await store.close()


async def test_a_file_locked_by_another_program_is_said_and_gone_when_it_ends(path: Path) -> None:
    store = await SqliteAuditStore.open(path)
    await store.append(entry())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="another program keeps it locked"):
        await store.append(entry())
    assert (await store.head()).sequence == 1
    other.execute("ROLLBACK")
    other.close()
    assert (await store.append(entry())).sequence == 2
    await store.close()


async def test_a_read_only_disk_is_said_and_gone_when_it_is_writable(small_disk: Path) -> None:
    store = await SqliteAuditStore.open(small_disk / "audit.db")
    await store.append(entry())
    await store.close()
    remount(small_disk, "ro")
    with pytest.raises(Unavailable, match="check that its directory is writable"):
        await SqliteAuditStore.open(small_disk / "audit.db")
    remount(small_disk, "rw")
    store = await SqliteAuditStore.open(small_disk / "audit.db")
    assert (await store.append(entry())).sequence == 2
    await store.close()


@pytest.fixture
def letter(path: Path) -> Path:
    path.write_text("something else entirely, and long enough to be looked at" * 100)
    return path


async def test_a_file_that_is_no_database_is_said(letter: Path) -> None:
    with pytest.raises(Unavailable, match="is not an audit file of ours"):
        await SqliteAuditStore.open(letter)


def descendants(error: type[sqlite3.Error]) -> set[type[sqlite3.Error]]:
    return {error}.union(*(descendants(child) for child in error.__subclasses__()))


@pytest.mark.parametrize("error", sorted(descendants(sqlite3.Error), key=str))
def test_every_exception_of_sqlite_becomes_one_of_ours(error: type[sqlite3.Error], path: Path) -> None:
    ours = translated(error("what sqlite says"), path)
    assert isinstance(ours, Unavailable)
    assert str(path) in ours.message
    assert "what sqlite says" in ours.message


def test_every_failure_of_the_disk_says_what_to_do(path: Path) -> None:
    for name in ("FULL", "BUSY", "LOCKED", "READONLY", "PERM", "CANTOPEN", "IOERR", "CORRUPT", "NOTADB", "NOMEM"):
        error = sqlite3.OperationalError(f"SQLITE_{name}")
        error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
        ours = translated(error, path)
        assert isinstance(ours, Unavailable), name
        assert "this is a bug" not in ours.message, name


def test_extended_codes_are_understood(path: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    assert "its disk fails" in translated(error, path).message


def test_a_refusal_by_a_trigger_is_the_callers_mistake(path: Path) -> None:
    error = sqlite3.IntegrityError("the audit trail is append-only")
    error.sqlite_errorcode = sqlite3.SQLITE_CONSTRAINT_TRIGGER
    assert isinstance(translated(error, path), Invalid)


async def test_the_fake_fails_like_a_full_disk_when_told() -> None:
    store = MemoryAuditStore()
    await store.append(entry())
    store.unavailable = "the disk is full"
    for attempt in (store.append(entry()), store.use_digest("d", "o"), store.note_number("u", 1), store.next_epoch(1)):
        with pytest.raises(AgentMetalError, match="the disk is full"):
            await attempt
    store.unavailable = ""
    assert (await store.append(entry())).sequence == 2
