"""What the PostgreSQL store promises beyond the contract: durability, no fork, recovery, secrecy, its errors."""

import asyncio
import logging
from itertools import count
from pathlib import Path

import psycopg
import psycopg_pool
import pytest
from psycopg import errors
from tests.contract.audit_store.entries import entry
from tests.support.postgres import PASSWORD, Server

from agentmetal.core.audit import GENESIS, Head, Verified, verify
from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.store.libpq import _BUG, _CLASSES, _REFUSED, target, translated
from agentmetal.store.postgres import PostgresAuditStore, PostgresTrail
from agentmetal.store.statements import migrations, statements

FAR = "postgresql://me:secret-word@db.example.com/trail"
PLACE = target(f"{FAR}?sslmode=verify-full")


async def test_appends_that_arrive_together_share_commits(database: str) -> None:
    store = await PostgresAuditStore.open(database)
    await asyncio.gather(*(store.append(entry(number)) for number in range(200)))
    assert store.commits <= 2
    await store.close()


async def test_two_replicas_that_start_at_once_make_the_tables_once(database: str) -> None:
    stores = await asyncio.gather(*(PostgresAuditStore.open(database) for _ in range(4)))
    await asyncio.gather(*(store.append(entry(number)) for number, store in enumerate(stores)))
    assert {(await store.head()).sequence for store in stores} == {4}
    for store in stores:
        await store.close()


async def test_two_writers_never_fork_the_chain(database: str) -> None:
    first, second = await PostgresAuditStore.open(database), await PostgresAuditStore.open(database)
    for turn in range(5):
        await asyncio.gather(*(store.append(entry(turn)) for store in (first, second) for _ in range(10)))
    assert await verify(first.records(), {}) == Verified(records=100, head=(await second.head()).hash)
    await first.close()
    await second.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET entry = '{}' WHERE sequence = 1",
        "DELETE FROM audit WHERE sequence = 2",
        "TRUNCATE audit",
        "TRUNCATE audit CASCADE",
        "INSERT INTO audit (sequence, hash, previous, format, entry) VALUES (4, 'x', 'y', 1, '{}')",
        "INSERT INTO audit (sequence, hash, previous, format, entry) VALUES (3, 'x', 'y', 1, '{}')",
        "INSERT INTO audit (sequence, hash, previous, format, entry) SELECT 3, 'x', previous, 1, '{}' FROM audit",
        "UPDATE audit_start SET sequence = 2, hash = 'x'",
        "DELETE FROM audit_start",
        "UPDATE used_digests SET operation = 'op-2'",
        "DELETE FROM used_digests",
        "TRUNCATE used_digests",
        "UPDATE numbers SET number = 1",
        "UPDATE numbers SET uid = 'other'",
        "DELETE FROM numbers",
        "UPDATE epoch SET epoch = 1",
        "TRUNCATE epoch",
    ],
)
async def test_the_database_itself_is_append_only(postgres: Server, database: str, statement: str) -> None:
    store = await PostgresAuditStore.open(database)
    await store.append(entry(1))
    await store.append(entry(2))
    await store.use_digest("sha256:abc", "op-1")
    await store.note_number("uid-1", 5)
    await store.next_epoch(5)
    with pytest.raises(psycopg.errors.RestrictViolation, match=r"append-only|only grows"):
        postgres.execute(statement, database.split("/")[3].partition("?")[0])
    await store.close()


async def test_a_forked_record_is_refused_also_where_triggers_are_off(postgres: Server, database: str) -> None:
    store = await PostgresAuditStore.open(database)
    first = await store.append(entry(1))
    values = f"(9, 'x', '{first.previous}', 1, '{{}}')"
    fork = "SET session_replication_role = replica;"
    fork += f"INSERT INTO audit (sequence, hash, previous, format, entry) VALUES {values}"  # noqa: S608 - our own
    with pytest.raises(psycopg.errors.UniqueViolation, match="audit_previous_key"):
        postgres.execute(fork, database.split("/")[3].partition("?")[0])
    await store.close()


