"""Two operator processes with one Lease: who leads, faults of the leader, and how long the takeover took.

Whoever ends is started again at once, as Kubernetes would. On `tests.support.faults.operator`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.devsystem import Dev
from tests.support.faults import Process, operator

from agentmetal.cli.operator import LOST_LEADERSHIP

LEASE_SECONDS = 3.0
STARTS_WITHIN = 300.0
"""Seconds for a new process, on a computer on which many others run."""
ENVIRONMENT = {
    "AGENTMETAL_LEASE_SECONDS": "3",
    "AGENTMETAL_RENEW_SECONDS": "2",
    "AGENTMETAL_RETRY_SECONDS": "0.5",
}
PROMISED = {
    signal.SIGTERM: 2.0,
    signal.SIGKILL: LEASE_SECONDS + 2.0,
    signal.SIGSTOP: LEASE_SECONDS + 2.0,
}
"""Seconds from the signal until the other one leads: its epoch written, its queue running."""


@dataclass(frozen=True)
class Takeover:
    """One change of leaders."""

    fault: signal.Signals
    seconds: float


@dataclass
class Seat:
    """A place that always has a process."""

    name: str
    dev: Dev
    directory: Path
    environment: Mapping[str, str]
    process: Process | None = None
    codes: list[int] = field(default_factory=list)
    """How those ended that sat here."""

    async def keep(self) -> None:
        """Start one whenever there is none."""
        store, log = self.directory / f"{self.name}.db", self.directory / f"{self.name}.log"
        environment = {**self.environment, "AGENTMETAL_IDENTITY": self.name}
        while True:
            async with operator(self.dev, store, log=log, environment=environment) as self.process:
                self.codes.append(await self.process.child.wait())

    async def says(self, page: str) -> bool:
        """Does whoever sits there answer 200?"""
        return self.process is not None and await self.process.says(page)


@dataclass
class Replicas:
    """Two of them."""

    seats: tuple[Seat, Seat]
    takeovers: list[Takeover] = field(default_factory=list)
    keeping: list[asyncio.Task[None]] = field(default_factory=list)

    async def settled(self, within: float = STARTS_WITHIN) -> tuple[Seat, Seat]:
        """Wait until one leads and the other stands by: (leader, other)."""
        first, second = self.seats
        try:
            async with asyncio.timeout(within):
                while True:
                    for task in self.keeping:
                        if task.done():
                            task.result()
                    for leader, other in ((first, second), (second, first)):
                        if await leader.says("/leading") and await other.says("/readyz"):
                            return leader, other
                    await asyncio.sleep(0.05)  # whoever takes over tells nobody
        except TimeoutError:
            told = "; ".join(f"{seat.name} {seat.codes}: {_end_of(seat)}" for seat in self.seats)
            raise AssertionError(f"nobody leads with another one standing by after {within:g} s: {told}") from None

    async def fault(self, number: signal.Signals) -> Takeover:
        """Send that signal to the leader; returns when another process leads, and the first one has ended."""
        seat, other = await self.settled()
        leader = seat.process
        assert leader is not None
        began = time.monotonic()
        leader.signal(number)
        async with asyncio.timeout(STARTS_WITHIN):
            while not await other.says("/leading"):  # noqa: ASYNC110 - whoever takes over tells nobody
                await asyncio.sleep(0.02)
        takeover = Takeover(fault=number, seconds=time.monotonic() - began)
        self.takeovers.append(takeover)
        if number is signal.SIGSTOP:
            leader.signal(signal.SIGCONT)
        code = await leader.ended()
        assert code == _EXPECTED[number], f"{seat.name} ended with {code}: {_end_of(seat)}"
        return takeover


_EXPECTED = {signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL, signal.SIGSTOP: LOST_LEADERSHIP}


def _end_of(seat: Seat) -> str:
    return seat.process.log.read_text()[-2000:] if seat.process else "never started"


@asynccontextmanager
async def replicas(dev: Dev, directory: Path, store_url: str) -> AsyncIterator[Replicas]:
    """Both on one store, until the end. On a busy computer one may lose the Lease by itself, and is started again."""
    environment = {**ENVIRONMENT, "AGENTMETAL_STORE_URL": store_url, "AGENTMETAL_REPLICAS": "2"}
    both = Replicas((Seat("a", dev, directory, environment), Seat("b", dev, directory, environment)))
    both.keeping = [asyncio.create_task(seat.keep(), name=f"seat {seat.name}") for seat in both.seats]
    try:
        await both.settled()
        yield both
        wrong = {code for seat in both.seats for code in seat.codes} - set(_EXPECTED.values())
        assert not wrong, f"an operator ended with {wrong}: {[_end_of(seat) for seat in both.seats]}"
    finally:
        for task in both.keeping:
            task.cancel()
        await asyncio.gather(*both.keeping, return_exceptions=True)
