"""Hosts that are played: SSH servers in one process, on loopback. A process of its own: it costs others nothing.

    python -m bench.farm COUNT PUBLIC_KEY

Prints `[[port, host key], …]` and serves until its stdin ends. Whatever the command, it says what a host says that is
looked at. Stopped (SIGSTOP), its hosts are dead in the worst way: sockets stay open and nothing is ever said again.
"""

from __future__ import annotations

import asyncio
import json
import sys

import asyncssh
import uvloop

from agentmetal.clients.keys import KeyPair, make_key_pair
from agentmetal.core.machine import MachineIdentity, SecretKey
from agentmetal.core.resource import Key
from agentmetal.providers.fake_hosts import FakeHosts
from agentmetal_tools.looks import LOOK

LOOPBACK = "127.0.0.1"


class _Door(asyncssh.SSHServer):
    """Lets in whoever has the one client key."""

    def __init__(self, client: asyncssh.SSHKey) -> None:
        self._client = client

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key == self._client


async def host(client: asyncssh.SSHKey, answer: str) -> tuple[asyncssh.SSHAcceptor, KeyPair]:
    """One of them, with a host key of its own."""
    key = make_key_pair("played")

    def say(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write(answer)
        process.exit(0)

    acceptor = await asyncssh.listen(
        LOOPBACK,
        0,
        config=None,
        server_factory=lambda: _Door(client),
        server_host_keys=[asyncssh.import_private_key(key.private_openssh)],
        process_factory=say,
        gss_host=None,
    )
    return acceptor, key


async def looked_at() -> str:
    """What a simulated host answers; a real one says a few lines more."""
    hosts, key = FakeHosts(), make_key_pair("simulated")
    hosts.plain("simulated", address=LOOPBACK, host_key=key.public_line)
    secret = SecretKey(namespace="bench", name="bench", key="key")
    owner = Key("Instance", "bench", "simulated")
    identity = MachineIdentity(
        owner=owner, server_id="", address=LOOPBACK, port=22, user="root", host_key=key.public_line, client_key=secret
    )
    return (await (await hosts.connect(identity)).run(LOOK)).stdout


async def serve(count: int, public_key: str) -> None:
    """All of them."""
    client, answer = asyncssh.import_public_key(public_key), await looked_at()
    hosts = [await host(client, answer) for _ in range(count)]
    print(json.dumps([[acceptor.get_port(), key.public_line] for acceptor, key in hosts]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), sys.argv[2]))
