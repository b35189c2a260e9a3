"""Make one verified SSH connection. Called by `machines.py` only; the only constructor of SSH connections there is.

Nothing of the operator's own account is used: no ~/.ssh, no agent, no proxy, no password. The host must show exactly
the pinned key, or nothing is sent.

Three things notice that a host is lost. Our kernel asks its kernel (TCP keepalive): a host that lost its power or its
cable is noticed within GONE_AFTER, and at a thousand connections that costs us no time at all. The host's sshd is asked
each `keepalive_interval` in which it said nothing else: a host that hangs is noticed within two of them. And every call
has a timeout of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

import asyncssh

from agentmetal.clients.keys import read_private_key, read_public_key
from agentmetal.clients.ssh.errors import ssh_errors
from agentmetal.core.errors import AuthenticationFailed, HostKeyMismatch, Invalid, Unavailable
from agentmetal.core.machine import MachineIdentity, SecretKey

CONNECT_TIMEOUT = 5.0
KEEPALIVE_INTERVAL = 10.0
"""Seconds without a word of the host after which it is asked for one; with as many again to answer. A round trip costs
us about 0.1 ms of CPU: at 1,000 hosts this is one in a hundred of a core, 2 s would be seven."""
KEEPALIVE_COUNT = 1
GONE_AFTER = 6
"""Seconds in which a host's kernel acknowledges nothing, after which the connection is lost."""

LoadKey = Callable[[SecretKey], Awaitable[str]]
"""Reads a private key in OpenSSH form."""

Dial = Callable[[str, int, float], Awaitable[socket.socket]]
"""Makes the TCP connection where the operator's own network namespace must not: (address, port, timeout)."""


class Watcher(asyncssh.SSHClient):
    """What one connection tells: another host key than the pinned one, and its end."""

    def __init__(self) -> None:
        self.shown: asyncssh.SSHKey | None = None
        self.on_end: Callable[[str], None] | None = None
        """Set once the connection is kept."""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked only about a key that is not the pinned one."""
        self.shown = key
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.on_end:
            self.on_end(str(exc) if exc else "the host closed the connection")


async def open_connection(
    identity: MachineIdentity, load_key: LoadKey, dial: Dial | None, *, keepalive_interval: float
) -> tuple[asyncssh.SSHClientConnection, Watcher]:
    """Read our key, connect, verify the host, log in. Bounded by CONNECT_TIMEOUT. Raises only `core.errors`."""
    where = f"connecting to {identity.user}@{identity.address}:{identity.port}"
    pin, watcher = read_public_key(identity.host_key), Watcher()
    try:
        with ssh_errors(where):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                client_key = _client_key(identity, await load_key(identity.client_key))
                sock = await dial(identity.address, identity.port, CONNECT_TIMEOUT) if dial else None
                connection = await _connect(identity, sock, pin, client_key, watcher, keepalive_interval)
            _watch_over(connection.get_extra_info("socket"))
    except HostKeyMismatch as error:
        shown = watcher.shown.get_fingerprint() if watcher.shown else "none of that kind"
        message = f"{error.message}; pinned {pin.get_fingerprint()}, shown {shown}"
        raise HostKeyMismatch(message) from error
    return connection, watcher


async def shown_host_key(identity: MachineIdentity, dial: Dial | None) -> str:
    """The public key that is shown at an address, and proved to be held there. Nobody logs in, nothing is trusted."""
    where = f"asking {identity.address}:{identity.port} for its host key"
    kinds = [algorithm.decode() for algorithm in read_public_key(identity.host_key).sig_algorithms]
    # Bare: what it does not know of the operator's own account, it cannot use. No key is offered: none is loaded.
    bare = asyncssh.SSHClientConnectionOptions(
        config=None,
        username=identity.user,
        client_keys=None,
        agent_path=None,
        x509_trusted_certs=None,
        connect_timeout=CONNECT_TIMEOUT,
    )
    with ssh_errors(where):
        async with asyncio.timeout(CONNECT_TIMEOUT):
            try:
                key = await _shown(identity, dial, kinds, bare)
            except asyncssh.KeyExchangeFailed:  # it has none of the pinned kind
                key = await _shown(identity, dial, (), bare)
    if key is None:
        raise Unavailable(f"{where}: it shows none")
    return key.export_public_key("openssh").decode().strip()


async def _shown(
    identity: MachineIdentity, dial: Dial | None, kinds: Sequence[str], bare: asyncssh.SSHClientConnectionOptions
) -> asyncssh.SSHKey | None:
    sock = await dial(identity.address, identity.port, CONNECT_TIMEOUT) if dial else None
    try:
        return await asyncssh.get_server_host_key(
            identity.address, identity.port, sock=sock, config=None, server_host_key_algs=kinds, options=bare
        )
    except BaseException:
        if sock:
            sock.close()
        raise


def _client_key(identity: MachineIdentity, private_key: str) -> asyncssh.SSHKey:
    try:
        return read_private_key(private_key)
    except Invalid as error:
        place = identity.client_key
        raise AuthenticationFailed(
            f"Secret {place.namespace}/{place.name} key {place.key!r} is no unencrypted private SSH key"
        ) from error


def _watch_over(sock: socket.socket | None) -> None:
    """Let the kernel find out that the other one is gone. A `dial` may also give sockets that are no TCP."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, GONE_AFTER // 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, GONE_AFTER // 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_AFTER * 1000)


async def _connect(
    identity: MachineIdentity,
    sock: socket.socket | None,
    pin: asyncssh.SSHKey,
    client_key: asyncssh.SSHKey,
    watcher: Watcher,
    keepalive_interval: float,
) -> asyncssh.SSHClientConnection:
    try:
        return await asyncssh.connect(
            identity.address,
            identity.port,
            sock=sock,
            client_factory=lambda: watcher,
            username=identity.user,
            client_keys=[client_key],
            known_hosts=([pin], [], []),  # trusted keys, authorities, revoked keys
            server_host_key_algs=[algorithm.decode() for algorithm in pin.sig_algorithms],
            x509_trusted_certs=None,  # the default reads ~/.ssh/ca-bundle.crt
            config=None,
            agent_path=None,
            agent_forwarding=False,
            preferred_auth="publickey",
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_auth=False,
            gss_kex=False,
            connect_timeout=CONNECT_TIMEOUT,
            login_timeout=CONNECT_TIMEOUT,
            keepalive_interval=keepalive_interval,
            keepalive_count_max=KEEPALIVE_COUNT,
        )
    except BaseException:
        # asyncssh closes what it took over; a failure before that would leave the socket to us. Twice does no harm.
        if sock:
            sock.close()
        raise
