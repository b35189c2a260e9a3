"""The Instance agent's plans on a real machine: every command it asks a host really exists there."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from tests.support.agents import CLUSTER, AgentWorld, instance, tools_of

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import Reach
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.machine import SecretKey
from agentmetal.core.plan import Plan
from agentmetal.core.ports import Ports
from agentmetal.core.tool import NotYet, Result, ToolContext
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal.providers.registry import ProviderRegistry

pytestmark = pytest.mark.needs_machines


class Life:
    """The agent with a real provider and real SSH; Secrets and objects are given."""

    def __init__(self, provider: NspawnProvider) -> None:
        self._given = AgentWorld()
        self._registry = ProviderRegistry(self._given.objects, {"Fake": lambda account: provider})
        self.machines = SshMachines(self._load_key, provider.fleet.dial, lambda owner, reason: None, cluster=CLUSTER)
        self.agent = InstanceAgent(
            Ports(
                cluster=CLUSTER,
                machines=self.machines,
                providers=self._registry,
                secrets=self._given.secrets,
                lookup=self._given.objects,
            )
        )

    async def _load_key(self, key: SecretKey) -> str:
        return (await self._given.secrets.read(key.namespace, key.name))[key.key].decode()

    async def carry_out(self, plan: Plan, resource: Instance) -> None:
        """Run a plan as the executor does, without a journal."""
        tools = {tool.name: tool for tool in self.agent.tools()}
        for number, step in enumerate(plan.steps, start=1):
            tool, context = tools[step.tool], self._context(resource, number)
            params = tool.parse(step.parameters)
            assert tool.holds(params, await tool.read(context, params)) is None
            async with asyncio.timeout(60):
                while True:
                    ended = await tool.run(context, params)
                    if not isinstance(ended, NotYet):
                        break
                    await asyncio.sleep(ended.again_in)
            assert isinstance(ended, Result)

    def _context(self, resource: Instance, step: int) -> ToolContext:
        ports = self.agent.ports
        return ToolContext(
            resource=resource,
            cluster=CLUSTER,
            operation=f"op-{uuid.uuid4().hex[:8]}",
            step=step,
            attempt=1,
            epoch=1,
            clock=ports.clock,
            machines=ports.machines,
            providers=ports.providers,
            secrets=ports.secrets,
            lookup=ports.lookup,
        )


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
