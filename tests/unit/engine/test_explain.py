"""Why, what next, and who: the answers to people who wait."""

from __future__ import annotations

import pytest
from tests.support.system import running

from agentmetal.core.condition import ConditionType
from agentmetal.core.operation import OperationPhase
from agentmetal.engine.explain import explain, taken_up
from agentmetal.providers.fake_proc import Health

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


async def test_a_plan_that_a_new_leader_took_up_says_so_while_it_runs_and_afterwards() -> None:
    async with running(boot_seconds=30.0) as system:
        await system.instance()
        await system.until(lambda: system.plans(OperationPhase.RUNNING))
        await system.processes[-1].crash()
        await system.start()
        told = explain(system.see(), system.operations(), system.clock.now())
        assert any("taken up by a new leader once" in line for line in told.why)
        await system.ready()
        (operation,) = system.plans()
        assert operation.status.message.startswith(f"3 of 3 steps done{taken_up(operation)}. ")


async def test_an_ill_machine_is_ready_and_not_said_to_be_well() -> None:
    async with running() as system:
        await system.instance()
        web = await system.ready()
        ill = Health(disk_free=0.01, failed_units=("cron.service",), reboot_required=True)
        system.hosts.host(web.status.provider_id).health = ill
        await system.annotate("web-1", as_=system.erin, reconcile_at="now")
        await system.until(lambda: system.see().condition(ConditionType.DEGRADED))
        lines = explain(system.see(), system.operations(), system.clock.now()).lines()
        assert any("DiskFull" in line and "nearly full" in line and "cron.service" in line for line in lines)
        assert "Seen: failed units: cron.service" in lines
        assert any(line.startswith("Seen: packages ask for a reboot") for line in lines)
        assert lines[-1].startswith("Who:  whoever can mend what Degraded says")
