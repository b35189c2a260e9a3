"""A world in which, at one call of the operator, something breaks: the provider, a host, the store, the clock.

`FatefulWorld` is the world of the sweeps with a port around each port: the calls of a story are numbered, and at the
number that `Fate` names, its fault strikes. Faults stand in `strikes.py`, stories in `stories.py`, the judge in
`judging.py`. It changes nothing by itself.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from tests.support.inventories import Trace, trace
from tests.support.system import Process, TestLeader
from tests.sweep.mortal import READS, Life
from tests.sweep.virtual import PROCESS
from tests.sweep.world import SweepWorld

from agentmetal.agents.instance.api import Instance
from agentmetal.app import World
from agentmetal.clients.keys import make_key_pair
from agentmetal.core.clock import Clock
from agentmetal.core.errors import AgentMetalError, StaleLeader, Unavailable
from agentmetal.engine.metrics import Metrics
from agentmetal.providers.fake_host import FakeHost, FakeUnit
from agentmetal.providers.ssh.memory import SshProviders

WORTH_TELLING = ("Stalled", "Blocked", "HostKeyMismatch")
"""Conditions that ask for a human: what they say must help him."""
RESTARTED_AFTER = 10.0
"""Seconds."""
ATTENDS = 5.0
"""Seconds between two looks of the human who resolves what is in doubt."""


class OperatorClock:
    """The wall clock of the operator's machine: somebody may set it, while the world's own time goes on."""

    def __init__(self, true: Clock) -> None:
        self._true = true
        self.ahead = timedelta()

    def now(self) -> datetime:
        return self._true.now() + self.ahead


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the operator, on its way."""

    world: FatefulWorld
    port: str
    """`cloud`, `host`, `hosts` (connections) or `audit`."""
    method: str
    act: Callable[[], Awaitable[Any]]
    ssh: Any = None
    """The connection, of calls to a host."""

    @property
    def label(self) -> str:
        """What faults are chosen by."""
        return f"{self.port}.{self.method}"

    @property
    def changes(self) -> bool:
        """May it have an effect?"""
        return self.method not in READS

    @property
    def host(self) -> FakeHost | None:
        """The machine that the call is about, or the one that the story is about."""
        return self.ssh._host if self.ssh is not None else self.world.machine()


Strike = Callable[[Call], Awaitable[Any]]
"""What becomes of a call: it answers or raises in its stead."""


@dataclass(kw_only=True)
class Fate:
    """At which calls something breaks."""

    strikes: dict[int, Strike] = field(default_factory=dict)
    armed: bool = False
    points: list[str] = field(default_factory=list)
    """The calls that were made while armed, in order."""
    struck: list[str] = field(default_factory=list)
    """Where something broke."""

    def at(self, label: str) -> Strike | None:
        """The fault that strikes now, if one does."""
        if not self.armed:
            return None
        self.points.append(label)
        strike = self.chosen(len(self.points), label)
        if strike is not None:
            self.struck.append(f"{len(self.points)}: {label}")
        return strike

    def chosen(self, number: int, label: str) -> Strike | None:
        """The fault for that call."""
        return self.strikes.pop(number, None)


class Fateful:
    """A port as the operator holds it."""

    def __init__(self, world: FatefulWorld, name: str, port: Any) -> None:
        self._world, self._name, self._port = world, name, port

    def __getattr__(self, method: str) -> Any:
        target = getattr(self._port, method)
        if not inspect.iscoroutinefunction(target):
            return target

        async def call(*args: Any, **options: Any) -> Any:
            ssh = self._port if self._name == "host" else None
            act = partial(self._act, target, method, args, options)
            made = Call(world=self._world, port=self._name, method=method, act=act, ssh=ssh)
            self._world.suffer(made)
            strike = self._world.fate.at(made.label)
            return await (strike(made) if strike else made.act())

        return call

    async def _act(self, target: Any, method: str, args: Any, options: Any) -> Any:
        answer = await target(*args, **options)
        if method == "start_unit":
            self._world.units[args[0]] = self._port._host.units[args[0]]
        return answer


