"""Why, what next, and who: the answers to people who wait."""

from __future__ import annotations

import pytest
from tests.support.system import running

from agentmetal.core.condition import ConditionType
from agentmetal.engine.explain import explain

pytestmark = pytest.mark.looptime


async def test_who_waits_for_a_missing_reference_is_told_that_somebody_must_act() -> None:
    async with running() as system:
        await system.instance(providerRef={"name": "nowhere"})
        await system.until(lambda: system.see().condition(ConditionType.READY))
        told = explain(system.see(), system.operations(), system.clock.now())
        assert any("create it" in line for line in told.why)
        assert told.who.startswith("whoever makes or mends what it waits for")


async def test_nobody_must_act_when_all_is_well() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        assert explain(system.see(), system.operations(), system.clock.now()).who == "nobody: all is well"
