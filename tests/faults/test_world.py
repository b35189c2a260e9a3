"""A real machine loses its power, or the operator dies twice, while a command of its user data runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.faults import Story, disk
from tests.support.seeds import everything

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines, pytest.mark.timeout(300), everything]

USER_DATA = """#cloud-config
runcmd:
  - [sh, -c, 'echo first >>/root/ran; sleep 8; echo over >>/root/ran']
  - [sh, -c, 'echo second >>/root/ran']
"""


async def begun(story: Story) -> Path:
    """Order a machine, and wait until its first command runs; where it writes."""
    await story.order(userData=USER_DATA)
    await story.at_step("apply_user_data")
    ran = disk(story.dev, await story.machine()) / "root/ran"
    async with asyncio.timeout(60):
        while not ran.exists():  # noqa: ASYNC110 - a file of another machine
            await asyncio.sleep(0.05)
    return ran


async def test_what_a_machine_died_in_is_told_and_not_run_again(story: Story) -> None:
    ran = await begun(story)
    await story.dev.fleet.kill((await story.machine()).record.name)
    told = await story.until(lambda body: state_of(body) == "Failed", "told of its user data")
    assert "interrupted" in str(told["status"]["conditions"])
    await story.ready()
    assert ran.read_text().splitlines() == ["first"]


async def test_what_runs_when_the_operator_dies_twice_runs_once(story: Story) -> None:
    ran = await begun(story)
    for _ in range(2):
        await story.dev.kill_operator()
        await story.dev.start_operator()
    await story.until(lambda body: state_of(body) == "Done", "done with its user data")
    await story.ready()
    assert ran.read_text().splitlines() == ["first", "over", "second"]


def state_of(body: dict[str, object]) -> str:
    """How its user data is."""
    status = body.get("status")
    data = status.get("userData") if isinstance(status, dict) else None
    return str(data["state"]) if data else ""
