"""Observe, Retain, power state and fence: what is not done, and what is done first."""

from __future__ import annotations

import pytest
from tests.support.system import System, running
from tests.support.trouble import condition, created, only_server, phases, quiet, running_step, says, tools

from agentmetal.agents.instance.api import Instance
from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.errors import Forbidden
from agentmetal.core.machine import ServerState
from agentmetal.providers.fake_server import loop_time

pytestmark = pytest.mark.looptime

OBSERVE = {"mode": "Observe"}
FENCE = {"holder": "Database default/pg", "epoch": 3, "reason": "it was primary"}


async def _state(system: System) -> ServerState:
    return ServerState((await only_server(system)).state(loop_time()))


async def _fence(system: System, fence: dict[str, object] | None = FENCE) -> None:
    await system.operator_api.patch(Instance.info.type, "default", "web-1", {"spec": {"fence": fence}})


async def test_observe_shows_the_plan_without_a_digest_and_does_nothing() -> None:
    async with running(hosts=False) as system:
        await system.instance(management=OBSERVE)
        said = await says(system, "nothing is done: spec.management.mode is Observe", type="Drifted")
        assert said.status == "True"
        plan = system.see().status.plan
        assert [step.tool for step in plan.steps] == ["provision_instance"]
        assert plan.digest is None
        await quiet(3600)
        assert (created(system), phases(system)) == (0, [])
        await system.edit("web-1", management={"mode": "Manage"})
        await system.ready()


async def test_switching_to_observe_takes_a_waiting_plan_back() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        await system.awaiting()
        await system.edit("web-1", management=OBSERVE)
        await says(system, "mode is Observe", type="Drifted")
        assert phases(system) == ["Succeeded", "Withdrawn"]
        assert condition(system.see(), "AwaitingApproval").status == "False"


async def test_switching_to_observe_holds_a_plan_in_the_middle() -> None:
    async with running(boot_seconds=60.0) as system:
        await system.instance()
        await running_step(system, "provision_instance")
        await system.edit("web-1", management=OBSERVE)
        await says(system, "mode is Observe: nothing is changed", type="Reconciling")
        await quiet(900)
        assert phases(system) == ["Running"]
        assert not system.hosts.journal
        await system.edit("web-1", management={"mode": "Manage"})
        await system.ready()
        assert phases(system) == ["Succeeded"]


@pytest.mark.parametrize("management", [OBSERVE, {"deletionPolicy": "Retain"}], ids=["Observe", "Retain"])
async def test_deleting_lets_go_of_the_server_without_approval(management: dict[str, str]) -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        server = await only_server(system)
        await system.edit("web-1", management=management)
        await system.ready()
        await system.delete("web-1")
        await system.gone()
        assert await _state(system) is ServerState.RUNNING
        assert "decommission_server" not in system.cloud.calls
        assert CLAIM_PATH not in system.hosts.host(server.id).files


async def test_deleting_what_was_only_ever_observed_touches_nothing() -> None:
    async with running() as system:
        await system.instance(management=OBSERVE)
        await says(system, "mode is Observe", type="Drifted")
        await system.delete("web-1")
        await system.gone(timeout=10)
        assert phases(system) == []


async def test_power_goes_off_and_on_as_the_spec_says() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", powerState="Off")
        ready = await system.ready()
        assert condition(ready).message == "it is off, as powerState says"
        assert await _state(system) is ServerState.STOPPED
        await quiet()
        assert await _state(system) is ServerState.STOPPED
        await system.edit("web-1", powerState="On")
        await system.ready()
        assert await _state(system) is ServerState.RUNNING


async def test_an_editor_cannot_fence() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        with pytest.raises(Forbidden, match=r"spec\.fence is the operator's"):
            await system.edit("web-1", fence=FENCE)


async def test_a_fence_cuts_the_power_and_says_so_only_after_reading_it_back() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        states = []

        def fenced() -> bool:
            found = [c for c in system.see().status.conditions if c.type == "Fenced" and c.status == "True"]
            states.append((bool(found), next(iter(system.cloud._servers.values())).state(loop_time())))
            return bool(found)

        await _fence(system)
        await system.until(fenced)
        assert (True, ServerState.RUNNING) not in states
        assert "fenced by Database default/pg, epoch 3" in condition(system.see(), "Fenced").message
        assert tools(system.plans()[-1]) == ["stop_instance"]
        assert condition(system.see()).reason == "Fenced"


async def test_nothing_powers_a_fenced_server_on_until_the_holder_lifts_it() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        await _fence(system)
        await says(system, "it is off and stays off", type="Fenced", status="True")
        await system.edit("web-1", powerState="Off")
        await system.edit("web-1", powerState="On")
        await system.annotate("web-1", as_=system.erin, replan="1")
        await quiet(1800)
        assert await _state(system) is ServerState.STOPPED
        await _fence(system, None)
        await system.ready()
        assert await _state(system) is ServerState.RUNNING


async def test_a_fence_in_the_middle_of_a_plan_comes_first() -> None:
    async with running(boot_seconds=60.0) as system:
        await system.instance()
        await running_step(system, "provision_instance")
        await _fence(system)
        await says(system, "it is off and stays off", type="Fenced", status="True")
        assert phases(system)[0] == "Cancelled"
        assert await _state(system) is ServerState.STOPPED


async def test_a_fence_does_not_wait_until_the_plans_have_come_to_rest() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await _fence(system, FENCE)
        await says(system, "it is off and stays off", type="Fenced", status="True")
        server, ledger = await only_server(system), system.processes[-1].core.ledger
        for _ in range(3):  # somebody switches it on again and again
            server.start()
            await system.annotate("web-1", as_=system.erin, reconcile_at=f"{loop_time()}")
            await system.until(lambda: server.state(loop_time()) is ServerState.STOPPED, timeout=5)
            await system.until(lambda: ledger.running(system.see().uid) is None, timeout=5)


async def _off_within(system: System, seconds: float) -> None:
    """Somebody powers the server on; it is off again in time."""
    server = await only_server(system)
    assert server.state(loop_time()) is ServerState.STOPPED
    server.start()
    assert server.state(loop_time()) is ServerState.RUNNING
    await system.until(lambda: server.state(loop_time()) is ServerState.STOPPED, timeout=seconds)


async def test_a_fenced_server_that_is_powered_on_behind_our_back_is_off_within_ten_seconds() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        await _fence(system)
        await says(system, "it is off and stays off", type="Fenced", status="True")
        await quiet(1800)
        await _off_within(system, 10)


async def test_a_fenced_server_is_watched_while_its_deletion_waits_for_a_human() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        await _fence(system)
        await says(system, "it is off and stays off", type="Fenced", status="True")
        await system.delete("web-1")
        await system.awaiting()
        await quiet(1800)
        await _off_within(system, 10)


async def test_a_server_that_should_be_off_is_off_again_within_twenty_seconds() -> None:
    async with running() as system:
        await system.instance(powerState="Off")
        await system.ready()
        await quiet(1800)
        await _off_within(system, 20)


async def test_a_server_that_runs_as_it_should_is_looked_at_every_resync_interval_only() -> None:
    async with running() as system:
        await system.instance(management={"resyncInterval": "5m"})
        await system.ready()
        await quiet(600)
        before = system.cloud.calls.count("get_server")
        await quiet(3000)
        assert system.cloud.calls.count("get_server") - before == 10
