"""Machines that stop, vanish or freeze; repairs that fail, and repairs that do not help."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from tests.support.system import System, running
from tests.support.trouble import condition, created, only_server, phases, quiet, says, tools

from agentmetal.core.errors import CommandFailed
from agentmetal.core.machine import ServerState
from agentmetal.providers.fake_server import loop_time

pytestmark = pytest.mark.looptime

OFTEN = {"resyncInterval": "15s"}


async def _settled(system: System, **management: object) -> str:
    """A running server that is looked at often; its id."""
    await system.instance(management=OFTEN | management)
    await system.ready()
    return str((await only_server(system)).id)


async def _started(system: System, *, times: int) -> None:
    await system.until(lambda: system.cloud.calls.count("start_server") >= times, timeout=200)


async def test_a_stopped_machine_is_started() -> None:
    async with running() as system:
        server_id = await _settled(system)
        system.cloud.lose_power(server_id)
        await system.until(lambda: len(phases(system)) == 2)
        await system.ready()
        assert tools(system.plans()[-1])[0] == "start_instance"
        assert created(system) == 1


async def test_a_machine_that_was_shut_down_from_inside_is_started() -> None:
    async with running() as system:
        system.cloud.shut_down(await _settled(system))
        await system.until(lambda: len(phases(system)) == 2)
        await system.ready()
        assert phases(system) == ["Succeeded", "Succeeded"]


async def test_a_machine_that_is_gone_is_ordered_anew() -> None:
    async with running() as system:
        old = await _settled(system)
        system.cloud.vanish(old)
        await system.until(lambda: created(system) == 2)
        ready = await system.ready()
        assert ready.status.provider_id != old


async def test_a_frozen_machine_is_reset_after_it_was_silent_for_a_while() -> None:
    async with running() as system:
        server_id = await _settled(system)
        host = system.hosts.host(server_id)
        host.frozen = True
        frozen_at = loop_time()
        await system.until(lambda: len(phases(system)) == 2)
        assert loop_time() - frozen_at > 20
        host.frozen = False
        await system.ready()
        assert tools(system.plans()[-1])[0] == "reboot_instance"


async def test_a_hiccup_is_not_answered_with_a_reset() -> None:
    async with running() as system:
        host = system.hosts.host(await _settled(system))
        host.cut = True
        await asyncio.sleep(12)
        host.cut = False
        await quiet(120)
        assert phases(system) == ["Succeeded"]


async def test_repairs_that_fail_back_off_and_after_three_a_human_is_asked() -> None:
    async with running(hosts=False) as system:
        server_id = await _settled(system, retries=0)
        system.cloud.faults.fail(CommandFailed("the power supply does not react"), times=1000, call="start_server")
        system.cloud.lose_power(server_id)
        stalled = await says(system, "the power supply does not react", type="Stalled", status="True")
        assert "must act" in stalled.message
        assert phases(system) == ["Failed", "Failed", "Failed"]
        await asyncio.sleep(300)
        began = [op.metadata.creation_timestamp.timestamp() for op in system.plans() if op.metadata.creation_timestamp]
        gaps = [later - earlier for earlier, later in pairwise(began)]
        assert gaps[0] >= 10
        assert all(later >= 1.8 * earlier for earlier, later in pairwise(gaps)), gaps
        system.cloud.faults._errors.clear()
        await system.ready()
        assert condition(system.see(), "Stalled").status == "False"


async def test_replan_does_not_wait_for_the_backoff() -> None:
    async with running(hosts=False) as system:
        server_id = await _settled(system, retries=0)
        system.cloud.faults.fail(CommandFailed("no reaction"), times=3, call="start_server")
        system.cloud.lose_power(server_id)
        await says(system, "no reaction", type="Stalled", status="True")
        await system.annotate("web-1", as_=system.erin, replan="now")
        await system.ready(timeout=5)


async def test_failures_are_remembered_over_a_restart() -> None:
    async with running(hosts=False) as system:
        server_id = await _settled(system, retries=0)
        system.cloud.faults.fail(CommandFailed("no reaction"), times=1000, call="start_server")
        system.cloud.lose_power(server_id)
        await says(system, "no reaction", type="Stalled", status="True")
        before = len(phases(system))
        await system.processes[-1].crash()
        await system.start()
        await asyncio.sleep(25)
        assert len(phases(system)) == before


async def test_a_repair_that_succeeds_again_and_again_rests_longer_and_longer() -> None:
    async with running(hosts=False) as system:
        server_id = await _settled(system)

        async def pull_the_plug() -> None:
            while True:
                if system.cloud.server(server_id).state(loop_time()) is ServerState.RUNNING:
                    system.cloud.lose_power(server_id)
                await asyncio.sleep(1)

        vandal = asyncio.create_task(pull_the_plug())
        said = await says(system, "times in a row", type="Stalled", status="True")
        assert "the same plan succeeded 3 times in a row and is needed again" in said.message
        started = system.cloud.calls.count("start_server")
        await asyncio.sleep(300)
        assert system.cloud.calls.count("start_server") - started < 20
        vandal.cancel()
        await asyncio.gather(vandal, return_exceptions=True)


async def test_healing_a_server_whose_rebuild_waits_is_no_flip_of_the_plan() -> None:
    async with running(hosts=False) as system:
        server_id = await _settled(system)
        await system.edit("web-1", image="bookworm-20")
        await system.awaiting()
        for cut in range(1, 5):
            system.cloud.lose_power(server_id)
            await _started(system, times=cut)
            await system.awaiting()
        stalled = condition(system.see(), "Stalled")
        assert "the plan changed" not in stalled.message
