"""Machines that break behind our back: repaired, told, and nothing is done to what only seemed broken.

All of them break at the same time, once; each test claims something about one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from tests.support.devsystem import Dev, new_name
from tests.support.faults import NAMESPACE, Story, reasons, succeeded

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observer import SILENT_AFTER
from agentmetal.core.operation import Operation
from agentmetal.dev.watching import client, follow
from agentmetal.providers.nspawn.fleet import Machine

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.long, pytest.mark.needs_machines, pytest.mark.timeout(300)]

Fault = Callable[[str], Awaitable[None]]
NOTICED = {"PoweredOff", "Unreachable", "Gone", "PlanRunning"}
LONG_NOTICED = 10.0
"""Seconds in which also a connection that fell silent is noticed (our kernel gives it up after 6 s), and acted upon."""


@dataclass(kw_only=True)
class Tale:
    """What happened to one machine."""

    before: Machine
    broken_at: datetime
    reasons: set[str] = field(default_factory=set)
    after: Machine
    operations: tuple[Operation, ...]
    """Only those since it broke."""

    @property
    def tools(self) -> list[str]:
        """What was done about it."""
        return [step.tool for operation in self.operations for step in operation.spec.steps]


@pytest.fixture(scope="module")
def tales(dev_system: Dev) -> Mapping[str, Tale]:
    """Every fault, all at once."""
    return asyncio.run(break_everything(dev_system))


async def break_everything(dev: Dev) -> dict[str, Tale]:
    """By the name of the fault."""
    fleet = dev.fleet
    faults: dict[str, Fault] = {
        "killed": fleet.kill,
        "frozen": fleet.freeze,
        "cut": fleet.cut,
        "rebooted": fleet.reboot,
        "removed": fleet.remove,
    }
    async with client(dev.kubeconfig("admin")) as api:
        stories = {fault: Story(dev, api, f"{new_name()}-{fault}") for fault in faults}
        await asyncio.gather(*(story.order() for story in stories.values()))
        await asyncio.gather(*(story.ready() for story in stories.values()))
        told = await asyncio.gather(*(suffer(stories[fault], faults[fault]) for fault in faults))
        await asyncio.gather(*(story.leave() for story in stories.values()))
    return dict(zip(faults, told, strict=True))


async def suffer(story: Story, fault: Fault) -> Tale:
    """Break a machine, and wait until it is well again."""
    fleet = story.dev.fleet
    before, known = await story.machine(), {op.metadata.name for op in await story.operations()}
    heard: set[str] = set()
    listening = asyncio.create_task(listen(story, heard))
    try:
        broken_at = datetime.now(UTC)
        await fault(before.record.name)
        if fault == fleet.reboot:  # may be over before anybody notices
            await story.until_machine(lambda now: now.pid not in (before.pid, None), "rebooted")
            await asyncio.sleep(LONG_NOTICED)
        else:
            await story.until(lambda body: bool(reasons(body) & NOTICED), "noticed")
        if fault == fleet.cut:
            await fleet.heal(before.record.name)
        await story.ready()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    since = tuple(op for op in await story.operations() if op.metadata.name not in known)
    return Tale(before=before, broken_at=broken_at, reasons=heard, after=await story.machine(), operations=since)


async def listen(story: Story, heard: set[str]) -> None:
    """Collect every reason that status ever tells."""
    async with aclosing(follow(story.api, Instance.info.type, NAMESPACE)) as changes:
        async for objects in changes:
            heard |= reasons(objects[story.name])


def test_a_machine_that_lost_power_is_started_again(tales: Mapping[str, Tale]) -> None:
    tale = tales["killed"]
    assert "PoweredOff" in tale.reasons
    assert tale.tools == ["start_instance", "wait_for_ready", "prepare_host"]
    assert tale.after.record.id == tale.before.record.id


def test_a_machine_that_hangs_for_long_is_reset(tales: Mapping[str, Tale]) -> None:
    tale = tales["frozen"]
    assert "Unreachable" in tale.reasons
    assert tale.tools == ["reboot_instance", "wait_for_ready", "prepare_host"]
    created = tale.operations[0].metadata.creation_timestamp
    assert created is not None
    assert created - tale.broken_at >= SILENT_AFTER
    assert tale.after.record.id == tale.before.record.id
    assert tale.after.pid != tale.before.pid


def test_a_machine_whose_cable_was_pulled_for_a_moment_is_left_alone(tales: Mapping[str, Tale]) -> None:
    tale = tales["cut"]
    assert "Unreachable" in tale.reasons
    assert tale.operations == ()
    assert tale.after.pid == tale.before.pid


def test_a_machine_that_reboots_is_waited_for(tales: Mapping[str, Tale]) -> None:
    tale = tales["rebooted"]
    assert tale.operations == ()
    assert tale.after.pid != tale.before.pid


def test_a_machine_that_was_removed_is_made_anew(tales: Mapping[str, Tale]) -> None:
    tale = tales["removed"]
    assert "Gone" in tale.reasons
    assert tale.tools == ["provision_instance", "wait_for_ready", "prepare_host"]
    assert tale.after.record.id != tale.before.record.id


def test_every_repair_succeeded_at_its_first_attempt(tales: Mapping[str, Tale]) -> None:
    for tale in tales.values():
        assert all(succeeded(operation) for operation in tale.operations)
        assert {step.attempt for operation in tale.operations for step in operation.status.steps} <= {1}
