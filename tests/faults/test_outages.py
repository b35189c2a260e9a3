"""The API server is away, or the audit trail's disk is full: nothing begins, everything goes on afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from tests.support.devsystem import Dev
from tests.support.faults import SOON, Process, Story, condition_of, holder, metrics, operator, succeeded
from tests.support.postgres import server
from tests.support.replicas import ENVIRONMENT
from tests.support.seeds import everything
from tests.support.trail import forget_heads

from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.operation import moment
from agentmetal.core.risk import Risk
from agentmetal.engine.permission import GO_LASTS

T = TypeVar("T")
pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines, pytest.mark.timeout(300)]


@pytest.mark.parametrize("seconds", [4.0, pytest.param(60.0, marks=everything)])
async def test_no_step_begins_while_the_api_server_is_away(dev_system: Dev, story: Story, seconds: float) -> None:
    """A minute is longer than a Lease: the operator has ended meanwhile, and is started again as Kubernetes would."""
    await story.order()
    begun = await story.at_step("provision_instance")
    plane = dev_system.system.plane
    pid = plane.status().pids["kube-apiserver"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    gone = datetime.now(UTC)
    await asyncio.sleep(seconds)
    back = datetime.now(UTC)
    await plane.up()
    if dev_system.system.operator.pid() is None:
        await dev_system.start_operator()

    ended = await story.operation(succeeded, "succeeded")
    await story.ready()
    assert ended.metadata.name == begun.metadata.name
    # The intent of a Safe step, or one on a word of the second before, is dated when it is made and written afterwards.
    steps = zip(ended.spec.steps, ended.status.steps, strict=True)
    began = [moment(status.started_at) for step, status in steps if step.risk.exceeds(Risk.SAFE)]
    assert not [at for at in began if at and gone + timedelta(seconds=GO_LASTS) < at < back]
    assert [step.attempt for step in ended.status.steps] == [1, 1, 1]
    assert len(await story.machines()) == 1
    await (
        dev_system.restart_operator()
    )  # until it knows its roles a young API server refuses: a count of that is no use


@pytest.mark.usefixtures("story")  # puts the system's own operator back
async def test_whoever_takes_over_while_the_store_is_away_leads_as_soon_as_it_is_back(
    dev_system: Dev, api: KubernetesClient, tmp_path: Path
) -> None:
    """A cluster's bad moment takes the leader and what the next one needs at once: that one waits, and does not end."""
    await dev_system.system.operator.stop()
    await forget_heads(api)
    with server() as store:
        environment = {**ENVIRONMENT, "AGENTMETAL_STORE_URL": store.url(), "AGENTMETAL_REPLICAS": "3"}
        async with AsyncExitStack() as running:
            first, second, third = [
                await running.enter_async_context(
                    operator(
                        dev_system,
                        tmp_path / f"{name}.db",
                        environment={**environment, "AGENTMETAL_LEASE_SECONDS": "6", "AGENTMETAL_IDENTITY": name},
                    )
                )
                for name in ("first", "second", "third")
            ]
            leader, others = await settled(first, second, third)
            assert await says_it_leads(leader)
            store.stop()
            leader.signal(signal.SIGKILL)
            await said(others, "the lease is left to others", 1)
            assert [one.child.returncode for one in others] == [None, None]
            assert [await says_it_leads(one) for one in others] == [False, False]
            store.start()
            leader, (last,) = await settled(*others)

            store.stop()
            leader.signal(signal.SIGKILL)
            vain = "nothing is done before this is answered"
            await said([last], vain, last.log.read_text().count(vain) + 1)
            last.signal(signal.SIGTERM)
            assert await last.ended() == 0
            assert await holder(api) == ""
    await forget_heads(api)  # that store is gone


async def settled(*processes: Process) -> tuple[Process, list[Process]]:
    """The one that leads, when the others stand by."""
    await until(lambda: _all(processes, "/readyz"))
    for one in processes:
        if await one.says("/leading"):
            return one, [other for other in processes if other is not one]
    return await settled(*processes)


async def said(processes: Sequence[Process], words: str, times: int) -> None:
    """Until the log of one of them has said so that often."""

    async def told() -> bool:
        return any(one.log.read_text().count(words) >= times for one in processes)

    await until(told)


async def says_it_leads(process: Process) -> bool:
    """As its metrics do."""
    values = await metrics(process.port)
    return {value for (name, _), value in values.items() if name == "leader_election_master_status"} == {1.0}


async def _all(processes: Sequence[Process], page: str) -> bool:
    return all([await one.says(page) for one in processes])


async def until(so: Callable[[], Awaitable[T]]) -> T:
    """Ask until it is so."""
    async with asyncio.timeout(SOON):
        while not (found := await so()):  # noqa: ASYNC110 - neither a process nor its log tells us
            await asyncio.sleep(0.05)
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)), check=True)
    yield disk
    subprocess.run(("umount", str(disk)), check=True)


async def test_nothing_is_done_that_cannot_be_recorded(dev_system: Dev, story: Story, small_disk: Path) -> None:
    await dev_system.system.operator.stop()
    async with operator(dev_system, small_disk / "audit.db", log=small_disk.with_suffix(".log")) as process:
        await process.ready()
        ballast = small_disk / "ballast"
        fill(ballast)
        await story.order()
        told = await story.until(lambda body: "AuditUnavailable" in condition_of(body, "Ready"), "told of the disk")
        for type in ("Ready", "Stalled"):
            assert "free space there" in condition_of(told, type)
            assert "the administrator must act" in condition_of(told, type)
        assert await story.machines() == []
        assert not [op for op in await story.operations() if op.status.started_at]

        ballast.unlink()
        await story.ready()
        assert len(await story.machines()) == 1
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0


def fill(ballast: Path) -> None:
    """Use all space that is left."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
