"""Providers that are down, slow, strict, full or forgetful. One server, whatever happens."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.system import running
from tests.support.trouble import condition, created, look_again, phases, quiet, says

from agentmetal.core.errors import RateLimited, Unavailable

pytestmark = pytest.mark.looptime

DOWN = Unavailable("the API of the cloud does not answer")


async def test_a_provider_that_is_down_is_tried_again_and_recovers() -> None:
    async with running(hosts=False) as system:
        system.cloud.faults.fail(DOWN, times=8)
        await system.instance()
        said = await says(system, "does not answer")
        assert said.reason == "ProviderUnavailable"
        assert condition(system.see(), "Reconciling").status == "True"
        await system.ready()
        assert created(system) == 1


async def test_a_running_server_is_not_called_broken_when_only_its_provider_is_silent() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        system.cloud.faults.fail(DOWN, times=10_000)
        await look_again(system)
        said = await says(system, "does not answer")
        assert said.status == "Unknown"
        await quiet(600)
        system.cloud.faults._errors.clear()
        await system.ready(timeout=20)
        assert phases(system) == ["Succeeded"]


async def test_a_slow_provider_makes_it_late_and_not_double() -> None:
    async with running(hosts=False) as system:
        system.cloud.faults.latency = 1.5
        await system.instance()
        await system.ready()
        assert created(system) == 1
        assert phases(system) == ["Succeeded"]


async def test_a_provider_too_slow_to_be_looked_at_is_named() -> None:
    async with running(hosts=False) as system:
        system.cloud.faults.latency = 15.0
        await system.instance()
        await says(system, "took over 20 s")
        system.cloud.faults.latency = 0.0
        await system.ready()
        assert created(system) == 1


async def test_a_rate_limit_is_kept_to() -> None:
    async with running(hosts=False) as system:
        system.cloud.rate = (5, 10.0)
        for number in range(4):
            await system.instance(f"web-{number}")
        for number in range(4):
            await system.ready(f"web-{number}", timeout=1800)
        assert created(system) == 4


async def test_the_time_a_provider_asks_for_is_waited() -> None:
    async with running(hosts=False) as system:
        began = len(system.cloud.calls)
        system.cloud.faults.fail(RateLimited("slow down", retry_after=40.0), call="find_server")
        await system.instance()
        await says(system, "slow down")
        calls = len(system.cloud.calls)
        assert calls > began
        await asyncio.sleep(38)
        assert len(system.cloud.calls) == calls
        await system.ready(timeout=20)


async def test_a_full_account_says_who_must_act_and_goes_on_when_there_is_room() -> None:
    async with running(hosts=False) as system:
        system.cloud.quota = 0
        await system.instance()
        said = await says(system, "the account may have 0 servers", type="Reconciling")
        assert said.message.endswith("(the owner of the provider account must act)")
        stalled = await says(system, "the account may have 0 servers", type="Stalled", status="True")
        assert stalled.message.endswith("(the owner of the provider account must act)")
        assert condition(system.see()).status == "False"
        assert created(system) == 0
        system.cloud.quota = 1
        await system.ready(timeout=700)
        assert created(system) == 1


async def test_a_lost_answer_to_the_order_makes_no_second_server() -> None:
    async with running(hosts=False) as system:
        system.cloud.faults.lose_reply(call="provision_server")
        await system.instance()
        await system.ready()
        assert created(system) == 1
        assert phases(system) == ["Succeeded"]


async def test_lost_answers_to_everything_make_no_second_server_and_no_leftover() -> None:
    async with running() as system:
        system.cloud.faults.lose_reply(times=2)
        system.hosts.faults.lose_reply(times=2)
        await system.instance()
        await system.ready()
        await system.delete("web-1")
        digest = await system.awaiting()
        system.cloud.faults.lose_reply(times=2)
        await system.annotate("web-1", approve=digest)
        await system.gone()
        assert created(system) == 1
        assert await system.cloud.list_servers() == ()


async def test_lists_that_are_late_make_no_second_server() -> None:
    async with running(settles_after=30.0) as system:
        await system.instance()
        await system.ready()
        assert created(system) == 1


async def test_a_deletion_is_complete_although_lists_are_late() -> None:
    async with running(settles_after=30.0) as system:
        await system.instance()
        await system.ready()
        await system.delete("web-1")
        await system.annotate("web-1", approve=await system.awaiting())
        await system.gone()
        await asyncio.sleep(60)
        assert await system.cloud.list_servers() == ()
        assert system.cloud._servers == {}


async def test_an_object_deleted_right_after_its_order_leaves_no_server_behind() -> None:
    async with running(settles_after=30.0) as system:
        await system.instance()
        await system.until(lambda: created(system))
        await system.delete("web-1")
        digest = await system.awaiting()
        await system.annotate("web-1", approve=digest)
        await system.gone()
        assert system.cloud._servers == {}


async def test_a_server_that_vanished_is_ordered_anew_only_when_lists_would_show_it() -> None:
    async with running(settles_after=30.0) as system:
        await system.instance(management={"resyncInterval": "10s"})
        await system.ready()
        (server_id,) = system.cloud._servers
        system.cloud.vanish(server_id)
        await says(system, "does not exist any more")
        assert created(system) == 1
        await system.ready()
        assert created(system) == 2
        assert len(system.cloud._servers) == 1