async def test_a_role_that_may_only_read_can_prove_the_trail(postgres: Server, database: str) -> None:
    store = await PostgresAuditStore.open(database)
    await store.append(entry(1))
    name = database.split("/")[3].partition("?")[0]
    for statement in (
        f"CREATE ROLE reader_{name} LOGIN PASSWORD 'r'",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}",
    ):
        postgres.execute(statement, name)
    url = f"postgresql://reader_{name}:r@/{name}?host={postgres.directory}"
    reader = await PostgresTrail.look(url)
    assert isinstance(await verify(reader.records(), {}), Verified)
    assert await reader.gaps() == ()
    await reader.close()
    writer = await PostgresAuditStore.open(url)
    with pytest.raises(Unavailable, match=r"lacks a right or a table: see docs/how-to/postgresql\.md"):
        await writer.append(entry(2))
    await writer.close()
    await store.close()


async def test_a_role_with_the_rights_of_the_page_can_do_the_operators_work_and_no_more(
    postgres: Server, database: str
) -> None:
    await (await PostgresAuditStore.open(database)).close()
    name = database.split("/")[3].partition("?")[0]
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "postgresql.md").read_text()
    grants = [line for line in page.splitlines() if line.startswith("GRANT ") and "operator_role" in line]
    postgres.execute(f"CREATE ROLE writer_{name} LOGIN PASSWORD 'w'")
    for grant in grants:
        postgres.execute(grant.replace("operator_role", f"writer_{name}"), name)
    url = f"postgresql://writer_{name}:w@/{name}?host={postgres.directory}"
    store = await PostgresAuditStore.open(url)
    record = await store.append(entry(1))
    assert await store.use_digest("sha256:abc", "op-1")
    await store.note_number("uid-1", 3)
    await store.note_number("uid-1", 5)
    assert (await store.highest_number("uid-1"), await store.next_epoch(4)) == (5, 4)
    assert await store.places([record.hash]) == {record.hash: 1}
    assert await store.gaps() == ()
    with pytest.raises(Unavailable, match="lacks a right"):
        await store.prune(Head(sequence=1, hash=record.hash))
    with psycopg.connect(url) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("DROP TRIGGER kept ON audit")
    await store.close()


async def test_tables_of_a_newer_program_are_left_alone(postgres: Server, database: str) -> None:
    await (await PostgresAuditStore.open(database)).close()
    postgres.execute("INSERT INTO agentmetal_version VALUES (99)", database.split("/")[3].partition("?")[0])
    with pytest.raises(Unavailable, match=r"version 99.*run the newer program"):
        await PostgresAuditStore.open(database)


async def test_reading_makes_no_tables(database: str) -> None:
    with pytest.raises(Unavailable, match=r"version 0.*start the operator once"):
        await PostgresTrail.look(database)


async def test_what_waits_is_stored_before_closing(database: str) -> None:
    store = await PostgresAuditStore.open(database)
    appends = [asyncio.create_task(store.append(entry(number))) for number in range(10)]
    await asyncio.sleep(0)
    await store.close()
    assert [record.sequence for record in await asyncio.gather(*appends)] == list(range(1, 11))


async def test_a_commit_whose_answer_was_lost_is_found_and_not_repeated(postgres: Server, database: str) -> None:
    """The session is ended right after each commit: the record is there, and nobody was told."""
    store = await PostgresAuditStore.open(database)
    cut = count()

    class Cut(PostgresAuditStore):
        def _done(self, attempt: object) -> list[object]:
            if next(cut) == 0:
                raise psycopg.OperationalError("the connection was lost after COMMIT")
            return super()._done(attempt)  # type: ignore[arg-type]  # only handed on

    await store.close()
    store = await Cut.open(database)
    record = await store.append(entry(1))
    assert (record.sequence, (await store.head()).hash) == (1, record.hash)
    assert [one.sequence async for one in store.records()] == [1]
    await store.close()


async def test_sessions_that_are_cut_heal_by_themselves(postgres: Server, database: str) -> None:
    store = await PostgresAuditStore.open(database)
    await store.append(entry(1))
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentmetal'")
    assert (await store.append(entry(2))).sequence == 2
    assert (await store.head()).sequence == 2
    await store.close()


