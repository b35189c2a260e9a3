"""One real control plane for all integration tests, and a namespace for each."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.support.controlplane import kubectl, temporary_control_plane

from agentmetal.dev.controlplane import ControlPlane


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_plane() -> AsyncIterator[ControlPlane]:
    """Shared by all tests of the run: never stop it, and never delete what is not yours."""
    async with temporary_control_plane() as plane:
        yield plane


@pytest.fixture
async def namespace(control_plane: ControlPlane) -> str:
    """A new namespace. It is not deleted (that takes 5 s): it goes with the control plane."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    await kubectl(control_plane, "create", "namespace", name)
    return name
