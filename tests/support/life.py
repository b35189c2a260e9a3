"""The Instance agent with a real provider and real SSH, without an operator: for tests of what hosts really do."""

from __future__ import annotations

import asyncio
import uuid

from tests.support.agents import CLUSTER, AgentWorld

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.machine import SecretKey
from agentmetal.core.plan import Plan
from agentmetal.core.ports import Ports
from agentmetal.core.tool import NotYet, Result, ToolContext
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal.providers.registry import ProviderRegistry


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
