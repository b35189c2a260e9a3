"""Every provider, with the hosts behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from tests.support.fleet import becomes, new_name
from tests.support.fleet import nspawn as nspawn  # a fixture: found by its name

from agentmetal.clients.keys import KeyPair, make_key_pair
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.clock import SystemClock
from agentmetal.core.machine import (
    MachineIdentity,
    Machines,
    OwnerTag,
    SecretKey,
    Server,
    ServerProvider,
    ServerSpec,
    ServerState,
    Ssh,
)
from agentmetal.core.resource import Key
from agentmetal.providers.fake import FakeCloud
from agentmetal.providers.fake_hosts import FakeHosts
from agentmetal.providers.nspawn.provider import NspawnProvider

CLUSTER = "c0ffee"


@dataclass(frozen=True, kw_only=True)
class World:
    """A provider and the way to its hosts."""

    provider: ServerProvider
    machines: Machines
    client_key: KeyPair
    images: tuple[str, str]
    """Two that differ."""
    namespace: str = field(default_factory=new_name)
    """Of everything that is ordered here."""

    def spec(self, *, type: str = "small", image: str = "", location: str = "", hostname: str = "") -> ServerSpec:
        """An order that nobody else makes."""
        name = new_name()
        return ServerSpec(
            name=name,
            owner=OwnerTag(cluster=CLUSTER, namespace=self.namespace, uid=f"uid-{name}"),
            type=type,
            image=image or self.images[0],
            location=location,
            hostname=hostname,
            authorized_keys=(self.client_key.public_line,),
            host_key=make_key_pair("host").private_openssh,
        )

    async def running(self, spec: ServerSpec | None = None) -> Server:
        """A server that runs."""
        server = await self.provider.provision_server(spec or self.spec())
        return await becomes(self.provider, server.id, ServerState.RUNNING)

    async def clear(self) -> None:
        """Remove what was ordered here."""
        mine = [(server.id, server.owner) for server in await self.provider.list_servers()]
        ours = [(id, owner) for id, owner in mine if owner is not None and owner.namespace == self.namespace]
        await asyncio.gather(*(self.provider.decommission_server(id, owner) for id, owner in ours))

    def identity(self, server: Server, host_key: str) -> MachineIdentity:
        """How to reach it."""
        return MachineIdentity(
            owner=Key("Instance", "shop", server.name),
            server_id=server.id,
            address=server.addresses[0],
            port=server.port,
            user="root",
            host_key=host_key,
            client_key=SecretKey(namespace="shop", name="ssh", key="id"),
        )

    async def connect(self, server: Server, host_key: str) -> Ssh:
        """A connection to it."""
        return await self.machines.connect(self.identity(server, host_key))


@pytest.fixture(params=["fake", pytest.param("nspawn", marks=pytest.mark.needs_machines)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    client_key = make_key_pair("operator")

    async def load_key(place: SecretKey) -> str:
        return client_key.private_openssh

    if request.param == "fake":
        cloud = FakeCloud(SystemClock(), boot_seconds=0.05, stop_seconds=0.05)
        hosts = FakeHosts(cloud, load_key, connect_timeout=0.1)
        yield World(provider=cloud, machines=hosts, client_key=client_key, images=("bookworm", "bookworm-20"))
        return
    provider: NspawnProvider = request.getfixturevalue("nspawn")
    machines = SshMachines(load_key, provider.fleet.dial, lambda owner, reason: None, cluster=CLUSTER)
    world = World(provider=provider, machines=machines, client_key=client_key, images=("bookworm", "bookworm-tools"))
    yield world
    await machines.close()
    await world.clear()
