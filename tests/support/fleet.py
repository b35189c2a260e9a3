"""A fleet of real machines for tests, in a directory of its own, with the images of the developer's cache.

Use it by importing the fixture into a conftest: `from tests.support.fleet import nspawn`. One fleet serves the whole
run; it belongs to no event loop. Name machines uniquely (`new_name`) and leave them: they go with the fleet.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentmetal.core.machine import Server, ServerProvider, ServerState
from agentmetal.providers.nspawn import cgroups, images, network
from agentmetal.providers.nspawn.provider import NspawnProvider

BOOTS_WITHIN = 30.0


@pytest.fixture(scope="session")
def nspawn() -> Iterator[NspawnProvider]:
    """A provider of real machines. Without what they need a test fails and says so; it never skips."""
    with tempfile.TemporaryDirectory(prefix="agentmetal-fleet-") as directory:
        provider = _prepared(Path(directory) / "machines")
        try:
            yield provider
        finally:
            _run(provider.fleet.down())
            assert leftovers(provider) == []


@asynccontextmanager
async def temporary_fleet() -> AsyncIterator[NspawnProvider]:
    """A fleet of one's own, for tests that take a whole one down."""
    with tempfile.TemporaryDirectory(prefix="agentmetal-fleet-") as directory:
        provider = NspawnProvider(Path(directory) / "machines")
        try:
            yield provider
        finally:
            await provider.fleet.down()


def new_name() -> str:
    """A machine's name that nobody else has."""
    return f"t-{uuid.uuid4().hex[:10]}"


async def becomes(provider: ServerProvider, server_id: str, state: ServerState, within: float = BOOTS_WITHIN) -> Server:
    """The server, once it is in that state. A provider has nothing to wait on: it is asked again."""
    async with asyncio.timeout(within):
        while (server := await provider.get_server(server_id)).state is not state:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    return server


async def until(true: Callable[[], bool], within: float = 10.0) -> None:
    """Wait for something outside of this process."""
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def leftovers(provider: NspawnProvider) -> list[str]:
    """Everything of a fleet that the kernel still has: processes, groups, networks, mounts in any process' view."""
    fleet = provider.fleet
    mine = (fleet.id, str(fleet.directory))
    groups = [str(path) for path in (*cgroups.ROOT.glob(fleet.id), *cgroups.ROOT.glob(f"*/{fleet.id}"))]
    mounts = {line for path in Path("/proc").glob("[0-9]*/mounts") for line in _lines(path) if mine[1] in line}
    processes = [path for path in Path("/proc").glob("[0-9]*/cmdline") if any(word in _text(path) for word in mine)]
    containers = [str(path) for path in Path("/run/systemd/nspawn").glob(f"*/{fleet.id}*")]
    return [*groups, *containers, *network.namespaces(fleet.id), *sorted(mounts), *(_text(path) for path in processes)]


def _prepared(directory: Path) -> NspawnProvider:
    missing = [program for program in ("systemd-nspawn", "mmdebstrap", "ip") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        what = "root" if os.geteuid() != 0 else ", ".join(missing)
        pytest.fail(f"machines need {what}: run as root, apt-get install systemd-container mmdebstrap", pytrace=False)
    provider = NspawnProvider(directory)
    for name in images.RECIPES:
        _run(provider.fleet.ensure_image(name, print))
    return provider


def _run(work: Coroutine[Any, Any, None]) -> None:
    """In a thread: a loop may run in this one, for the fixture is also asked for in the middle of a test."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # the process ended while we looked
