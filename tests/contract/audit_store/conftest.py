"""Every audit store, made fresh for each test."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.support.postgres import Server, server

from agentmetal.core.audit import AuditStore
from agentmetal.store.memory import MemoryAuditStore
from agentmetal.store.postgres import PostgresAuditStore
from agentmetal.store.sqlite import SqliteAuditStore

_databases = count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all of them."""
    with server() as running:
        yield running


@pytest.fixture
def database(postgres: Server) -> str:
    """The URL of an empty database."""
    name = f"trail_{next(_databases)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY wal_log")
    return postgres.url(name)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AuditStore]:
    made: AuditStore
    match request.param:
        case "memory":
            made = MemoryAuditStore()
        case "sqlite":
            made = await SqliteAuditStore.open(tmp_path / "audit.db")
        case _:
            made = await PostgresAuditStore.open(request.getfixturevalue("database"))
    yield made
    await made.close()
