"""One server of the cloud in memory: its disks, its boots, and what it is at which time. Used by `fake.py`, which has
many of them, and by `fake_hosts.py`, which gives them an operating system. No I/O; the event loop's time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from agentmetal.core.machine import OwnerTag, Server, ServerSpec, ServerState


def loop_time() -> float:
    """Now, as the event loop counts: virtual in tests with virtual time."""
    return asyncio.get_running_loop().time()


@dataclass
class Boot:
    """One time that a server was up."""

    disk: int
    """Which of its disks: each rebuild counts one up. Negative: a rescue system's, never the same twice."""
    up_at: float
    down_at: float | None = None
    clean: bool = False
    """Was it shut down, or did the power go?"""

    def up(self, now: float) -> bool:
        """Does it answer at that time?"""
        return self.up_at <= now and (self.down_at is None or now < self.down_at)


@dataclass
class FakeServer:
    """A server as the cloud knows it; `FakeHosts` reads it."""

    id: str
    spec: ServerSpec
    owner: OwnerTag | None
    address: str
    created_at: datetime
    host_key: str
    """The public half of the key it was ordered with."""
    boot_seconds: float
    stop_seconds: float
    listed_from: float
    listed_until: float | None = None
    boots: list[Boot] = field(default_factory=list)
    disk: int = 1
    history: list[tuple[float, ServerState]] = field(default_factory=list)
    """What it is from which time on; may reach into the future."""

    @property
    def system(self) -> int:
        """The disk that it runs from, or ran from last."""
        return self.boots[-1].disk

    @property
    def rescued(self) -> bool:
        """Is that a rescue system?"""
        return self.system < 0

    def state(self, now: float) -> ServerState:
        """What it is at that time."""
        return next((state for since, state in reversed(self.history) if since <= now), ServerState.REQUESTED)

    def becomes(self, *changes: tuple[float, ServerState]) -> None:
        """From the first change on it is that, whatever was to come."""
        self.history = [entry for entry in self.history if entry[0] <= changes[0][0]] + list(changes)

    def start(self) -> None:
        """Power on; nothing happens when it runs."""
        if self._last not in (ServerState.RUNNING, ServerState.PROVISIONING):
            self.boot(self.disk)

    def boot(self, disk: int, *, first: bool = False) -> None:
        """Up from that disk after a while: from now, or from when it will be off."""
        began = max(loop_time(), self.history[-1][0] if self.history else 0.0)
        up_at = began + self.boot_seconds
        self.boots.append(Boot(disk=disk, up_at=up_at))
        if first:
            self.becomes((began, ServerState.PROVISIONING), (up_at, ServerState.RUNNING))
        else:
            self.becomes((began, ServerState.RUNNING))

    def rescue(self) -> None:
        """Up again at once, from a system of its own."""
        self.stop(clean=False)
        self.boot(-len(self.boots))

    def stop(self, *, clean: bool) -> None:
        """Off after a while, or at once. A boot that is to come does not come."""
        now = loop_time()
        going = self._last is ServerState.STOPPED
        if going and (clean or self.state(now) is ServerState.STOPPED):
            return
        down_at = now + self.stop_seconds if clean else now
        for boot in self.boots:
            if boot.down_at is None or boot.down_at > down_at:
                boot.down_at, boot.clean = down_at, clean
        if clean:
            self.becomes((now, ServerState.STOPPING), (down_at, ServerState.STOPPED))
        else:
            self.becomes((now, ServerState.STOPPED))

    def describe(self, now: float) -> Server:
        """What the provider says of it at that time."""
        state = self.state(now)
        return Server(
            id=self.id,
            name=self.spec.name,
            owner=self.owner,
            type=self.spec.type,
            image=self.spec.image,
            location=self.spec.location,
            state=state,
            addresses=(self.address,),
            host_key=self.host_key,
            failure_domain=self.spec.failure_domain,
            rescue=self.rescued and state is not ServerState.STOPPED,
            created_at=self.created_at,
        )

    @property
    def _last(self) -> ServerState:
        """What it is going to be."""
        return self.history[-1][1] if self.history else ServerState.REQUESTED
