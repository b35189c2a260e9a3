"""What a plan costs the API server in reads, alone and in a crowd, and that the crowd hides no stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.system import System

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.ports import KubeApi

pytestmark = pytest.mark.looptime

CROWD = 150
"""More than one account has places for at once."""


class SlowApi:
    """An API server that is asked too much: every answer takes `latency` seconds. Reads are counted."""

    def __init__(self, api: KubeApi, latency: float) -> None:
        self._api = api
        self._latency = latency
        self.reads: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] = getattr(self._api, name)
        if name == "watch":
            return call

        async def late(type: Any, *args: Any, **options: Any) -> Any:
            if name in ("get", "list"):
                self.reads[f"{name} {type.plural}"] += 1
            await asyncio.sleep(self._latency)
            return await call(type, *args, **options)

        return late


async def begun(latency: float) -> tuple[System, SlowApi]:
    """A system whose operator waits so long for each answer, with a Provider that is Ready."""
    system = System(hosts=False, boot_seconds=0.0)
    system.operator_api = slow = SlowApi(system.operator_api, latency)
    await system.start()
    await system.provider()
    await system.ready("cloud", kind=Provider)
    slow.reads.clear()
    return system, slow


async def test_a_plan_reads_its_object_twice_and_its_journal_once() -> None:
    system, slow = await begun(latency=0.01)
    await system.instance()
    await system.ready()
    assert slow.reads == {"get instances": 2, "get operations": 1, "list approvalpolicies": 1, "get secrets": 3}
    await system.close()


async def test_in_a_crowd_a_plan_reads_no_more_than_alone() -> None:
    system, slow = await begun(latency=0.2)
    names = [f"web-{number}" for number in range(CROWD)]
    for name in names:
        await system.instance(name)
    for name in names:
        await system.ready(name)
    assert slow.reads["get instances"] == 2 * CROWD
    assert slow.reads["get operations"] == CROWD
    assert slow.reads["list approvalpolicies"] < CROWD / 2
    await system.close()


async def test_what_is_paused_while_it_stands_in_line_is_held_though_the_watch_is_dead() -> None:
    system, slow = await begun(latency=0.2)
    names = [f"web-{number}" for number in range(CROWD)]
    for name in names:
        await system.instance(name)
    await system.until(lambda: slow.reads["get instances"] > CROWD)  # all may begin, and the first ones do
    system.processes[0].tasks[[agent.kind for agent in system.agents].index(Instance)].cancel()  # the watch
    await system.annotate(last := names[-1], as_=system.erin, paused="true")
    for name in names:
        if name != last:
            await system.ready(name)
    assert system.cloud.calls.count("provision_server") == CROWD - 1
    await system.close()
