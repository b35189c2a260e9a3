"""Reboots that are asked for, sizes and rescue systems, with the whole operator: once, in time, and nobody left off."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.support.system import System, running
from tests.support.trouble import condition, look_again, only_server, phases, quiet, running_step, says, tools

from agentmetal.core.clock import rfc3339
from agentmetal.core.errors import LimitReached
from agentmetal.core.machine import ServerState
from agentmetal.core.operation import OperationPhase
from agentmetal.providers.fake_host import Effect

pytestmark = pytest.mark.looptime

DAY = 86400.0


def reboots(system: System) -> int:
    """How often a host was told to reboot."""
    return sum(run.argv == ("systemctl", "reboot") for run in system.hosts.journal)


async def boots(system: System) -> int:
    return len((await only_server(system)).boots)


async def settled(system: System, **spec: Any) -> Any:
    """An Instance that is Ready and has been so for a while; its server."""
    rare = {"resyncInterval": "6h", **spec.pop("management", {})}
    await system.instance(**spec, management=rare)
    await system.ready()
    await quiet(60)
    return await only_server(system)


async def ask(system: System, *, in_seconds: float = 0.0) -> str:
    """Annotate a time; that time."""
    when = rfc3339(system.clock.now() + timedelta(seconds=in_seconds))
    await system.annotate("web-1", as_=system.erin, reboot_at=when)
    return when


async def rebooted(system: System, times: int = 1) -> None:
    done = [op for op in system.plans(OperationPhase.SUCCEEDED) if tools(op) == ["reboot_host"]]
    assert (len(done), reboots(system)) == (times, times)


async def test_a_host_is_rebooted_once_however_long_the_annotation_stays() -> None:
    async with running() as system:
        await settled(system)
        await ask(system)
        await quiet(2 * DAY)
        await rebooted(system)
        assert await boots(system) == 2
        assert condition(system.see()).status == "True"


async def test_an_editor_needs_no_approval_for_a_reboot_and_it_says_what_it_does() -> None:
    async with running() as system:
        await settled(system)
        when = await ask(system)
        operation = await running_step(system, "reboot_host")
        assert operation.spec.risk == "Moderate"
        assert operation.spec.steps[0].description.endswith(f"as asked for at {when}")


async def test_asking_again_while_it_goes_down_asks_for_nothing_more() -> None:
    async with running(boot_seconds=30.0) as system:
        await settled(system)
        await ask(system)
        await running_step(system, "reboot_host")
        await quiet(5)
        await ask(system)
        await quiet(DAY)
        await rebooted(system)


async def test_asking_again_when_it_is_back_reboots_again() -> None:
    async with running() as system:
        await settled(system)
        for times in (1, 2):
            await ask(system)
            await quiet(600)
            await rebooted(system, times)


async def test_a_reboot_in_the_future_comes_in_time() -> None:
    async with running() as system:
        await settled(system, management={"resyncInterval": "24h"})
        await ask(system, in_seconds=5000)
        await quiet(4990)
        assert await boots(system) == 1
        await quiet(60)
        await rebooted(system)


async def test_an_annotation_from_git_does_nothing_to_a_younger_host() -> None:
    async with running() as system:
        old = rfc3339(system.clock.now() - timedelta(days=3))
        spec = {"providerRef": {"name": "cloud"}, "type": "small", "image": "bookworm"}
        await system.apply("Instance", "web-1", spec, annotations={"agentmetal.io/reboot-at": old})
        await system.ready()
        await quiet(DAY)
        assert reboots(system) == 0


async def test_a_time_that_is_not_understood_is_told_and_disturbs_nothing() -> None:
    async with running() as system:
        await settled(system)
        await system.annotate("web-1", as_=system.erin, reboot_at="tonight")
        said = await says(system, "write a time with its zone", type="Degraded", status="True")
        assert said.reason == "InvalidAnnotation"
        assert condition(system.see()).status == "True"
        await system.annotate("web-1", as_=system.erin, reboot_at=None)
        await system.until(lambda: [c for c in system.see().status.conditions if c.type == "Degraded"] == [])


@pytest.mark.parametrize("seconds", [0.0, 1.0, 4.0, 20.0, 33.0])
async def test_an_operator_that_crashes_meanwhile_reboots_once(seconds: float) -> None:
    async with running(boot_seconds=30.0) as system:
        await settled(system)
        await ask(system)
        await running_step(system, "reboot_host")
        await quiet(seconds)
        await system.processes[-1].crash()
        await system.start()
        await system.until(lambda: "Succeeded" in phases(system)[1:])
        await quiet(DAY)
        await rebooted(system)


async def test_a_lost_answer_to_the_order_reboots_once() -> None:
    async with running() as system:
        await settled(system)
        system.hosts.faults.lose_reply(call="start_unit")
        await ask(system)
        await quiet(DAY)
        await rebooted(system)


@pytest.mark.parametrize("ahead", [-20 * 365 * DAY, 40 * 365 * DAY])
async def test_a_clock_that_is_far_off_on_the_host_does_not_matter(ahead: float) -> None:
    async with running() as system:
        server = await settled(system)
        system.hosts.host(server.id).health.clock_ahead = ahead
        await ask(system)
        await quiet(DAY)
        await rebooted(system)


async def test_a_clock_that_runs_fast_on_the_host_never_makes_an_old_request_new() -> None:
    async with running() as system:
        server = await settled(system)
        await ask(system)
        await quiet(600)
        host, began = system.hosts.host(server.id), asyncio.get_running_loop().time()
        for _ in range(4):  # a minute and more a day: worse than any clock without NTP
            await quiet(3600)
            up = (asyncio.get_running_loop().time() - began) * 1.0009 + 593
            host.files["/proc/uptime"] = f"{up:.2f} 0.00\n".encode()
            host.files["/proc/1/stat"] = b"1 (systemd) S" + b" 0" * 30
            await look_again(system)
            await quiet(60)
        await rebooted(system)


async def test_a_paused_object_is_not_rebooted_until_it_is_resumed() -> None:
    async with running() as system:
        await settled(system)
        await system.annotate("web-1", as_=system.erin, paused="true")
        await ask(system)
        await quiet(600)
        assert reboots(system) == 0
        assert condition(system.see(), "Drifted").status == "True"
        await system.annotate("web-1", as_=system.erin, paused=None)
        await quiet(600)
        await rebooted(system)


async def test_a_deletion_does_not_wait_for_a_host_that_reboots() -> None:
    async with running(boot_seconds=300.0) as system:
        await settled(system)
        await ask(system)
        await running_step(system, "reboot_host")
        await quiet(10)
        await system.delete("web-1")
        await system.awaiting(timeout=30)
        assert phases(system)[1] == "Cancelled"


async def test_a_host_that_refuses_to_reboot_is_a_failed_step_with_its_words() -> None:
    async with running() as system:
        await settled(system, management={"retries": 1})
        system.hosts.unit(["systemctl", "reboot"], Effect(exit_code=1, output="Operation inhibited by dpkg"))
        await ask(system)
        said = await says(system, "does not reboot (exit code 1)")
        assert "inhibited by dpkg" in said.message


async def test_a_host_that_does_not_come_back_is_reset_after_a_clear_failure() -> None:
    async with running() as system:
        server = await settled(system)
        host = system.hosts.host(server.id)
        system.hosts.unit(["systemctl", "reboot"], Effect())
        await ask(system)
        await running_step(system, "reboot_host")
        host.frozen = True
        await quiet(890)
        failed = await system.until(lambda: system.plans(OperationPhase.FAILED))
        assert "not done within 900 s" in failed[0].status.message
        await system.until(lambda: [op for op in system.plans() if "reboot_instance" in tools(op)])
        host.frozen = False
        await system.ready()


async def test_a_host_that_reboots_in_the_middle_of_a_step_is_prepared_all_the_same() -> None:
    async with running() as system:
        system.hosts.unit(["hostnamectl"], Effect(seconds=20.0))
        await system.instance()
        await running_step(system, "prepare_host")
        await system.until(lambda: [run for run in system.hosts.journal if run.argv[0] == "hostnamectl"])
        server = await only_server(system)
        system.cloud.reboot(server.id, clean=False)
        system.hosts.unit(["hostnamectl"], Effect(seconds=1.0))
        await system.ready()
        assert phases(system) == ["Succeeded"]
        assert system.plans()[0].status.steps[2].attempt == 2, "a new unit after a known interruption"


async def test_another_type_is_given_while_the_server_is_off() -> None:
    async with running() as system:
        server = await settled(system)
        await system.edit("web-1", type="large")
        await system.ready()
        operation = system.plans()[-1]
        assert tools(operation)[:3] == ["stop_instance", "resize_instance", "start_instance"]
        assert (server.spec.type, len(server.boots), server.boots[0].clean) == ("large", 2, True)


async def test_a_server_that_cannot_have_the_type_runs_on_and_says_why() -> None:
    async with running() as system:
        server = await settled(system, management={"retries": 0})
        system.cloud.faults.fail(LimitReached("no such machine is free"), call="resize_server")
        await system.edit("web-1", type="large")
        failed = await system.until(lambda: system.plans(OperationPhase.FAILED))
        assert "no such machine is free" in failed[0].status.message
        assert server.state(asyncio.get_running_loop().time()) is ServerState.RUNNING
        await system.ready()
        assert server.spec.type == "large", "it was tried again, after a while"


async def test_whoever_pauses_or_edits_a_resize_in_the_middle_leaves_nobody_switched_off() -> None:
    async with running() as system:
        server = await settled(system)
        system.cloud.faults.latency = 5.0
        await system.edit("web-1", type="large")
        await running_step(system, "resize_instance")
        await system.annotate("web-1", as_=system.erin, paused="true")
        system.cloud.faults.latency = 0.0
        await quiet(60)
        assert server.state(asyncio.get_running_loop().time()) is ServerState.RUNNING


@pytest.mark.parametrize("tool", ["stop_instance", "resize_instance", "start_instance"])
async def test_an_operator_that_crashes_in_a_resize_leaves_nobody_switched_off(tool: str) -> None:
    async with running() as system:
        server = await settled(system)
        system.cloud.faults.latency = 1.0
        await system.edit("web-1", type="large")
        await running_step(system, tool)
        await system.processes[-1].crash()
        system.cloud.faults.latency = 0.0
        await system.start()
        await system.ready()
        assert (server.spec.type, len(server.boots)) == ("large", 2)


async def test_a_fence_in_the_middle_of_a_resize_keeps_the_server_off() -> None:
    async with running() as system:
        server = await settled(system)
        system.cloud.faults.latency = 5.0
        await system.edit("web-1", type="large")
        await running_step(system, "resize_instance")
        fence = {"holder": "Database default/db", "epoch": 1, "reason": "failover"}
        await system.operator_api.patch(system.see().info.type, "default", "web-1", {"spec": {"fence": fence}})
        system.cloud.faults.latency = 0.0
        await says(system, "it is off and stays off", type="Fenced", status="True")
        assert server.state(asyncio.get_running_loop().time()) is ServerState.STOPPED


async def test_a_rescue_system_is_left_alone_until_it_is_left() -> None:
    async with running() as system:
        server = await settled(system)
        await system.edit("web-1", powerState="Rescue")
        await says(system, "it runs its rescue system, as powerState says", status="False")
        known = system.see().status
        await quiet(3600)
        assert system.see().status.machine_id == known.machine_id, "nothing is said about the host's own system"
        assert tools(system.plans()[-1]) == ["rescue_instance", "wait_for_ready"]
        await system.edit("web-1", powerState="On")
        await system.ready()
        assert not server.rescued
        assert server.boots[1].clean, "its disks were mounted there"
        assert len(system.plans()) == 3
