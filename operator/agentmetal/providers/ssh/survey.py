"""Looks at the hosts of an inventory: one at a time when asked, all of them in the background. Used by `provider`.

A dead host costs only its own time: looks run side by side, and nobody waits longer than a bounded while for all of
them. Nothing is changed on a host here.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping

from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.errors import AgentMetalError, Unavailable
from agentmetal.core.machine import Completed, Ssh
from agentmetal.providers.ssh.inventory import Place
from agentmetal.providers.ssh.sightings import ClaimUnreadable, Sighting, Size

AT_ONCE = 32
"""Looks side by side."""
WAIT_SECONDS = 8.0
"""How long a caller waits for looks at all hosts."""
MAX_AGE = 45.0
"""Seconds after which what is known of a host is looked up again in the background."""
COMMAND_SECONDS = 5.0
HEX_DIGITS = frozenset("0123456789abcdef")

Connect = Callable[[Place], Awaitable[Ssh]]


class KeyMissing(Unavailable):
    """Our own key is not there (yet): this says nothing about hosts."""


def loop_time() -> float:
    """Now, as the event loop counts."""
    return asyncio.get_running_loop().time()


class Survey:
    """What is known of the hosts, and the looks that keep it fresh."""

    def __init__(self, sightings: Mapping[Place, Sighting], connect: Connect) -> None:
        self.sightings = sightings
        self.connect = connect
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._task: asyncio.Task[None] | None = None
        self._hindrance = ""
        """Why nothing can be looked at: our own key is not there."""

    async def look(self, place: Place, *, facts: bool = False) -> Sighting:
        """Read whose it is, now. A failure is a sighting too. Raises KeyMissing."""
        sighting = self.sightings[place]
        version = sighting.version
        try:
            ssh = await self.connect(place)
            claim = await read_claim_file(ssh)
            if facts:
                await _learn(ssh, sighting)
        except KeyMissing as error:
            self._hindrance = error.message
            raise
        except AgentMetalError as error:
            if sighting.version == version and not sighting.claiming:
                sighting.failed(error, loop_time())
        else:
            if sighting.version == version and not sighting.claiming:
                sighting.read(claim, loop_time())
        return sighting

    async def complete(self) -> None:
        """Wait until every host was looked at once in this process. Raises Unavailable after a bounded while."""
        await self.refreshed(MAX_AGE, wait=not self._seen_all())
        if self._seen_all():
            return
        if self._hindrance:
            raise KeyMissing(self._hindrance)
        seen = sum(sighting.looked_at is not None for sighting in self.sightings.values())
        raise Unavailable(f"hosts are still being looked at: {seen} of {len(self.sightings)} so far")

    async def refreshed(
        self, max_age: float, *, places: Iterable[Place] | None = None, troubled: float | None = None, wait: bool = True
    ) -> None:
        """Look again at what was seen longer ago than that (of these, or of all); wait a bounded while for it.

        `troubled`: another age for hosts that could not be read when they were last looked at.
        """
        if places is not None:
            await self._wait()  # what runs may have passed them already
        if self._task is None or self._task.done():
            now = loop_time()
            wanted = self.sightings if places is None else places
            ages = {True: max_age if troubled is None else troubled, False: max_age}
            seen = ((place, self.sightings[place]) for place in wanted)
            due = [place for place, sighting in seen if sighting.older_than(ages[sighting.trouble is not None], now)]
            if not due:
                return
            self._hindrance = ""
            self._task = asyncio.create_task(self._look_at(due), name="ssh survey")
        if wait:
            await self._wait()

    async def _wait(self) -> None:
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=WAIT_SECONDS)
        if self._task.done() and not self._task.cancelled():
            self._task.result()  # a bug in there is a bug of this call

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_at(self, places: Iterable[Place]) -> None:
        await asyncio.gather(*(self._in_turn(place) for place in places))

    async def _in_turn(self, place: Place) -> None:
        async with self._slots:
            if self._hindrance:
                return
            try:
                await self.look(place, facts=True)
            except KeyMissing:
                return  # kept in `_hindrance`, and told to whoever waits

    def _seen_all(self) -> bool:
        return all(sighting.looked_at is not None for sighting in self.sightings.values())


async def read_claim_file(ssh: Ssh) -> str:
    """What the claim file holds; empty when there is certainly none. Raises Unavailable when that is not clear."""
    done = await ssh.run(["cat", "--", CLAIM_PATH], timeout=COMMAND_SECONDS)
    if done.exit_code == 0:
        return done.stdout or "\n"  # an empty file is a claim too: somebody made it
    # Asked so that only a command that ran can say yes: sudo, a login shell and PAM say no with exit code 1, too.
    absent = await ssh.run(["test", "!", "-e", CLAIM_PATH], timeout=COMMAND_SECONDS)
    if absent.exit_code == 0:
        return ""
    raise ClaimUnreadable(f"whose host it is cannot be read from {CLAIM_PATH}: {done.stderr.strip()[:200]!r}")


async def _learn(ssh: Ssh, sighting: Sighting) -> None:
    """Machine id and size: once for each connection, for neither changes while a host is up."""
    if sighting.facts_from is not None and sighting.facts_from() is ssh:
        return
    about = await ssh.run(["cat", "--", "/etc/machine-id", "/proc/meminfo"], timeout=COMMAND_SECONDS)
    processors = await ssh.run(["nproc"], timeout=COMMAND_SECONDS)
    disk = await ssh.run(["stat", "-f", "-c", "%S %b", "--", "/"], timeout=COMMAND_SECONDS)
    sighting.machine_id = _machine_id(about.stdout)
    sighting.size = Size(vcpus=_number(processors), memory_mb=_memory_mb(about.stdout), disk_gb=_disk_gb(disk))
    sighting.facts_from = weakref.ref(ssh)


def _machine_id(text: str) -> str:
    first = text.split("\n", 1)[0].strip()
    return first if len(first) == 32 and HEX_DIGITS.issuperset(first) else ""


def _memory_mb(text: str) -> int:
    words = next((line.split() for line in text.splitlines() if line.startswith("MemTotal:")), [])
    return _bounded(words[1]) // 1024 if len(words) > 1 else 0


def _disk_gb(done: Completed) -> int:
    words = done.stdout.split() if done.exit_code == 0 else []
    return _bounded(words[0]) * _bounded(words[1]) // 2**30 if len(words) == 2 else 0


def _number(done: Completed) -> int:
    return _bounded(done.stdout.strip()) if done.exit_code == 0 else 0


def _bounded(text: str) -> int:
    """A number that a host told; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0
