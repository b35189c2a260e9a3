"""How soon a standby leads when the leader gets SIGTERM, among settled objects. Used by `scale`, after the restart.

Two operators share one audit trail, so that must be a PostgreSQL database: without a server on this machine the line is
left out, with a sentence. The trail of the other measurements is none of theirs; what the cluster remembers of either
is forgotten in between, or it would miss records.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from tests.support import postgres
from tests.support.faults import free_port
from tests.support.trail import forget_heads

from agentmetal.dev.operator import KEPT_ENVIRONMENT
from bench.figures import Figure
from bench.objects import INSTANCE
from bench.processes import rss_mb
from bench.restart import idle
from bench.stage import Stage

BUDGET = 2.0
TIMES = 3
STARTS_WITHIN = 300.0
POLL = 0.02
LEASE = {
    "AGENTMETAL_LEASE_SECONDS": "3",
    "AGENTMETAL_RENEW_SECONDS": "2",
    "AGENTMETAL_RETRY_SECONDS": "0.5",
}


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One of the two."""

    process: Process
    port: int
    log: Path

    async def until(self, page: str, within: float = STARTS_WITHIN) -> None:
        """Wait until it answers 200 there: who takes over tells nobody."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not await _says(session, f"http://127.0.0.1:{self.port}{page}"):
                if self.process.returncode is not None or loop.time() > deadline:
                    raise RuntimeError(f"no {page} within {within:g} s: {self.log.read_text()[-500:]}")
                await asyncio.sleep(POLL)


async def measure(stage: Stage) -> Sequence[Figure]:
    """No operator runs afterwards."""
    if not _there_is_postgres():
        stage.say("no takeover is measured: there is no PostgreSQL server on this machine (`.ci/prepare packages`)")
        return ()
    await stage.stop_operator()
    admin = stage.client("admin")
    count = len((await admin.list(INSTANCE)).items)
    with postgres.server() as store:
        await forget_heads(admin)
        try:
            taken, standby_mb = await _takeovers(stage, store.url())
        finally:
            await forget_heads(admin)
    return figures(count, taken, standby_mb)


def _there_is_postgres() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


def figures(count: int, taken: Sequence[float], standby_mb: float) -> Sequence[Figure]:
    """The slowest is held against the budget."""
    told = ", ".join(f"{seconds:.2f} s" for seconds in taken)
    note = f"{told}; Lease of {LEASE['AGENTMETAL_LEASE_SECONDS']} s, looked at every 0.5 s"
    return (
        Figure(name=f"takeover among {count} objects: SIGTERM until the standby leads, slowest of {len(taken)}",
               value=max(taken), unit="s", budget=BUDGET, note=note),
        Figure(name=f"standby RSS with {count} objects", value=standby_mb, unit="MiB"),
    )  # fmt: skip


async def _takeovers(stage: Stage, store_url: str) -> tuple[list[float], float]:
    """The leader ends, the standby takes over, and another one takes its place behind it."""
    taken: list[float] = []
    async with AsyncExitStack() as running:
        leader = await running.enter_async_context(_replica(stage, "replica-0", store_url))
        await leader.until("/leading")
        for number in range(1, TIMES + 1):
            stage.say(f"takeover {number} of {TIMES}")
            standby = await running.enter_async_context(_replica(stage, f"replica-{number}", store_url))
            await standby.until("/readyz")
            await idle(standby.process.pid, time.monotonic())
            await idle(leader.process.pid, time.monotonic())
            standby_mb = rss_mb(standby.process.pid)
            began = time.monotonic()
            leader.process.terminate()
            await standby.until("/leading")
            taken.append(time.monotonic() - began)
            leader = standby
    return taken, standby_mb


@asynccontextmanager
async def _replica(stage: Stage, name: str, store_url: str) -> AsyncIterator[Replica]:
    """An operator process with a directory of its own; ended with the block."""
    directory, port = stage.directory / name, free_port()
    directory.mkdir()
    kept = {variable: os.environ[variable] for variable in KEPT_ENVIRONMENT if variable in os.environ}
    shared = {"AGENTMETAL_STORE_URL": store_url, "AGENTMETAL_REPLICAS": "2", "AGENTMETAL_IDENTITY": name}
    with (directory / "operator.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "agentmetal", "run", "--development"),
            f"--kubeconfig={stage.kubeconfig('operator')}",
            f"--state-directory={directory}",
            "--provider-types=Fake",
            f"--metrics-port={port}",
            "--log-format=text",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**kept, **LEASE, **shared},
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
    try:
        yield Replica(process=process, port=port, log=directory / "operator.log")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(directory)


async def _says(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
