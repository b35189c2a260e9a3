"""The API server hangs, connections die without a word, and etcd is restored to the past: on the real control plane."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.faults.conftest import StoryMaker
from tests.faults.proxy import proxy
from tests.support.devsystem import Dev
from tests.support.faults import Process, Story, condition_of, holder, operator, patiently, succeeded
from tests.support.seeds import everything
from tests.support.trail import forget_heads

from agentmetal.core.operation import OperationPhase
from agentmetal.dev.controlplane import ControlPlane
from agentmetal.dev.watching import Body

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.long, pytest.mark.needs_machines, pytest.mark.timeout(400)]

PATIENT_LEASE = {"AGENTMETAL_LEASE_SECONDS": "180", "AGENTMETAL_RENEW_SECONDS": "150", "AGENTMETAL_RETRY_SECONDS": "1"}
"""So long that an outage does not end the operator: only what it finds out itself does."""
SHORT_LEASE = {"AGENTMETAL_LEASE_SECONDS": "8", "AGENTMETAL_RENEW_SECONDS": "6", "AGENTMETAL_RETRY_SECONDS": "1"}
NOWHERE = {"providerRef": {"name": "nowhere"}}
"""Of a provider that does not exist: status is all there is to do."""


def told_of(generation: int) -> Callable[[Body], bool]:
    """Is status about that spec?"""
    return lambda body: (body.get("status") or {}).get("observedGeneration") == generation


@asynccontextmanager
async def alone(dev: Dev, store: Path, **options: object) -> AsyncIterator[Process]:
    """An operator of the test's own instead of the system's."""
    await dev.system.operator.stop()
    async with operator(dev, store, **options) as process:  # type: ignore[arg-type] # handed on
        await process.ready()
        yield process


# ---- a server that hangs


@pytest.mark.parametrize("seconds", [4.0, pytest.param(90.0, marks=everything)])
async def test_a_hanging_api_server_delays_and_repeats_nothing(dev_system: Dev, story: Story, seconds: float) -> None:
    """Ninety seconds cost the Lease: the operator has ended by then, and is started again as Kubernetes would."""
    await story.order()
    begun = await story.at_step("provision_instance")
    before = await holder(story.api)
    pid = dev_system.system.plane.status().pids["kube-apiserver"]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    await dev_system.start_operator()
    ended = await story.operation(succeeded, "succeeded")
    kept = await holder(story.api) == before
    assert kept == (seconds < 10.0), "the Lease is kept through a short hang, and lost in a long one"
    await story.ready()
    assert ended.metadata.name == begun.metadata.name
    assert [step.attempt for step in ended.status.steps] == [1, 1, 1]
    assert len(await story.machines()) == 1


# ---- connections that die without a word


def _through(dev: Dev, port: int, directory: Path) -> Path:
    """The operator's kubeconfig, with the proxy in place of the API server."""
    text, real = dev.kubeconfig("operator").read_text(), dev.system.plane.ports().api
    changed = directory / "operator.kubeconfig"
    changed.touch(mode=0o600)
    changed.write_text(text.replace(f":{real}", f":{port}"))
    return changed