class FatefulMachines:
    """Hosts as the operator reaches them."""

    def __init__(self, world: FatefulWorld, machines: Any) -> None:
        self._world, self._machines = world, machines
        self._port = Fateful(world, "hosts", machines)

    async def connect(self, identity: Any) -> Any:
        return Fateful(self._world, "host", await self._port.connect(identity))

    async def shown_host_key(self, identity: Any) -> Any:
        return await self._port.shown_host_key(identity)

    async def forget(self, owner: Any) -> None:
        await self._machines.forget(owner)


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """Another machine at the same place, whose place that is, and what was on it when it came."""

    host: FakeHost
    instead_of: FakeHost
    came_with: Trace


class FatefulWorld(SweepWorld):
    """The world in which it happens."""

    def __init__(self, fate: Fate, **options: Any) -> None:
        super().__init__(**options)
        self.fate = fate
        self.operator_clock = OperatorClock(self.clock)
        self.units: dict[str, FakeUnit] = {}
        """Every unit that was ever started, by name."""
        self.strangers: list[Stranger] = []
        self.said: set[tuple[str, str]] = set()
        """What conditions that ask for a human have said."""
        self.metrics: list[Metrics] = []
        self._outage: tuple[float, str, AgentMetalError] | None = None
        self._troubles: set[asyncio.Task[None]] = set()

    # ---- the operator in it

    async def start(self, *, workers: int = 4) -> Process:
        """One that cannot even start is started again, as Kubernetes does."""
        while True:
            try:
                return await super().start(workers=workers)
            except AgentMetalError:
                await asyncio.sleep(RESTARTED_AFTER)

    def stand_on(self, leader: TestLeader, metrics: Metrics, lost: Callable[[StaleLeader], None]) -> World:
        """A port around each port."""
        world = super().stand_on(leader, metrics, lost)
        self.metrics.append(metrics)
        cloud = Fateful(self, "cloud", world.factories["Fake"](None))  # type: ignore[arg-type]  # it asks nobody
        machines: Any = FatefulMachines(self, world.machines)
        factories: Any = {"Fake": lambda _account: cloud, "SSH": SshProviders(machines, cluster=world.cluster)}
        audit: Any = Fateful(self, "audit", world.audit)
        return replace(world, audit=audit, machines=machines, factories=factories, clock=self.operator_clock)

    def begin(self) -> None:
        """From here on calls count."""
        self.fate.armed = True

    @property
    def passes(self) -> int:
        """How many passes all processes made."""
        samples = (s for m in self.metrics for family in m.registry.collect() for s in family.samples)
        return int(sum(s.value for s in samples if s.name == "controller_runtime_reconcile_total"))

    # ---- what breaks, and is well again

    def machine(self) -> FakeHost | None:
        """The machine that the story is about: the one server, or the first host of the inventory."""
        for server_id in self.cloud._servers:
            return self.hosts.host(server_id)
        return next(iter(self.hosts._plain.values()), None)

    def suffer(self, call: Call) -> None:
        """While the provider is out of order, its calls fail."""
        if call.port != "cloud" or self._outage is None or asyncio.get_running_loop().time() >= self._outage[0]:
            return
        _, method, error = self._outage
        if method in ("", call.method):
            raise type(error)(error.message, retry_after=error.retry_after)

    def out_of_order(self, seconds: float, error: AgentMetalError, *, method: str = "") -> None:
        """The provider answers like that, to all calls or to those of a method."""
        self._outage = asyncio.get_running_loop().time() + seconds, method, error
        self.later(seconds, lambda: None)

    def later(self, seconds: float, mend: Callable[[], None], *, or_when: Callable[[], bool] = lambda: False) -> None:
        """It is mended after a while, or as soon as something is so."""

        async def mended() -> None:
            deadline = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < deadline and not or_when():  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(1.0)
            mend()

        token = PROCESS.set(None)  # whoever mends outlives the operator that was struck
        try:
            task = asyncio.get_running_loop().create_task(mended())
        finally:
            PROCESS.reset(token)
        self._troubles.add(task)
        task.add_done_callback(self._troubles.discard)

    async def fair(self) -> None:
        """Wait until nothing is broken any more."""
        while self._troubles:
            await asyncio.wait(self._troubles)

    def reboots(self, host: FakeHost) -> Callable[[], bool]:
        """Has it booted again since?"""
        boots = len(host.server.boots)
        return lambda: len(host.server.boots) > boots

    def power_off(self, host: FakeHost) -> None:
        """It is off. What has no power switch is switched on by a human after a while."""
        (self.hosts._metal if host.plain else self.cloud).server(host.server.id).stop(clean=False)
        if host.plain:
            self.later(60.0, host.server.start)

    def exchange(self, host: FakeHost, seconds: float) -> None:
        """Another machine stands at its place for a while: it lets us in, and it is not the one."""
        here, host = host, self._rightful(host)
        stranger = self.exchanged(here)
        self.strangers.append(Stranger(host=stranger, instead_of=host, came_with=trace(stranger)))
        if host.plain:
            place = next(place for place, known in self.hosts._plain.items() if known is here)
            here.server.stop(clean=False)
            self.hosts._plain[place] = stranger

            def back() -> None:
                stranger.server.stop(clean=False)
                self.hosts._plain[place] = host
                host.server.start()

        else:
            server, disk = host.server, (host.server.id, host.server.disk)
            self.hosts._hosts[disk] = stranger
            server.stop(clean=False)
            server.start()

            def back() -> None:
                self.hosts._hosts[disk] = host
                if (server.id, server.disk) == disk:  # nobody replaced the disk meanwhile
                    server.stop(clean=False)
                    server.start()

        self.later(seconds, back)

    def _rightful(self, host: FakeHost) -> FakeHost:
        """Whoever is put back in the end, where a stranger is exchanged for another one."""
        return next((stranger.instead_of for stranger in self.strangers if stranger.host is host), host)

    def exchanged(self, host: FakeHost) -> FakeHost:
        """Another machine that knows our key; of the same cloud server, or another plain host."""
        server = host.server
        if host.plain:
            address = next(place for place, known in self.hosts._plain.items() if known is host)
            other = self.hosts.plain(f"not-{server.id}", address=address[0], port=address[1])
            other.host_key = make_key_pair("stranger").public_line
            self.hosts._plain[address] = host
        else:
            other = FakeHost(server=server, files={}, host_key=make_key_pair("stranger").public_line)
        other.files |= {path: data for path, data in host.files.items() if path.startswith(("/root", "/home"))}
        other.files |= {"/etc/machine-id": b"0123456789abcdef0123456789abcdef\n", "/etc/hostname": b"stranger\n"}
        return other

    # ---- people

    async def attend(self) -> None:
        """A human who reads what Blocked says, looks at the machine, and does it."""
        while True:
            await asyncio.sleep(ATTENDS)
            for name in self.names():
                seen = self.see(name)
                blocked = [c for c in seen.status.conditions if c.type == "Blocked" and c.status == "True"]
                wanted = re.search(r"agentmetal\.io/resolve=(\S+?)=done", blocked[0].message) if blocked else None
                if wanted and seen.annotation("agentmetal.io/resolve") != f"{wanted[1]}=done":
                    await self.annotate(name, resolve=f"{wanted[1]}=done")

    def has_said(self, type: str, text: str) -> bool:
        """Has a condition that asks for a human ever said that?"""
        return any(text in message for kind, message in self.said if kind == type)

    def names(self) -> Iterator[str]:
        """Of all Instances."""
        for type, _, name in list(self.cluster.contents("default")):
            if type == Instance.info.type:
                yield name

    def _note_object(self, body: dict[str, Any]) -> None:
        super()._note_object(body)
        for condition in body.get("status", {}).get("conditions") or ():
            if condition["status"] == "True" and condition["type"] in WORTH_TELLING:
                self.said.add((condition["type"], condition["message"]))


def unreachable(call: Call) -> AgentMetalError:
    """The connection is reset: what the client makes of that."""
    if call.ssh is not None:
        call.ssh.close()
    return Unavailable(f"the connection was reset during {call.label}")


@asynccontextmanager
async def fateful(fate: Fate, **options: Any) -> AsyncIterator[FatefulWorld]:
    """Such a world, with an operator that is started again whenever it dies, and a human."""
    world = FatefulWorld(fate, **options)
    lives = (Life(armed=False) for _ in itertools.count())
    tasks = [asyncio.create_task(world.live_through(lives)), asyncio.create_task(world.attend())]
    await asyncio.sleep(0)
    try:
        yield world
    finally:
        for task in [*tasks, *world._troubles]:
            task.cancel()
        await asyncio.gather(*tasks, *world._troubles, return_exceptions=True)
