"""Kept, verified connections to hosts: implements `core.machine.Machines`. Built by `app.py`, closed at its end.

One connection for each machine identity. Whoever asks while it is being made waits for the same attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from agentmetal.clients.ssh.connection import Dial, LoadKey, open_connection
from agentmetal.clients.ssh.host import SshHost
from agentmetal.clients.ssh.wrapper import name_of
from agentmetal.core.errors import Unavailable
from agentmetal.core.machine import MachineIdentity
from agentmetal.core.resource import Key

logger = logging.getLogger(__name__)


class SshMachines:
    """Hosts by SSH. `on_lost(owner, reason)` is called when a kept connection ends by itself."""

    def __init__(
        self,
        load_key: LoadKey,
        dial: Dial | None,
        on_lost: Callable[[Key, str], None],
        *,
        cluster: str,
        keepalive_interval: float = 2.0,
    ) -> None:
        self._load_key = load_key
        self._dial = dial
        self._on_lost = on_lost
        self._cluster = name_of(cluster)
        self._keepalive_interval = keepalive_interval
        self._kept: dict[MachineIdentity, asyncio.Task[SshHost]] = {}

    async def connect(self, identity: MachineIdentity) -> SshHost:
        """The kept connection, or a new one."""
        attempt = self._kept.get(identity)
        if attempt is None:
            attempt = asyncio.create_task(self._open(identity), name=f"ssh {identity.address}:{identity.port}")
            self._kept[identity] = attempt
            attempt.add_done_callback(partial(self._settle, identity))
        await asyncio.wait([attempt])  # our own cancellation leaves the attempt to the others who wait
        if attempt.cancelled():
            raise Unavailable(f"the connection to {identity.address!r} was given up: its owner was forgotten meanwhile")
        return attempt.result()

    async def forget(self, owner: Key) -> None:
        """Close what is kept for an object."""
        await self._drop([identity for identity in self._kept if identity.owner == owner])

    async def close(self) -> None:
        """Close everything."""
        await self._drop(list(self._kept))

    async def _drop(self, identities: list[MachineIdentity]) -> None:
        dropped = [self._kept.pop(identity) for identity in identities]
        for attempt in dropped:
            attempt.cancel()
        for ended in await asyncio.gather(*dropped, return_exceptions=True):
            if isinstance(ended, SshHost):
                await ended.close()

    async def _open(self, identity: MachineIdentity) -> SshHost:
        connection, watcher = await open_connection(
            identity, self._load_key, self._dial, keepalive_interval=self._keepalive_interval
        )
        if connection.is_closed():  # between our login and this line: nobody would be told any more
            raise Unavailable(f"{identity.address!r} closed the connection right after the login")
        watcher.on_end = partial(self._ended, identity)
        return SshHost(connection, identity, self._cluster)

    def _settle(self, identity: MachineIdentity, attempt: asyncio.Task[SshHost]) -> None:
        """A failed attempt is not kept: the next one who asks tries again."""
        failed = attempt.cancelled() or attempt.exception() is not None
        if failed and self._kept.get(identity) is attempt:
            del self._kept[identity]

    def _ended(self, identity: MachineIdentity, reason: str) -> None:
        if self._kept.pop(identity, None) is None:
            return  # we closed it ourselves
        logger.info("connection lost", extra={"action": "observe", "owner": str(identity.owner), "reason": reason})
        # Not called from here: asyncssh would swallow what goes wrong in it.
        asyncio.get_running_loop().call_soon(self._on_lost, identity.owner, reason)
