"""Our clock is set while a machine is silent or a plan rests or waits; a plan is stopped in the middle of a step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.faults.world.strikes import SECONDS
from tests.faults.world.weather import Fate, FatefulWorld, fateful
from tests.support.inventories import Inventory
from tests.support.operations import DIGEST, instance, operation
from tests.sweep.virtual import live

from agentmetal.clients.ssh.wrapper import PATH as WRAPPER_PATH
from agentmetal.core.clock import rfc3339
from agentmetal.core.errors import LimitReached
from agentmetal.core.operation import Decision, OperationPhase
from agentmetal.core.resource import Annotation
from agentmetal.engine.approval import Approved, Expired, decide
from agentmetal.providers.fake_host import Effect

BACK = (timedelta(hours=-1), timedelta(days=-365 * 56))
AHEAD = timedelta(hours=1)


def told(story: Callable[[FatefulWorld], Coroutine[Any, Any, None]]) -> None:
    """Live through it."""

    async def lived() -> None:
        async with fateful(Fate()) as world:
            await story(world)

    live(lived)


@pytest.mark.parametrize("ahead", BACK, ids=["an hour", "to 1970"])
def test_a_dead_machine_is_reset_although_our_clock_was_set_back(ahead: timedelta) -> None:
    async def story(world: FatefulWorld) -> None:
        await world.settled()
        world.hosts.host("fake-1").frozen = True
        await world.annotate("web-1", as_=world.erin, reconcile_at="now")
        await asyncio.sleep(12)
        world.operator_clock.ahead = ahead
        await world.until(lambda: "reboot_server" in world.cloud.calls, timeout=180, why="it is reset")

    told(story)


def test_a_machine_that_hiccups_is_not_reset_because_our_clock_went_ahead() -> None:
    async def story(world: FatefulWorld) -> None:
        await world.settled()
        world.hosts.host("fake-1").cut = True
        await world.annotate("web-1", as_=world.erin, reconcile_at="now")
        await asyncio.sleep(7)
        world.operator_clock.ahead = timedelta(seconds=50)
        await asyncio.sleep(8)
        world.hosts.host("fake-1").cut = False
        await world.quiet()
        await asyncio.sleep(120)
        assert "reboot_server" not in world.cloud.calls

    told(story)


@pytest.mark.parametrize("ahead", [*BACK, AHEAD], ids=["an hour back", "to 1970", "an hour ahead"])
def test_a_plan_that_failed_is_tried_again_whatever_our_clock_says(ahead: timedelta) -> None:
    async def story(world: FatefulWorld) -> None:
        await world.provider()
        world.out_of_order(SECONDS, LimitReached("no more servers: ask for more"), method="provision_server")
        await world.instance()
        await world.until(lambda: world.plans(OperationPhase.FAILED), why="it fails")
        world.operator_clock.ahead = ahead
        await world.until(world.is_quiet, timeout=900, why="it is tried again")

    told(story)


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(timedelta(), Approved), (BACK[1], Expired), (timedelta(days=400), Expired)]
)
def test_an_approval_does_not_live_for_ever_where_our_clock_was_set_back(ahead: timedelta, verdict: type) -> None:
    seen = datetime(2026, 1, 1, tzinfo=UTC)
    noted = Decision(verdict="Approved", by="ann", via="Annotation", at=rfc3339(seen))
    waiting = operation()
    waiting = waiting.model_copy(update={"status": waiting.status.model_copy(update={"decision": noted})})
    stamped = instance(annotations={Annotation.DECISION.removeprefix("agentmetal.io/"): f"approve {DIGEST} by ann"})
    assert isinstance(decide(waiting, stamped, (), seen + ahead), verdict)


def test_whoever_stops_a_plan_in_the_middle_of_a_command_is_told_that_it_may_go_on() -> None:
    async def story(world: FatefulWorld) -> None:
        lab = Inventory(world)
        lab.add("h1")
        await lab.provide(wipe={"paths": ["/srv/data"]})
        world.hosts.unit(["find", "-P"], Effect(seconds=300))
        await lab.wants()
        await world.quiet()
        await world.delete("web-1")
        await world.approve_until(lambda: world.hosts.journal)
        running = world.plans(OperationPhase.RUNNING)[0]
        await world.annotate("web-1", approve=None, reject=running.digest)
        world.life.die()
        await world.until(lambda: world.plans(OperationPhase.CANCELLED), why="it is cancelled")
        message = world.plans(OperationPhase.CANCELLED)[0].status.message
        assert message.startswith("rejected by ann")
        assert f"agentmetal-{running.metadata.name}-1-*" in message

    told(story)


def test_a_wipe_is_finished_although_the_wrapper_went_with_the_first_try() -> None:
    async def story(world: FatefulWorld) -> None:
        lab = Inventory(world)
        host = lab.add("h1")
        await lab.provide(wipe={"paths": ["/srv/data"]})
        world.hosts.unit(["find", "-P"], Effect())
        await lab.wants()
        await world.quiet()
        host.installed = False
        del host.files[WRAPPER_PATH]
        await world.delete("web-1")
        await world.approve_until(lambda: world.see() is None)
        assert len(world.hosts.journal) == 1
        assert not lab.claimed_by("h1")

    told(story)
