"""An agent with a bug: the object says so, and everybody else goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.system import System, running

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation
from agentmetal.agents.provider.agent import ProviderAgent
from agentmetal.core.condition import ConditionType, Reason
from agentmetal.engine.agent import Report

pytestmark = pytest.mark.looptime


class Raising(InstanceAgent):
    """Its report of one object raises."""

    def report(self, resource: Instance, observed: InstanceObservation) -> Report:
        if resource.metadata.name == "bad":
            raise ZeroDivisionError("division by zero")
        return super().report(resource, observed)


class Misspelling(InstanceAgent):
    """It reports a field of one object that status does not have."""

    def report(self, resource: Instance, observed: InstanceObservation) -> Report:
        told = super().report(resource, observed)
        return replace(told, fields={**told.fields, "adresses": []}) if resource.metadata.name == "bad" else told


@pytest.mark.parametrize(("agent", "told"), [(Raising, "division by zero"), (Misspelling, "'adresses'")])
async def test_a_bug_in_a_report_hurts_one_object(agent: type[InstanceAgent], told: str) -> None:
    async with running(agents=(ProviderAgent, agent)) as system:
        await system.instance("bad")
        stalled = await system.until(lambda: stalled_of(system, "bad"), timeout=60)
        assert stalled.reason == Reason.BUG
        assert told in stalled.message
        await system.instance("web-1")
        await system.ready("web-1")


def stalled_of(system: System, name: str) -> Any:
    """Its condition Stalled, when that is true."""
    condition = system.see(name).condition(ConditionType.STALLED)
    return condition if condition and condition.status == "True" else None
