"""Operators that end, hang, or follow each other: at most one acts, and nothing is done twice."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from tests.support.devsystem import Dev
from tests.support.faults import QUICK_LEASE, Story, holder, operator, step_state, succeeded

from agentmetal.cli.operator import LOST_LEADERSHIP
from agentmetal.core.operation import Operation, StepState
from agentmetal.kube.lease import Durations

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines]


def states(found: Operation) -> list[StepState]:
    """How its steps stand."""
    return [step.state for step in found.status.steps]


async def test_an_orderly_end_in_the_middle_of_a_plan_hands_it_over_at_once(
    dev_system: Dev, story: Story, tmp_path: Path
) -> None:
    await dev_system.system.operator.stop()
    async with operator(dev_system, tmp_path / "audit.db") as first:
        await first.ready()
        await story.order()
        await story.at_step("provision_instance")
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
    (left,) = await story.operations()
    assert step_state(left, "wait_for_ready") is StepState.PENDING
    assert await holder(story.api) == ""

    began = time.monotonic()
    async with operator(dev_system, tmp_path / "audit.db") as second:
        await second.ready()
        assert time.monotonic() - began < Durations().lease
        ended = await story.operation(succeeded, "succeeded")
        await story.ready()
    assert ended.metadata.name == left.metadata.name
    assert ended.status.resumed == 1
    assert [step.attempt for step in ended.status.steps] == [1, 1, 1]
    assert len(await story.machines()) == 1


async def test_a_leader_that_hung_does_nothing_when_it_wakes_up(
    dev_system: Dev, story: Story, tmp_path: Path, store_url: str
) -> None:
    environment = {**QUICK_LEASE, "AGENTMETAL_STORE_URL": store_url}
    await dev_system.system.operator.stop()
    async with operator(dev_system, tmp_path / "old.db", environment=environment) as old:
        await old.ready()
        await story.order()
        begun = await story.at_step("provision_instance")
        old.signal(signal.SIGSTOP)
        async with operator(dev_system, tmp_path / "new.db", environment=environment) as new:
            await new.ready()
            ended = await story.operation(succeeded, "succeeded")
            await story.ready()
            settled = (await story.see())["metadata"]["resourceVersion"]

            old.signal(signal.SIGCONT)
            assert await old.ended() == LOST_LEADERSHIP

            (after,) = await story.operations()
            assert after == ended
            assert (await story.see())["metadata"]["resourceVersion"] == settled
            assert new.child.returncode is None
    assert ended.metadata.name == begun.metadata.name
    assert ended.status.resumed == 1
    assert states(ended) == [StepState.SUCCEEDED] * 3
    assert [step.attempt for step in ended.status.steps] == [1, 1, 1]
    assert len(await story.machines()) == 1
