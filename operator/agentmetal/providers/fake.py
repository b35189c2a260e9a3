"""A cloud in memory: the provider protocol without machines, deterministic, in the event loop's time. Shipped.

Used by unit tests, sweeps and benchmarks, and by whoever wants to see the operator work without root. Everything that
goes wrong with clouds can be asked for: `faults`, late lists, quotas, rate limits, changes behind our back.
`fake_hosts.py` gives its servers an operating system. It does no I/O and never reads the computer's clock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from agentmetal.core.clock import Clock
from agentmetal.core.errors import (
    AgentMetalError,
    ClaimedByOther,
    Invalid,
    LimitReached,
    NotFound,
    OutcomeUnknown,
    RateLimited,
)
from agentmetal.core.machine import (
    Capabilities,
    Location,
    OwnerTag,
    Server,
    ServerSpec,
    ServerState,
    ServerType,
)

TYPES = (
    ServerType(name="small", vcpus=1, memory_mb=256, disk_gb=10),
    ServerType(name="medium", vcpus=2, memory_mb=512, disk_gb=20),
    ServerType(name="large", vcpus=4, memory_mb=1024, disk_gb=40),
)
IMAGES = ("bookworm", "bookworm-20")
LOCATIONS = (Location(name="north", description="the first data centre"), Location(name="south"))


def loop_time() -> float:
    """Now, as the event loop counts: virtual in tests with virtual time."""
    return asyncio.get_running_loop().time()


@dataclass
class Faults:
    """What shall go wrong with the next calls; each is used up by the call it hits, in the order it was asked for."""

    latency: float = 0.0
    """Seconds that every call takes, before it acts and again before it answers."""
    _errors: deque[tuple[str, AgentMetalError]] = field(default_factory=deque)
    _lost: deque[tuple[str, AgentMetalError]] = field(default_factory=deque)

    def fail(self, error: AgentMetalError, *, times: int = 1, call: str = "") -> None:
        """The next calls (of that method, or of any) fail and do nothing."""
        self._errors.extend([(call, error)] * times)

    def lose_reply(self, error: AgentMetalError | None = None, *, times: int = 1, call: str = "") -> None:
        """The next changing calls act, and then fail: their answer is lost on the way."""
        lost = error or OutcomeUnknown("the connection broke before the answer: look before doing it again")
        self._lost.extend([(call, lost)] * times)

    @asynccontextmanager
    async def around(self, call: str, *, changes: bool = False) -> AsyncIterator[None]:
        """What a call goes through."""
        await asyncio.sleep(self.latency)
        if error := _take(self._errors, call):
            raise error
        yield
        await asyncio.sleep(self.latency)
        if changes and (error := _take(self._lost, call)):
            raise error


def _take(waiting: deque[tuple[str, AgentMetalError]], call: str) -> AgentMetalError | None:
    """The first that is meant for this call, used up; a fresh one, for exceptions collect tracebacks."""
    for entry in waiting:
        if entry[0] in ("", call):
            waiting.remove(entry)
            return type(entry[1])(entry[1].message, retry_after=entry[1].retry_after)
    return None


@dataclass
class Boot:
    """One time that a server was up."""

    disk: int
    """Which of its disks: each rebuild counts one up."""
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
    listed_from: float
    listed_until: float | None = None
    boots: list[Boot] = field(default_factory=list)
    disk: int = 1
    history: list[tuple[float, ServerState]] = field(default_factory=list)
    """What it is from which time on; may reach into the future."""

    def state(self, now: float) -> ServerState:
        """What it is at that time."""
        return next((state for since, state in reversed(self.history) if since <= now), ServerState.REQUESTED)

    def becomes(self, *changes: tuple[float, ServerState]) -> None:
        """From the first change on it is that, whatever was to come."""
        self.history = [entry for entry in self.history if entry[0] <= changes[0][0]] + list(changes)


class FakeCloud:
    """Servers in memory. Implements `core.machine.ServerProvider`."""

    def __init__(
        self,
        clock: Clock,
        *,
        hosts: bool = True,
        settles_after: float = 0.0,
        boot_seconds: float = 5.0,
        stop_seconds: float = 2.0,
        quota: int | None = None,
        images: Iterable[str] = IMAGES,
        locations: Iterable[Location] = LOCATIONS,
    ) -> None:
        self.faults = Faults()
        self.quota = quota
        """How many servers there may be."""
        self.rate: tuple[int, float] | None = None
        """How many calls in how many seconds; more are RateLimited."""
        self.calls: list[str] = []
        """Every call in order, to be counted by tests."""
        self._clock = clock
        self._capabilities = Capabilities(hosts=hosts, settles_after=settles_after)
        self._boot_seconds, self._stop_seconds = boot_seconds, stop_seconds
        self._images, self._locations = tuple(images), tuple(locations)
        self._servers: dict[str, FakeServer] = {}
        self._gone: list[FakeServer] = []
        self._recent: deque[float] = deque()
        self._made = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def list_servers(self) -> tuple[Server, ...]:
        async with self._call("list_servers"):
            return tuple(self._listing())

    async def find_server(self, name: str) -> Server | None:
        async with self._call("find_server"):
            return next(iter(self._listing(name)), None)

    async def get_server(self, server_id: str) -> Server:
        async with self._call("get_server"):
            return self._describe(self.server(server_id), loop_time())

    async def provision_server(self, spec: ServerSpec) -> Server:
        async with self._call("provision_server", changes=True):
            self._check(spec)
            server = self._named(spec.name)
            if server is None:
                server = self._create(spec, spec.owner)
            elif server.owner != spec.owner:
                raise ClaimedByOther(f"server {spec.name!r} belongs to {str(server.owner)!r}: choose another name")
            return self._describe(server, loop_time())

    async def decommission_server(self, server_id: str, owner: OwnerTag) -> None:
        async with self._call("decommission_server", changes=True):
            server = self._servers.get(server_id)
            if server is not None and server.owner != owner:
                raise ClaimedByOther(f"server {server_id!r} belongs to {str(server.owner)!r}: not ours to delete")
            if server is not None:
                self.vanish(server_id)

    async def start_server(self, server_id: str) -> None:
        async with self._call("start_server", changes=True):
            self._start(self.server(server_id))

    async def stop_server(self, server_id: str, *, force: bool = False) -> None:
        async with self._call("stop_server", changes=True):
            self._stop(self.server(server_id), clean=not force)

    async def reboot_server(self, server_id: str, *, force: bool = False) -> None:
        async with self._call("reboot_server", changes=True):
            self.reboot(server_id, clean=not force)

    async def rebuild_server(self, server_id: str, spec: ServerSpec) -> None:
        async with self._call("rebuild_server", changes=True):
            self._check(spec)
            server = self.server(server_id)
            if server.owner != spec.owner:
                raise ClaimedByOther(f"server {server_id!r} belongs to {str(server.owner)!r}: not ours to rebuild")
            self._stop(server, clean=False)
            server.disk += 1
            server.spec = replace(spec, name=server.spec.name, location=server.spec.location)
            self._boot(server, first=True)

    async def list_server_types(self) -> tuple[ServerType, ...]:
        async with self._call("list_server_types"):
            left = None if self.quota is None else max(0, self.quota - len(self._servers))
            return tuple(replace(type, available=left) for type in TYPES)

    async def list_images(self) -> tuple[str, ...]:
        async with self._call("list_images"):
            return self._images

    async def list_locations(self) -> tuple[Location, ...]:
        async with self._call("list_locations"):
            return self._locations

    async def close(self) -> None:
        """Nothing is kept open."""

    # -- behind our back -----------------------------------------------------------------------------------------------

    def server(self, server_id: str) -> FakeServer:
        """The server of that id. Raises NotFound."""
        try:
            return self._servers[server_id]
        except KeyError:
            raise NotFound(f"server {server_id!r} does not exist (any more)") from None

    def lose_power(self, server_id: str) -> None:
        """It is off, at once."""
        self._stop(self.server(server_id), clean=False)

    def shut_down(self, server_id: str) -> None:
        """Somebody inside shuts it down."""
        self._stop(self.server(server_id), clean=True)

    def reboot(self, server_id: str, *, clean: bool) -> None:
        """Somebody restarts it, from inside or by its reset button."""
        server = self.server(server_id)
        self._stop(server, clean=clean)
        self._start(server)

    def vanish(self, server_id: str) -> None:
        """It is gone with its disks. Lists may show it for a while."""
        server = self.server(server_id)
        self._stop(server, clean=False)
        server.listed_until = loop_time() + self._capabilities.settles_after
        self._gone.append(self._servers.pop(server_id))

    def order_by_hand(self, spec: ServerSpec) -> str:
        """Somebody makes a server without an owner tag; its id."""
        return self._create(spec, None).id

    # -- inside --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _call(self, name: str, *, changes: bool = False) -> AsyncIterator[None]:
        self.calls.append(name)
        self._count()
        async with self.faults.around(name, changes=changes):
            yield

    def _count(self) -> None:
        """Refuse a call that is one too many in the window."""
        if self.rate is None:
            return
        allowed, window = self.rate
        now = loop_time()
        while self._recent and self._recent[0] <= now - window:
            self._recent.popleft()
        if len(self._recent) >= allowed:
            wait = self._recent[0] + window - now
            raise RateLimited(f"more than {allowed} calls in {window:g} s: wait {wait:g} s", retry_after=wait)
        self._recent.append(now)

    def _listing(self, name: str | None = None) -> Iterable[Server]:
        """Everything of ours (of that name) as it was `settles_after` ago."""
        now = loop_time()
        seen = now - self._capabilities.settles_after
        for server in itertools.chain(self._gone, self._servers.values()):
            if name is not None and server.spec.name != name:  # asked first: benchmarks have thousands of servers
                continue
            shown = server.listed_from <= now and (server.listed_until is None or now < server.listed_until)
            if shown and server.owner is not None:
                yield self._describe(server, seen)

    def _named(self, name: str) -> FakeServer | None:
        return next((server for server in self._servers.values() if server.spec.name == name), None)

    def _check(self, spec: ServerSpec) -> None:
        choices = {
            "server type": (spec.type, [type.name for type in TYPES]),
            "image": (spec.image, list(self._images)),
            "location": (spec.location, ["", *(location.name for location in self._locations)]),
        }
        for what, (value, known) in choices.items():
            if value not in known:
                raise Invalid(f"{what} {value!r} does not exist: use one of {', '.join(filter(None, known))}")

    def _create(self, spec: ServerSpec, owner: OwnerTag | None) -> FakeServer:
        if self.quota is not None and len(self._servers) >= self.quota:
            raise LimitReached(f"the account may have {self.quota} servers: ask the provider for more, or remove some")
        self._made += 1
        server = FakeServer(
            id=f"fake-{self._made}",
            spec=replace(spec, location=spec.location or self._locations[0].name),
            owner=owner,
            address=f"198.51.{100 + self._made // 250}.{self._made % 250 + 1}",
            created_at=self._clock.now(),
            listed_from=loop_time() + self._capabilities.settles_after,
        )
        self._servers[server.id] = server
        self._boot(server, first=True)
        return server

    def _start(self, server: FakeServer) -> None:
        if self._last(server) not in (ServerState.RUNNING, ServerState.PROVISIONING):
            self._boot(server)

    def _boot(self, server: FakeServer, *, first: bool = False) -> None:
        """Up after a while: from now, or from when it will be off."""
        began = max(loop_time(), server.history[-1][0] if server.history else 0.0)
        up_at = began + self._boot_seconds
        server.boots.append(Boot(disk=server.disk, up_at=up_at))
        if first:
            server.becomes((began, ServerState.PROVISIONING), (up_at, ServerState.RUNNING))
        else:
            server.becomes((began, ServerState.RUNNING))

    def _stop(self, server: FakeServer, *, clean: bool) -> None:
        """Off after a while, or at once. A boot that is to come does not come."""
        now = loop_time()
        going = self._last(server) is ServerState.STOPPED
        if going and (clean or server.state(now) is ServerState.STOPPED):
            return
        down_at = now + self._stop_seconds if clean else now
        for boot in server.boots:
            if boot.down_at is None or boot.down_at > down_at:
                boot.down_at, boot.clean = down_at, clean
        if clean:
            server.becomes((now, ServerState.STOPPING), (down_at, ServerState.STOPPED))
        else:
            server.becomes((now, ServerState.STOPPED))

    def _last(self, server: FakeServer) -> ServerState:
        """What it is going to be."""
        return server.history[-1][1] if server.history else ServerState.REQUESTED

    def _describe(self, server: FakeServer, now: float) -> Server:
        return Server(
            id=server.id,
            name=server.spec.name,
            owner=server.owner,
            type=server.spec.type,
            image=server.spec.image,
            location=server.spec.location,
            state=server.state(now),
            addresses=(server.address,),
            created_at=server.created_at,
        )
