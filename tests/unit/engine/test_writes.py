"""What is written, and when nothing is: the operator costs the API server nothing while nothing changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.system import NAMESPACE, System, running

from agentmetal.agents.instance.api import Instance
from agentmetal.app import first_looks_within
from agentmetal.core.resource import Key

pytestmark = pytest.mark.looptime


def _versions(system: System) -> dict[Any, str]:
    places = list(system.cluster.contents(NAMESPACE))
    return {place: (system.cluster.peek(*place) or {})["metadata"]["resourceVersion"] for place in places}


async def _written(system: System, since: int) -> list[tuple[str, str, str]]:
    return [(w.verb, w.plural, w.subresource) for w in system.cluster.writes[since:]]


async def test_from_creation_to_running_an_instance_costs_five_writes_and_its_key() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        since = len(system.cluster.writes)
        await system.ready()
        await asyncio.sleep(60)
        assert await _written(system, since) == [
            ("create", "operations", ""),
            ("patch", "instances", "status"),
            ("patch", "operations", ""),
            ("create", "secrets", ""),
            ("patch", "operations", ""),
            ("patch", "instances", "status"),
        ]


async def test_a_plan_of_n_steps_costs_n_plus_two_writes_of_its_operation() -> None:
    async with running() as system:
        since = len(system.cluster.writes)
        await system.instance()
        await system.ready()
        steps = len(system.plans()[0].spec.steps)
        written = [w for w in system.cluster.writes[since:] if w.plural == "operations"]
        assert len(written) == steps + 2


async def test_a_settled_system_writes_nothing_for_an_hour_and_over_a_restart() -> None:
    async with running() as system:
        for number in range(3):
            await system.instance(f"web-{number}")
        for number in range(3):
            await system.ready(f"web-{number}")
        await asyncio.sleep(30)
        before, since = _versions(system), len(system.cluster.writes)
        await asyncio.sleep(3600)
        await system.processes[-1].crash()
        await system.start()
        await asyncio.sleep(3600)
        assert system.cluster.writes[since:] == []
        assert _versions(system) == before


async def test_a_plan_that_waits_writes_nothing_until_a_new_leader_puts_its_epoch_into_it() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        await system.awaiting()
        await asyncio.sleep(10)
        since = len(system.cluster.writes)
        await asyncio.sleep(3600)
        assert system.cluster.writes[since:] == []
        await system.processes[-1].crash()
        await system.start()
        await asyncio.sleep(600)
        assert await _written(system, since) == [("patch", "operations", "")]


async def test_our_own_status_writes_wake_nobody() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await asyncio.sleep(60)
        core = system.processes[-1].core
        key, passes = Key("Instance", NAMESPACE, "web-1"), _Passes(system)
        await passes.restart()
        status = {"status": {"facts": {"kernel": "another"}}}
        await system.operator_api.patch(Instance.info.type, NAMESPACE, "web-1", status, subresource="status")
        await asyncio.sleep(1)
        assert passes.of(key) == 0
        assert len(core.queue) == 0


class _Passes:
    """Counts looks at the world: every pass of a settled Instance asks for its server once."""

    def __init__(self, system: System) -> None:
        self._system, self._since = system, 0

    async def restart(self) -> None:
        self._since = len(self._system.cloud.calls)

    def of(self, key: Key) -> int:
        return self._system.cloud.calls[self._since :].count("get_server")


async def test_an_annotation_that_is_not_ours_wakes_nobody() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await asyncio.sleep(60)
        passes = _Passes(system)
        await passes.restart()
        await system.erin.patch(
            Instance.info.type, NAMESPACE, "web-1", {"metadata": {"annotations": {"example.io/note": "hello"}}}
        )
        await asyncio.sleep(1)
        assert passes.of(Key("Instance", NAMESPACE, "web-1")) == 0


def test_after_a_restart_few_objects_are_seen_at_once_and_many_are_spread_over_the_resync_interval() -> None:
    assert first_looks_within(resync=300, objects=3) == 1.0
    assert first_looks_within(resync=300, objects=1_000) == 50.0
    assert first_looks_within(resync=300, objects=10_000) == 300.0
    assert first_looks_within(resync=86_400, objects=3) == 86_400
