"""The Instance agent's plans on a real machine: every command it asks a host really exists there."""

from __future__ import annotations

import uuid

import pytest
from tests.support.agents import instance, tools_of
from tests.support.life import Life

from agentmetal.agents.instance.observation import Reach
from agentmetal.providers.nspawn.provider import NspawnProvider

pytestmark = pytest.mark.needs_machines


async def test_a_real_server_from_the_order_to_the_end(nspawn: NspawnProvider) -> None:
    life = Life(nspawn)
    agent, web = life.agent, instance(uid=str(uuid.uuid4()))
    try:
        await life.carry_out(agent.reconcile(web, await agent.observe(web)), web)
        observed = await agent.observe(web)
        assert observed.reach is Reach.ANSWERING
        assert observed.unprepared == ()
        assert observed.look is not None
        assert observed.look.os.startswith("Debian")
        assert observed.look.kernel and observed.look.architecture and observed.look.machine_id
        assert observed.look.cpus > 0 and observed.look.memory_mb > 0

        web = instance(uid=web.uid, status=dict(agent.report(web, observed).fields), powerState="Off")
        await life.carry_out(agent.reconcile(web, await agent.observe(web)), web)
        assert (await agent.observe(web)).off
        web = instance(uid=web.uid, status=web.status.wire())
        (issue,) = agent.issues(web, off := await agent.observe(web))
        await life.carry_out(agent.heal(web, off, issue), web)
        assert (await agent.observe(web)).unprepared == ()
    finally:
        going = instance(uid=web.uid, deleting=True)
        plan = agent.teardown(going, await agent.observe(going))
        await life.carry_out(plan, going)
        await life.machines.close()
    assert tools_of(plan) == ["decommission_instance"]
    assert await nspawn.find_server(str(plan.steps[0].parameters["server"])) is None
