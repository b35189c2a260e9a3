"""A machine whose / is full or read-only, or whose clock is wrong: it is said, and nothing is made worse."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.support.system import System, running
from tests.support.trouble import condition, says

from agentmetal.clients.ssh.wrapper import PATH as WRAPPER_PATH
from agentmetal.core.clock import rfc3339
from agentmetal.core.condition import Reason
from agentmetal.core.operation import OperationPhase
from agentmetal.providers.fake_hosts import FakeHost
from agentmetal.providers.fake_proc import Health

pytestmark = pytest.mark.looptime


async def machine(system: System) -> FakeHost:
    """The host of an Instance that is Ready."""
    await system.instance()
    web = await system.ready()
    return system.hosts.host(web.status.provider_id)


async def looked_at(system: System) -> None:
    await system.annotate("web-1", as_=system.erin, reconcile_at=rfc3339(system.clock.now()))


ILL = [
    (Health(read_only=True), "read-only", Reason.READ_ONLY),
    (Health(disk_free=0.0), "no space is left", Reason.DISK_FULL),
]


@pytest.mark.parametrize(("ill", "why", "reason"), ILL)
async def test_what_cannot_be_prepared_says_why_and_goes_on_once_it_can(ill: Health, why: str, reason: Reason) -> None:
    async with running() as system:
        host = await machine(system)
        host.health, host.full, host.installed = ill, reason is Reason.DISK_FULL, False
        del host.files[WRAPPER_PATH]
        await looked_at(system)
        await says(system, why, type="Stalled")
        await says(system, "its / is", type="Degraded")
        assert condition(system.see(), "Degraded").reason == reason
        failed = len(system.plans(OperationPhase.FAILED))
        await asyncio.sleep(3600)
        assert len(system.plans(OperationPhase.FAILED)) - failed <= 12, "it is tried again, less and less often"
        host.health, host.full = Health(), False
        await system.ready(timeout=1200)
        await system.until(lambda: not [c for c in system.see().status.conditions if c.type == "Degraded"])


async def test_a_reboot_is_asked_for_by_our_clock_and_done_once_whatever_the_hosts_clock_says() -> None:
    async with running() as system:
        host = await machine(system)
        host.health = Health(clock_ahead=-20 * 365 * 86400.0)
        await asyncio.sleep(60)
        boots = len(host.server.boots)
        await system.annotate("web-1", as_=system.erin, reboot_at=rfc3339(system.clock.now() - timedelta(seconds=5)))
        await system.until(lambda: len(host.server.boots) == boots + 1)
        await system.ready()
        await says(system, "chrony", type="Degraded")
        await asyncio.sleep(3600)
        assert len(host.server.boots) == boots + 1, "once"
