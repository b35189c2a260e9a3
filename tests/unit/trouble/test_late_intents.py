"""A step whose intent takes minutes to be written, and a human who says stop meanwhile: nothing may be done then."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.system import System, running

from agentmetal.core.errors import Unavailable
from agentmetal.core.operation import Operation, OperationPhase
from agentmetal.core.resource import ResourceType

pytestmark = pytest.mark.looptime


class Outage:
    """The API server refuses to change operations."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.refused = 0
        system.cluster.faults.before = self

    def __call__(self, verb: str, type: ResourceType, name: str) -> None:
        if verb == "patch" and type == Operation.info.type:
            self.refused += 1
            raise Unavailable("500 internal error")

    def end(self) -> None:
        self._system.cluster.faults.before = lambda _verb, _type, _name: None


async def intending(system: System) -> Outage:
    """An Instance whose first intent cannot be written."""
    outage = Outage(system)
    await system.instance()
    await system.until(lambda: outage.refused)
    await asyncio.sleep(5.0)
    return outage


async def test_a_pause_during_an_outage_holds_the_step_whose_intent_is_late() -> None:
    async with running() as system:
        outage = await intending(system)
        await system.annotate("web-1", as_=system.erin, paused="true")
        outage.end()
        await asyncio.sleep(60.0)
        assert "provision_server" not in system.cloud.calls, "a server was ordered after the pause"
        await system.annotate("web-1", as_=system.erin, paused=None)
        await system.ready()
        assert system.cloud.calls.count("provision_server") == 1


async def test_a_deletion_during_an_outage_ends_the_plan_whose_intent_is_late() -> None:
    async with running() as system:
        outage = await intending(system)
        await system.delete("web-1")
        outage.end()
        await system.gone()
        assert "provision_server" not in system.cloud.calls
        assert not system.plans(OperationPhase.RUNNING)


async def test_an_outage_alone_delays_the_step_and_no_more() -> None:
    async with running() as system:
        outage = await intending(system)
        outage.end()
        await system.ready()
        assert system.cloud.calls.count("provision_server") == 1
        assert [operation.phase for operation in system.plans()] == [OperationPhase.SUCCEEDED]
