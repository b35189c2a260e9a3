"""The worlds of the host contract: a simulated host, and a real machine that is kept for the whole run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import cast

import pytest
from tests.contract.hosts.worlds import (
    OPERATOR,
    FakeWorld,
    NspawnWorld,
    World,
    back,
    logins,
    make_accounts,
    new_server,
)
from tests.support.fleet import nspawn as nspawn  # a fixture: found by its name

from agentmetal.clients.keys import KeyPair, make_key_pair
from agentmetal.core.clock import SystemClock
from agentmetal.core.machine import SecretKey, Server, Ssh
from agentmetal.providers.fake import FakeCloud
from agentmetal.providers.fake_hosts import FakeHosts
from agentmetal.providers.nspawn.provider import NspawnProvider

Machine = tuple[Server, KeyPair, KeyPair]


@pytest.fixture(scope="session")
def machine(nspawn: NspawnProvider) -> Machine:
    """A real machine, its host key and the client's; it goes with the fleet."""
    host_key, client_key = make_key_pair("host"), make_key_pair("client")

    async def made() -> Server:
        server = await new_server(nspawn, host_key, client_key)
        world = NspawnWorld(nspawn, server, host_key, client_key)
        await make_accounts(await back(world))
        await world.machines.close()
        return server

    with ThreadPoolExecutor(1) as thread:  # a loop of its own: the fixture outlives that of any test
        server = thread.submit(asyncio.run, made()).result()
    return server, host_key, client_key


@pytest.fixture
async def real(nspawn: NspawnProvider, machine: Machine) -> AsyncIterator[NspawnWorld]:
    """Fresh connections to the machine."""
    async with connected(NspawnWorld(nspawn, *machine)) as world:
        yield world


@pytest.fixture
async def real_sudo(nspawn: NspawnProvider, machine: Machine) -> AsyncIterator[NspawnWorld]:
    """The same machine, by an account that has sudo."""
    async with connected(NspawnWorld(nspawn, *machine, user=OPERATOR)) as world:
        yield world


@asynccontextmanager
async def connected(world: NspawnWorld) -> AsyncIterator[NspawnWorld]:
    try:
        yield world
    finally:
        await world.thaw()
        await world.machines.close()


@pytest.fixture
async def fake() -> FakeWorld:
    return await simulated("root")


@pytest.fixture
async def fake_sudo() -> FakeWorld:
    return await simulated(OPERATOR)


async def simulated(user: str) -> FakeWorld:
    host_key, client_key = make_key_pair("host"), make_key_pair("client")

    async def load_key(place: SecretKey) -> str:
        return client_key.private_openssh

    cloud = FakeCloud(SystemClock(), boot_seconds=0.05, stop_seconds=0.05)
    server = await new_server(cloud, host_key, client_key)
    hosts = FakeHosts(cloud, load_key, connect_timeout=0.1)
    hosts.host(server.id).files[logins(user)] = f"{client_key.public_line}\n".encode()
    return FakeWorld(cloud, hosts, server, host_key, user=user)


MACHINE = pytest.mark.needs_machines


@pytest.fixture(
    params=["fake", "fake_sudo", pytest.param("real", marks=MACHINE), pytest.param("real_sudo", marks=MACHINE)]
)
def world(request: pytest.FixtureRequest) -> World:
    return cast(World, request.getfixturevalue(request.param))


@pytest.fixture
async def host(world: World) -> Ssh:
    host = await world.machines.connect(world.identity())
    await host.install_wrapper(epoch=1)
    return host


@pytest.fixture
def operation(request: pytest.FixtureRequest) -> str:
    """A name of an operation that no other claim uses."""
    return f"op-{sha256(request.node.nodeid.encode()).hexdigest()[:16]}-1"
