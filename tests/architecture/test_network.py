"""No address of the machines' network is ever dialled from the root namespace: there it may be anybody's."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest
from tests.support.fleet import becomes, new_name
from tests.support.network import connected_from_here, connected_inside

from agentmetal.clients.keys import make_key_pair
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.machine import MachineIdentity, OwnerTag, SecretKey, ServerSpec, ServerState
from agentmetal.core.resource import Key
from agentmetal.providers.nspawn.network import NAMESPACES
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal.providers.nspawn.record import NETWORK

pytestmark = pytest.mark.needs_machines

SIOCGSKNS = 0x894C
"""ioctl: the network namespace of a socket."""


def home_of(connection: socket.socket) -> int:
    """Which network namespace a socket lives in."""
    descriptor = fcntl.ioctl(connection, SIOCGSKNS)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def own_namespace() -> int:
    """The network namespace of this process."""
    return Path("/proc/self/ns/net").stat().st_ino


async def test_a_connected_machine_is_unknown_to_the_root_namespace(nspawn: NspawnProvider) -> None:
    client, host = make_key_pair("client"), make_key_pair("host")
    name = new_name()
    tag = OwnerTag(cluster="c", namespace="shop", uid=name)
    server = await nspawn.provision_server(
        ServerSpec(
            name=name,
            owner=tag,
            type="small",
            image="bookworm",
            authorized_keys=(client.public_line,),
            host_key=host.private_openssh,
        )
    )
    server = await becomes(nspawn, server.id, ServerState.RUNNING)
    (address,) = server.addresses

    async def load_key(key: SecretKey) -> str:
        return client.private_openssh

    machines = SshMachines(load_key, nspawn.fleet.dial, lambda owner, reason: None, cluster="c")
    try:
        identity = MachineIdentity(
            owner=Key("Instance", "shop", name),
            server_id=server.id,
            address=address,
            port=22,
            user="root",
            host_key=host.public_line,
            client_key=SecretKey(namespace="shop", name="key", key="private"),
        )
        assert (await (await machines.connect(identity)).run(["true"])).exit_code == 0
        assert address in connected_inside(nspawn.fleet.id)
        assert connected_from_here() == set()
    finally:
        await machines.close()
        await nspawn.decommission_server(server.id, tag)


async def test_a_dialled_socket_lives_in_the_fleets_namespace(nspawn: NspawnProvider) -> None:
    server = await nspawn.provision_server(
        ServerSpec(
            name=(name := new_name()),
            owner=(tag := OwnerTag(cluster="c", namespace="shop", uid=name)),
            type="small",
            image="bookworm",
        )
    )
    server = await becomes(nspawn, server.id, ServerState.RUNNING)
    root = own_namespace()
    connection = await nspawn.fleet.dial(server.addresses[0], 22, 5.0)
    try:
        assert home_of(connection) == (NAMESPACES / nspawn.fleet.id).stat().st_ino != root
        assert own_namespace() == root
    finally:
        connection.close()
        await nspawn.decommission_server(server.id, tag)


def test_the_root_namespace_has_no_way_of_its_own_to_the_machines() -> None:
    for path in ("/proc/net/route", "/proc/net/fib_trie"):
        assert not [line for line in Path(path).read_text().splitlines() if str(NETWORK.network_address) in line], path
