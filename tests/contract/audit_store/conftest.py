"""Every audit store, made fresh for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentmetal.core.audit import AuditStore
from agentmetal.store.memory import MemoryAuditStore
from agentmetal.store.sqlite import SqliteAuditStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AuditStore]:
    made: AuditStore = (
        MemoryAuditStore() if request.param == "memory" else await SqliteAuditStore.open(tmp_path / "audit.db")
    )
    yield made
    await made.close()
