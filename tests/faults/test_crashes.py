"""kill -9 of the real operator: it goes on where it was, and nothing happens twice."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.support.devsystem import Dev
from tests.support.faults import Story, disk, inside, succeeded
from tests.support.fleet import until

from agentmetal.core.machine import ServerState
from agentmetal.core.operation import Operation
from agentmetal.dev.watching import holds
from agentmetal.providers.nspawn import images
from agentmetal.providers.nspawn.files import is_locked, locked
from agentmetal.providers.nspawn.record import Place

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines]

SLOW_HOSTNAMECTL = """#!/bin/sh
# Tells which unit runs it, takes its time, and does it.
unit=$(sed -n 's,.*/\\(agentmetal-op-[^/]*\\)[.]service.*,\\1,p' /proc/self/cgroup)
echo "begins $unit" >>/root/ran
sleep 5
echo "did $unit" >>/root/ran
exec /usr/local/lib/hostnamectl-itself "$@"
"""


async def crash_at(story: Story, tool: str) -> Operation:
    """Order a machine, kill the operator when that step has begun, and start it again; the operation at the end."""
    await story.order()
    begun = await story.at_step(tool)
    await story.dev.kill_operator()
    await story.dev.start_operator()
    ended = await story.operation(succeeded, "succeeded")
    await story.ready()
    assert ended.metadata.name == begun.metadata.name
    return ended


@pytest.mark.parametrize("tool", ["provision_instance", "wait_for_ready", "prepare_host"])
async def test_a_crash_while_a_machine_is_made_leaves_one_machine_and_one_operation(story: Story, tool: str) -> None:
    ended = await crash_at(story, tool)
    assert len(await story.machines()) == 1
    assert [op.metadata.name for op in await story.operations()] == [ended.metadata.name]
    assert [step.attempt for step in ended.status.steps] == [1, 1, 1]
    assert ended.status.resumed == 1
    assert "taken up by a new leader once" in ended.status.message


async def test_one_crash_after_another_leaves_one_machine_and_one_operation(story: Story) -> None:
    await story.order()
    await story.at_step("provision_instance")
    for _ in range(3):
        await story.dev.kill_operator()
        await story.dev.start_operator()
    ended = await story.operation(succeeded, "succeeded")
    await story.ready()
    assert ended.status.resumed >= 1
    assert len(await story.machines()) == len(await story.operations()) == 1


async def test_a_command_that_runs_during_a_crash_runs_once(story: Story) -> None:
    await story.order(management={"resyncInterval": "2s"})  # a new process looks at it soon
    await story.ready()
    server = (await story.machine()).record.name
    await story.dev.kill_operator()
    await story.dev.fleet.kill(server)
    slow_down(story.dev, disk(story.dev, await story.machine()))
    await story.dev.start_operator()

    healing = await story.at_step("prepare_host")
    unit = f"agentmetal-{healing.metadata.name}-{len(healing.spec.steps)}-1"
    await runs(story, unit)
    await story.dev.kill_operator()
    await story.dev.start_operator()

    ended = await story.operation(lambda op: op.metadata.name == healing.metadata.name and succeeded(op), "succeeded")
    assert ended.status.resumed == 1
    assert [step.attempt for step in ended.status.steps] == [1] * len(ended.spec.steps)
    assert inside(await story.machine(), "cat", "/root/ran").splitlines() == [f"begins {unit}", f"did {unit}"]
    await story.ready()


async def test_a_deletion_that_a_crash_ended_in_the_middle_is_finished_by_the_next_process(story: Story) -> None:
    await story.order()
    await story.ready()
    place = Place(path=story.dev.fleet.directory / (await story.machine()).record.name)
    await story.dev.kubectl("delete", "instance", story.name, "--wait=false")
    await story.until(lambda body: holds(body, "AwaitingApproval"), "waiting for a human")
    with locked(place.path.parent / ".network.lock"):  # a removal does not come further than here
        approved = await story.dev.agentmetal("approve", "instance", story.name, "--yes", as_="approver")
        assert approved.code == 0, approved.complaint
        await until(place.removing.exists, within=20)
        await until(lambda: not is_locked(place.lock), within=20)
        await story.dev.kill_operator()
    assert (await story.machine()).state is ServerState.DECOMMISSIONING
    await story.dev.start_operator()

    await story.dev.kubectl("wait", "--for=delete", "--timeout=30s", f"instance/{story.name}")
    assert not await story.machines()
    assert not place.path.exists()


def slow_down(dev: Dev, upper: Path) -> None:
    """Replace hostnamectl on the disk of a machine that is off."""
    itself = next(path for layer in images.layers("bookworm") if (path := layer / "usr/bin/hostnamectl").exists())
    kept, program = upper / "usr/local/lib/hostnamectl-itself", upper / "usr/bin/hostnamectl"
    for path in (kept, program):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.copy2(itself, kept)
    program.write_text(SLOW_HOSTNAMECTL)
    program.chmod(0o755)


async def runs(story: Story, unit: str) -> None:
    """Wait until a unit is active in the story's machine."""
    machine = await story.machine()
    assert machine.state is ServerState.RUNNING
    ran = Path(f"/proc/{machine.pid}/root/root/ran")
    async with asyncio.timeout(20):
        while f"begins {unit}" not in text_of(ran):  # noqa: ASYNC110 - a file of another machine
            await asyncio.sleep(0.05)


def text_of(path: Path) -> str:
    """What is in a file, if there is one."""
    return path.read_text() if path.exists() else ""
