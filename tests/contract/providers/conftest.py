"""Every provider, with the hosts behind it.

A claim that only some can keep is made for those (`makers`); what the others do instead is claimed for them
(`inventories`): nothing is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
from tests.support.fleet import BOOTS_WITHIN, becomes, new_name
from tests.support.fleet import nspawn as nspawn  # a fixture: found by its name
from tests.support.inventory import CLUSTER, Entry, Lab, account

from agentmetal.clients.keys import KeyPair, make_key_pair, public_line
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.clock import SystemClock
from agentmetal.core.errors import Unavailable
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
from agentmetal.providers.ssh.memory import SshProviders

REAL = pytest.mark.needs_machines
MAKERS = ["fake", pytest.param("nspawn", marks=REAL)]
INVENTORIES = ["ssh", pytest.param("ssh-nspawn", marks=REAL)]
makers = pytest.mark.parametrize("world", MAKERS, indirect=True)
"""A claim about providers that make their servers, and switch them on and off."""
inventories = pytest.mark.parametrize("world", INVENTORIES, indirect=True)
"""A claim about providers whose servers exist already."""
PLAIN = {"plain-1": "small", "plain-2": "small", "plain-3": "small", "plain-4": "medium", "plain-5": "large"}
"""The hosts of each inventory here, and their types."""
FLOATING = ["192.0.2.200", "192.0.2.201"]


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
        if not self.provider.capabilities.makes_servers:
            await asyncio.gather(*(self._leave(id) for id, _ in ours))
        await asyncio.gather(*(self.provider.decommission_server(id, owner) for id, owner in ours))

    async def _leave(self, server_id: str) -> None:
        """A host that stays must not remember us: that is the work of tools, with the same call."""
        server = await self.provider.get_server(server_id)
        await (await self.connect(server, server.host_key)).remove_wrapper(epoch=999)

    def pin(self, server: Server, spec: ServerSpec) -> str:
        """The key that the host must show: the one of the order, or its own."""
        return public_line(spec.host_key) if self.provider.capabilities.makes_servers else server.host_key

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


@dataclass
class PlainMachines:
    """Real machines that no provider here has made: booted for the first test that wants some, kept for the others."""

    client_key: KeyPair = field(default_factory=lambda: make_key_pair("operator"))
    entries: list[Entry] = field(default_factory=list)

    async def boot(self, fleet: NspawnProvider) -> None:
        """Have them up, and their entries for an inventory."""
        if self.entries:
            return
        self.entries = list(await asyncio.gather(*(self._boot(fleet, name, type) for name, type in PLAIN.items())))

    async def _boot(self, fleet: NspawnProvider, name: str, type: str) -> Entry:
        pair = make_key_pair(name)
        spec = ServerSpec(
            name=new_name(),
            owner=OwnerTag(cluster="lab", namespace="plain", uid=name),
            type="small",
            image="bookworm",
            authorized_keys=(self.client_key.public_line,),
            host_key=pair.private_openssh,
        )
        server = await becomes(fleet, (await fleet.provision_server(spec)).id, ServerState.RUNNING)
        await _listens(fleet, server.addresses[0])
        return {"name": name, "address": server.addresses[0], "hostKey": pair.public_line, "type": type}


async def _listens(fleet: NspawnProvider, address: str) -> None:
    """Until sshd is there: whoever writes an inventory has logged in before."""
    async with asyncio.timeout(BOOTS_WITHIN):
        while True:
            try:
                (await fleet.fleet.dial(address, 22, 5.0)).close()
                return
            except Unavailable:
                await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def plain_machines() -> PlainMachines:
    return PlainMachines()


@pytest.fixture(params=[*MAKERS, *INVENTORIES])
async def world(request: pytest.FixtureRequest, plain_machines: PlainMachines) -> AsyncIterator[World]:
    client_key = plain_machines.client_key if request.param == "ssh-nspawn" else make_key_pair("operator")

    async def load_key(place: SecretKey) -> str:
        return client_key.private_openssh

    if request.param == "fake":
        cloud = FakeCloud(SystemClock(), boot_seconds=0.05, stop_seconds=0.05)
        hosts = FakeHosts(cloud, load_key, connect_timeout=0.1)
        yield World(provider=cloud, machines=hosts, client_key=client_key, images=("bookworm", "bookworm-20"))
        return
    if request.param == "ssh":
        lab = Lab(connect_timeout=0.1, boot_seconds=0.05)
        for name, type in PLAIN.items():
            lab.add(name, type=type)
        namespace = new_name()
        async with lab.provider(namespace=namespace, floatingAddresses=FLOATING) as inventory:
            yield World(
                provider=inventory,
                machines=lab.machines,
                client_key=lab.client_key,
                images=("existing", "existing"),
                namespace=namespace,
            )
        return
    provider: NspawnProvider = request.getfixturevalue("nspawn")
    machines = SshMachines(load_key, provider.fleet.dial, lambda owner, reason: None, cluster=CLUSTER)
    world = World(provider=provider, machines=machines, client_key=client_key, images=("bookworm", "bookworm-tools"))
    if request.param == "ssh-nspawn":
        await plain_machines.boot(provider)
        written = account(plain_machines.entries, namespace=world.namespace, floatingAddresses=FLOATING)
        inventory = SshProviders(machines, cluster=CLUSTER)(written)
        world = replace(world, provider=inventory, images=("existing", "existing"))
    yield world
    await world.clear()
    await world.provider.close()
    await machines.close()
