"""Every test here runs twice: on the API in memory, and on a real API server with our CRDs, roles and rules."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.controlplane import binaries
from tests.support.kube_world import World, memory_world, prepare, real_world

from agentmetal.dev.controlplane import ControlPlane


@pytest.fixture(scope="session")
def prepared_plane() -> Iterator[ControlPlane]:
    """One control plane for all of them: each test has a namespace of its own."""
    with tempfile.TemporaryDirectory(prefix="agentmetal-control-plane-") as directory:
        plane = ControlPlane(Path(directory), binaries())
        try:
            _run(plane.up())
            _run(prepare(plane))
            yield plane
        finally:
            _run(plane.down())


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """In a thread: pytest-asyncio's loops are for tests."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, coroutine).result()


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.needs_control_plane)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The API under test."""
    if request.param == "memory":
        yield memory_world()
        return
    async with real_world(request.getfixturevalue("prepared_plane")) as made:
        yield made
