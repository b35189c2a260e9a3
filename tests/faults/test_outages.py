"""The API server is away, or the audit trail's disk is full: nothing begins, everything goes on afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.devsystem import Dev
from tests.support.faults import SOON, Story, condition_of, holder, operator, succeeded
from tests.support.postgres import server
from tests.support.replicas import ENVIRONMENT
from tests.support.seeds import everything
from tests.support.trail import forget_heads

from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.operation import moment
from agentmetal.core.risk import Risk
from agentmetal.engine.permission import GO_LASTS

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
        environment = {**ENVIRONMENT, "AGENTMETAL_STORE_URL": store.url(), "AGENTMETAL_REPLICAS": "2"}
        first = {**environment, "AGENTMETAL_IDENTITY": "first"}
        other = {**environment, "AGENTMETAL_IDENTITY": "other"}
        async with operator(dev_system, tmp_path / "a.db", environment=first) as leader:
            await leader.ready()
            async with operator(dev_system, tmp_path / "b.db", environment=other) as standby:
                await until(lambda: standby.says("/readyz"))
                store.stop()
                leader.signal(signal.SIGKILL)
                await until(lambda: holds_the_lease(api, "other"))
                await asyncio.sleep(1.0)  # it asks the store, twice
                assert not await standby.says("/leading")
                store.start()
                await standby.ready()
    await forget_heads(api)  # that store is gone


async def holds_the_lease(api: KubernetesClient, name: str) -> bool:
    """Has it taken the Lease?"""
    return (await holder(api)).startswith(f"{name}_")


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    """Look until it is."""
    async with asyncio.timeout(SOON):
        while not await so():  # noqa: ASYNC110 - neither a process nor a Lease tells us
            await asyncio.sleep(0.05)


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
