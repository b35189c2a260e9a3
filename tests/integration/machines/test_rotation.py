"""Rotation of the client key on real machines: afterwards sshd refuses the old key and takes the new one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.integration.machines.conftest import order
from tests.support.agents import CLUSTER, AgentWorld, instance, provider
from tests.support.fleet import becomes

from agentmetal.clients.keys import make_key_pair
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.errors import AuthenticationFailed, Unavailable
from agentmetal.core.machine import MachineIdentity, OwnerTag, SecretKey, Server, ServerState
from agentmetal.core.resource import Key
from agentmetal.core.tool import AnyTool, NotYet, Result, ToolContext
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal.providers.registry import ProviderRegistry
from agentmetal_tools.hosts import CLIENT_PRIVATE, CLIENT_PUBLIC, HOST_PUBLIC
from agentmetal_tools.rotation import (
    RevokeParams,
    RotationParams,
    make_next_key,
    revoke_old_key,
    spread_key,
    switch_key,
)

pytestmark = pytest.mark.needs_machines
PARAMS = RotationParams(provider="cloud", secret="cloud-ssh", rotation="r1")
REVOKE = RevokeParams(provider="cloud", secret="cloud-ssh", rotation="r1", overlap_seconds=0)
OLD = SecretKey(namespace="shop", name="old", key=CLIENT_PRIVATE)
CURRENT = SecretKey(namespace="shop", name="cloud-ssh", key=CLIENT_PRIVATE)


class Real:
    """The tools with a real provider and real SSH; Secrets and objects are given."""

    def __init__(self, nspawn: NspawnProvider) -> None:
        self.given, self.nspawn = AgentWorld(), nspawn
        self.given.providers = ProviderRegistry(self.given.objects, {"Fake": lambda account: nspawn})
        self.machines = self.process()
        self.servers: list[tuple[Server, str, OwnerTag]] = []

    def process(self) -> SshMachines:
        """Connections of a new operator process."""
        return SshMachines(self._load_key, self.nspawn.fleet.dial, lambda owner, reason: None, cluster=CLUSTER)

    async def _load_key(self, key: SecretKey) -> str:
        return (await self.given.secrets.read(key.namespace, key.name))[key.key].decode()

    async def add(self) -> None:
        """A machine with its Instance."""
        pair, spec = make_key_pair("host"), order()
        tag = OwnerTag(cluster=CLUSTER, namespace="shop", uid=spec.owner.uid)
        client = self.given.secrets.held["cloud-ssh"][CLIENT_PUBLIC].decode()
        spec = replace(spec, owner=tag, authorized_keys=(client,), host_key=pair.private_openssh)
        server = await self.nspawn.provision_server(spec)
        resource = instance(uid=tag.uid)
        resource = resource.model_copy(update={"metadata": resource.metadata.model_copy(update={"name": spec.name})})
        self.given.objects.objects[resource.key] = resource
        self.given.objects.referring = (*self.given.objects.referring, resource.key)
        self.given.secrets.held[f"{spec.name}-host-key"] = {HOST_PUBLIC: pair.public_line.encode()}
        running = await becomes(self.nspawn, server.id, ServerState.RUNNING)
        self.servers.append((running, pair.public_line, tag))

    async def end(self, tool: AnyTool, params: RotationParams = PARAMS) -> None:
        """Call it until it has ended."""
        context = ToolContext(
            resource=provider(),
            cluster=CLUSTER,
            operation="op-1",
            step=1,
            attempt=1,
            epoch=1,
            clock=self.given.clock,
            machines=self.machines,
            providers=self.given.providers,
            secrets=self.given.secrets,
            lookup=self.given.objects,
        )
        async with asyncio.timeout(60):
            while isinstance(ended := await tool.run(context, params), NotYet):  # noqa: ASYNC110 - it says when
                await asyncio.sleep(min(1.0, ended.again_in))
        assert isinstance(ended, Result)

    async def login(self, number: int, key: SecretKey) -> str:
        """What the host says to that key, on a connection of its own."""
        server, host_key, _ = self.servers[number]
        identity = MachineIdentity(
            owner=Key("Test", "shop", "probe"),
            server_id=server.id,
            address=server.addresses[0],
            port=server.port,
            user=server.user,
            host_key=host_key,
            client_key=key,
        )
        machines = self.process()
        try:
            async with asyncio.timeout(30):
                while True:
                    try:
                        return (await (await machines.connect(identity)).run(["id", "-un"])).stdout.strip()
                    except Unavailable:
                        await asyncio.sleep(0.2)
        finally:
            await machines.close()

    async def close(self) -> None:
        await self.machines.close()
        for server, _, tag in self.servers:
            await self.nspawn.decommission_server(server.id, tag)


async def test_afterwards_the_old_key_is_refused_and_the_new_one_logs_in(nspawn: NspawnProvider) -> None:
    real = Real(nspawn)
    try:
        await real.add()
        await real.add()
        held = real.given.secrets.held
        held["old"] = dict(held["cloud-ssh"])
        await real.end(make_next_key)
        await real.end(spread_key)
        assert [await real.login(n, OLD) for n in (0, 1)] == ["root", "root"], "the overlap"
        await real.machines.close()
        real.machines = real.process()  # the operator is restarted in between
        await real.end(switch_key)
        assert held["cloud-ssh"][CLIENT_PUBLIC] != held["old"][CLIENT_PUBLIC]
        assert [await real.login(n, CURRENT) for n in (0, 1)] == ["root", "root"]
        await real.end(revoke_old_key, REVOKE)
        for number in (0, 1):
            assert await real.login(number, CURRENT) == "root"
            with pytest.raises(AuthenticationFailed):
                await real.login(number, OLD)
    finally:
        await real.close()
