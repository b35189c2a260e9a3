"""Kept, verified connections to hosts: implements `core.machine.Machines`. Built by `app.py`, closed at its end.

One connection for each way to log in to a host, whoever its owners are: an Instance, the Provider that looks at it, a
service upon it. Whoever asks while it is being made waits for the same attempt.

A dead host costs nothing but its own time: once it fell silent, whoever asks for it waits PATIENCE only. The attempt
goes on meanwhile, and its owners are woken when it comes to something.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from agentmetal.clients.ssh.connection import (
    CONNECT_TIMEOUT,
    KEEPALIVE_INTERVAL,
    Dial,
    LoadKey,
    open_connection,
    shown_host_key,
)
from agentmetal.clients.ssh.host import SshHost
from agentmetal.clients.ssh.wrapper import name_of
from agentmetal.core.errors import Unavailable
from agentmetal.core.machine import MachineIdentity, SecretKey
from agentmetal.core.resource import Key

PATIENCE = 1.0
"""Seconds that one waits for a host that was silent last time."""
SUDO_AT_LEAST = 1.0
"""Seconds for sudo, however long the login took."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Login:
    """What makes two connections the same one."""

    address: str
    port: int
    user: str
    host_key: str
    client_key: SecretKey

    @classmethod
    def of(cls, identity: MachineIdentity) -> Login:
        """Comments of keys make no difference."""
        return cls(
            address=identity.address,
            port=identity.port,
            user=identity.user,
            host_key=" ".join(identity.host_key.split()[:2]),
            client_key=identity.client_key,
        )


@dataclass(kw_only=True)
class _Kept:
    attempt: asyncio.Task[SshHost]
    owners: set[Key] = field(default_factory=set)
    given_up: set[Key] = field(default_factory=set)
    """Owners who had no patience: they are told when it is there after all."""

    def holds(self, host: SshHost) -> bool:
        """Is it that connection that is kept?"""
        done = self.attempt.done() and not self.attempt.cancelled() and self.attempt.exception() is None
        return done and self.attempt.result() is host


@dataclass(frozen=True, kw_only=True)
class _Silence:
    """A host did not answer last time."""

    reason: str
    owners: set[Key]


class SshMachines:
    """Hosts by SSH. `on_lost(owner, reason)` is called for each owner when a kept connection ends by itself, and when a
    silent host answers again after nobody had the patience to wait for it."""

    def __init__(
        self,
        load_key: LoadKey,
        dial: Dial | None,
        on_lost: Callable[[Key, str], None],
        *,
        cluster: str,
        keepalive_interval: float = KEEPALIVE_INTERVAL,
    ) -> None:
        self._load_key = load_key
        self._dial = dial
        self._on_lost = on_lost
        self._cluster = name_of(cluster)
        self._keepalive_interval = keepalive_interval
        self._kept: dict[Login, _Kept] = {}
        self._silent: dict[Login, _Silence] = {}

    async def connect(self, identity: MachineIdentity) -> SshHost:
        """The kept connection, or a new one. Raises Forbidden where sudo is needed and refuses."""
        kept = self._kept.get(login := Login.of(identity))
        if kept is None:
            attempt = asyncio.create_task(self._open(identity), name=f"ssh {identity.address}:{identity.port}")
            kept = self._kept[login] = _Kept(attempt=attempt)
            attempt.add_done_callback(partial(self._settle, login))
        kept.owners.add(identity.owner)
        # Our own cancellation, and our patience, leave the attempt to the others who wait.
        silence = self._silent.get(login)
        done, _ = await asyncio.wait([kept.attempt], timeout=PATIENCE if silence else None)
        if silence and not done:
            kept.given_up.add(identity.owner)
            raise Unavailable(f"{identity.address!r} still does not answer, it is being tried: {silence.reason}")
        if kept.attempt.cancelled() or identity.owner not in kept.owners:
            raise Unavailable(f"the connection to {identity.address!r} was given up: its owner was forgotten meanwhile")
        return kept.attempt.result()

    async def forget(self, owner: Key) -> None:
        """Close what is kept for an object and for nobody else."""
        for owners in [known.owners for known in self._kept.values()] + [
            known.owners for known in self._silent.values()
        ]:
            owners.discard(owner)
        self._silent = {login: silence for login, silence in self._silent.items() if silence.owners}
        await self._drop([login for login, kept in self._kept.items() if not kept.owners])

    async def shown_host_key(self, identity: MachineIdentity) -> str:
        """The public host key that is shown at an address now, of the pinned kind if there is one."""
        return await shown_host_key(identity, self._dial)

    async def close(self) -> None:
        """Close everything."""
        await self._drop(list(self._kept))

    async def _drop(self, logins: list[Login]) -> None:
        dropped = [self._kept.pop(login).attempt for login in logins]
        for attempt in dropped:
            attempt.cancel()
        for ended in await asyncio.gather(*dropped, return_exceptions=True):
            if isinstance(ended, SshHost):
                await ended.close()

    async def _open(self, identity: MachineIdentity) -> SshHost:
        loop = asyncio.get_running_loop()
        until = loop.time() + CONNECT_TIMEOUT
        connection, watcher = await open_connection(
            identity, self._load_key, self._dial, keepalive_interval=self._keepalive_interval
        )
        host = SshHost(connection, identity, self._cluster)
        try:
            await host.check_root(max(SUDO_AT_LEAST, until - loop.time()))
        except BaseException:
            await host.close()
            raise
        if connection.is_closed():  # between our login and this line: nobody would be told any more
            raise Unavailable(f"{identity.address!r} closed the connection right after the login")
        watcher.on_end = partial(self._ended, Login.of(identity), host)
        return host

    def _settle(self, login: Login, attempt: asyncio.Task[SshHost]) -> None:
        """A failed attempt is not kept: the next one who asks tries again."""
        kept = self._kept.get(login)
        if kept is None or kept.attempt is not attempt:
            return
        self._silent.pop(login, None)
        if attempt.cancelled() or (error := attempt.exception()) is not None:
            del self._kept[login]
            if not attempt.cancelled() and isinstance(error, Unavailable):
                self._silent[login] = _Silence(reason=error.message, owners=kept.owners)
            return
        for owner in kept.given_up & kept.owners:
            self._on_lost(owner, "the host answers again")

    def _ended(self, login: Login, host: SshHost, reason: str) -> None:
        kept = self._kept.get(login)
        if kept is None or not kept.holds(host):
            return  # we closed it ourselves, and perhaps made another one since
        del self._kept[login]
        self._silent[login] = _Silence(reason=reason, owners=kept.owners)
        for owner in kept.owners:
            logger.info("connection lost", extra={"action": "observe", "owner": str(owner), "reason": reason})
            # Not called from here: asyncssh would swallow what goes wrong in it.
            asyncio.get_running_loop().call_soon(self._on_lost, owner, reason)