async def test_it_waits_for_the_disk_whatever_the_server_says(postgres: Server, database: str) -> None:
    postgres.execute("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        store = await PostgresAuditStore.open(database)
        async with store._pool.connection() as connection:
            assert await (await connection.execute("SHOW synchronous_commit")).fetchone() == ("on",)
        await store.close()
    finally:
        postgres.execute("ALTER ROLE postgres RESET synchronous_commit")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (FAR, "without encryption: add sslmode=verify-full"),
        (f"{FAR}?sslmode=prefer", "without encryption"),
        (f"{FAR}?host=127.0.0.1,10.0.0.1", "'10.0.0.1' without encryption"),
        ("postgresql://me:secret-word@/trail", "names no host"),
        ("postgresql:///trail?service=secret-word", "names no host"),
        ("mysql://me:secret-word@db/trail", "is not one of PostgreSQL"),
        ("secret-word", "is not one of PostgreSQL"),
        ("postgresql://me:secret-word@db/trail?sslmoed=verify-full", "cannot be read"),
        ("postgresql://me:secret%zzword@db/trail", "cannot be read"),
    ],
)
def test_a_url_that_may_not_be_used_is_refused_without_repeating_it(url: str, said: str) -> None:
    with pytest.raises(Invalid, match=said) as refused:
        target(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        f"{FAR}?sslmode=verify-full&sslrootcert=/ca.pem",
        f"{FAR}?sslmode=require",
        f"{FAR}?sslmode=disable",
        "postgresql://me:secret-word@localhost/trail",
        "postgresql://me:secret-word@[::1]:5433/trail",
        "postgresql://me:secret-word@/trail?host=/run/postgresql",
    ],
)
def test_what_is_encrypted_local_or_said_plainly_is_used(url: str) -> None:
    place = target(url)
    assert "secret" not in repr(place)
    assert "secret" not in place.shown
    assert "password=secret-word" in place.conninfo


async def test_the_password_is_nowhere(postgres: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = postgres.url("nowhere").replace(PASSWORD, "wrong-canary")
    for url in (postgres.url("nowhere"), wrong, f"postgresql://me:{PASSWORD}@127.0.0.1:1/x", f"{postgres.url()}&x=y"):
        with pytest.raises((Unavailable, Invalid)) as failed:
            await PostgresAuditStore.open(url)
        chain = [failed.value, failed.value.__cause__, failed.value.__context__]
        assert not [error for error in chain if "canary" in f"{error!r} {error}"]
    store = await PostgresAuditStore.open(postgres.url())
    assert "canary" not in repr(store.place) + repr(vars(store.place)["shown"])
    await store.close()
    assert "canary" not in caplog.text


def _all_codes() -> list[type[psycopg.Error]]:
    kinds = (getattr(errors, name) for name in dir(errors))
    return sorted(
        {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, psycopg.Error) and kind.sqlstate},
        key=lambda kind: kind.sqlstate or "",
    )


def test_every_code_of_the_server_has_been_thought_of() -> None:
    unmapped = {kind.sqlstate for kind in _all_codes() if (kind.sqlstate or "")[:2] not in (*_CLASSES, *_REFUSED)}
    assert unmapped == set()


def descendants(error: type[Exception]) -> set[type[Exception]]:
    return {error}.union(*(descendants(child) for child in error.__subclasses__()))


@pytest.mark.parametrize("error", sorted(descendants(psycopg.Error), key=str))
def test_every_exception_of_psycopg_becomes_one_of_ours(error: type[psycopg.Error]) -> None:
    ours = translated(error("what the server says"), PLACE)
    assert isinstance(ours, Unavailable | Invalid)
    assert "'db.example.com/trail'" in ours.message
    assert "what the server says" in ours.message


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg_pool.PoolTimeout,
        psycopg_pool.PoolClosed,
        psycopg_pool.TooManyRequests,
        errors.DiskFull,
        errors.TooManyConnections,
        errors.AdminShutdown,
        errors.CannotConnectNow,
        errors.InvalidPassword,
        errors.ReadOnlySqlTransaction,
        errors.LockNotAvailable,
        errors.QueryCanceled,
        errors.InsufficientPrivilege,
        errors.UndefinedTable,
        errors.DataCorrupted,
        errors.IoError,
    ],
)
def test_what_may_happen_is_never_called_a_bug(error: type[psycopg.Error]) -> None:
    assert _BUG not in translated(error("x"), PLACE).message


def test_all_exceptions_of_the_pool_are_of_psycopg() -> None:
    kinds = [kind for name in dir(psycopg_pool) if isinstance(kind := getattr(psycopg_pool, name), type)]
    assert all(issubclass(kind, psycopg.Error) for kind in kinds if issubclass(kind, Exception))


def test_migrations_are_numbered_without_a_gap_and_statements_are_named_once() -> None:
    assert list(migrations()) == list(range(1, len(migrations()) + 1))
    assert all(text for text in statements().values())


def test_genesis_is_the_same_everywhere() -> None:
    assert Head().hash == GENESIS == "0" * 64