@everything
async def test_silent_connections_never_keep_it_from_its_work(dev_system: Dev, story: Story, tmp_path: Path) -> None:
    """Whether a renewal of the Lease meets a silent connection is chance: it ends and is started anew, or lives on."""
    async with proxy(dev_system.system.plane.ports().api) as between:
        options = {"kubeconfig": _through(dev_system, between.port, tmp_path), "environment": SHORT_LEASE}
        async with alone(dev_system, tmp_path / "audit.db", **options) as process:
            await story.order(**NOWHERE)
            await story.until(told_of(1), "looked at")
            assert between.silence() > 2
            began = asyncio.get_running_loop().time()
            await story.order(type="medium", **NOWHERE)
            ending = asyncio.create_task(process.ended(120.0))
            seen = asyncio.create_task(story.until(told_of(2), "looked at again", within=120.0))
            await asyncio.wait([ending, seen], return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
        async with alone(dev_system, tmp_path / "audit.db", **options):
            await seen
        print(f"silent connections hid a change for {asyncio.get_running_loop().time() - began:.1f} s")  # noqa: T201 - a figure for the report


@everything
async def test_a_silent_watch_is_found_out(dev_system: Dev, story: Story, tmp_path: Path) -> None:
    """Only the watches die: requests go on. kopf believes a watch for 70 s that says nothing, not even a bookmark."""
    async with proxy(dev_system.system.plane.ports().api) as between:
        through = _through(dev_system, between.port, tmp_path)
        async with alone(dev_system, tmp_path / "audit.db", kubeconfig=through):
            await asyncio.sleep(6.0)
            assert between.silence(idle=4.0) > 2
            began = asyncio.get_running_loop().time()
            await story.order(**NOWHERE)
            await story.until(told_of(1), "looked at", within=100.0)
            print(f"a silent watch hid an object for {asyncio.get_running_loop().time() - began:.1f} s")  # noqa: T201 - a figure for the report


# ---- etcd comes back from a backup


async def _backup(plane: ControlPlane, where: Path) -> None:
    """What etcd's files hold at this moment: as a snapshot of a disk does, while it stands still."""
    pid = plane.status().pids["etcd"]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        shutil.copytree(plane.directory / "etcd", where)
    finally:
        os.kill(pid, signal.SIGCONT)


async def _restore(plane: ControlPlane, backup: Path) -> None:
    """Kill API server and etcd, put the files back, start again. Nobody else is told."""
    for name in ("kube-apiserver", "etcd"):
        pid = plane.status().pids[name]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while plane.status().pids[name] is not None:  # noqa: ASYNC110 - no child of ours
                await asyncio.sleep(0.02)
    shutil.rmtree(plane.directory / "etcd")
    shutil.copytree(backup, plane.directory / "etcd")
    await plane.up()


async def test_a_restored_etcd_ends_the_operator_that_has_seen_the_future(
    dev_system: Dev, story: Story, tmp_path: Path
) -> None:
    """Its watches would say nothing until the versions it knows come round again; its cache holds what is no more."""
    plane = dev_system.system.plane
    log = tmp_path / "operator.log"
    async with alone(dev_system, tmp_path / "audit.db", log=log, environment=PATIENT_LEASE) as process:
        await story.order(**NOWHERE)
        await story.until(told_of(1), "looked at")
        await _backup(plane, tmp_path / "etcd")
        for generation, size in enumerate(("medium", "small", "medium", "small"), start=2):
            await story.order(type=size, **NOWHERE)
            await story.until(told_of(generation), "looked at")
        await _restore(plane, tmp_path / "etcd")
        began = asyncio.get_running_loop().time()
        assert await process.ended(60.0) != 0
        print(f"the restored etcd was found out after {asyncio.get_running_loop().time() - began:.1f} s")  # noqa: T201 - a figure for the report
        assert "went back in time" in log.read_text()
    await forget_heads(story.api)  # of the store that this test threw away
    await dev_system.start_operator()
    await patiently(story.see)  # a young API server does not know all its kinds yet, and kubectl does not wait
    await story.order(type="medium", **NOWHERE)
    told = await story.until(told_of(2), "looked at after the restore")
    assert "nowhere" in condition_of(told, "Ready")


@everything
async def test_what_a_restored_etcd_lacks_is_not_destroyed_and_old_approvals_do_nothing(
    dev_system: Dev, new_story: StoryMaker, tmp_path: Path
) -> None:
    plane = dev_system.system.plane
    old, new = new_story(), new_story()
    await old.order()
    await old.ready()
    await old.order(image="bookworm-tools")
    waiting = await old.operation(lambda op: op.phase is OperationPhase.AWAITING_APPROVAL, "waiting")
    await _backup(plane, tmp_path / "etcd")
    approved = f"agentmetal.io/approve={waiting.digest}"
    await dev_system.kubectl("annotate", "instance", old.name, approved, as_="approver")
    await old.operation(lambda op: op.spec.number == waiting.spec.number and succeeded(op), "done")
    await new.order()
    await new.ready()
    machine, rebuilt = await new.machine(), await old.machine()
    await dev_system.system.operator.stop()
    await _restore(plane, tmp_path / "etcd")
    await dev_system.start_operator()
    await old.operation(lambda op: op.spec.number == waiting.spec.number and op.phase.closed, "over")
    still = await new.machine()
    assert still.pid == machine.pid, "the machine of an object that the backup lacks runs on"
    assert (await old.machine()).pid == rebuilt.pid, "nothing was done a second time"
