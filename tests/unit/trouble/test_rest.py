"""Plans that wait for a human cost nothing while they wait: no write, and one look at each resync."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.system import running

from agentmetal.kube.memory import WRITES

pytestmark = pytest.mark.looptime
WAITING = 15
RESYNC = 600.0


async def test_plans_that_wait_are_looked_at_once_in_a_resync_interval_and_write_nothing() -> None:
    async with running() as system:
        names = [f"web-{number}" for number in range(WAITING)]
        for name in names:
            await system.instance(name, management={"resyncInterval": "10m"})
        for name in names:
            await system.ready(name)
            await system.edit(name, image="bookworm-20")
        for name in names:
            await system.awaiting(name)
        await asyncio.sleep(60.0)
        core, requests = system.processes[-1].core, system.cluster.requests
        passes = core.metrics.registry.get_sample_value
        labels = {"controller": "Instance", "result": "success"}
        before, requests[:] = passes("controller_runtime_reconcile_total", labels) or 0.0, []
        await asyncio.sleep(6 * RESYNC)
        assert not [request for request in requests if request.verb in WRITES]
        after = passes("controller_runtime_reconcile_total", labels) or 0.0
        assert 5 * WAITING <= after - before <= 7 * WAITING
