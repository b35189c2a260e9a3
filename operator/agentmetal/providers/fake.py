"""A cloud in memory: the provider protocol without machines, deterministic, in the event loop's time. Shipped.

Used by unit tests, sweeps and benchmarks, and by whoever wants to see the operator work without root. Everything that
goes wrong with clouds can be asked for: `faults`, late lists, quotas, rate limits, changes behind our back.
`fake_hosts.py` gives its servers an operating system. It does no I/O and never reads the computer's clock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from agentmetal.clients.keys import public_line
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
    Floating,
    FloatingIp,
    Location,
    OwnerTag,
    Server,
    ServerSpec,
    ServerState,
    ServerType,
    Unusable,
)
from agentmetal.providers.fake_server import FakeServer, loop_time

TYPES = (
    ServerType(name="small", vcpus=1, memory_mb=256, disk_gb=10),
    ServerType(name="medium", vcpus=2, memory_mb=512, disk_gb=20),
    ServerType(name="large", vcpus=4, memory_mb=1024, disk_gb=40),
)
IMAGES = ("bookworm", "bookworm-20", "bookworm-cloud")
CLOUD_INIT = frozenset({"bookworm-cloud"})
"""The images that carry cloud-init."""
LOCATIONS = (
    Location(name="north", description="the first data centre", failure_domains=("north-1", "north-2")),
    Location(name="south"),
)
FLOATING_IPS = tuple(f"203.0.113.{number}" for number in range(10, 14))


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
        inventory: bool = False,
        floating: Floating = Floating.ROUTED,
        floating_ips: Iterable[str] = FLOATING_IPS,
    ) -> None:
        """With `inventory` it makes no servers: those ordered by hand are claimed, and let go of."""
        self.faults = Faults()
        self.quota = quota
        """How many servers there may be."""
        self.rate: tuple[int, float] | None = None
        """How many calls in how many seconds; more are RateLimited."""
        self.calls: list[str] = []
        """Every call in order, to be counted by tests."""
        self.unusable: tuple[Unusable, ...] = ()
        """What is in the account and cannot be used."""
        self.clock = clock
        """The time that its servers and their hosts go by."""
        self._capabilities = Capabilities(
            hosts=hosts,
            settles_after=settles_after,
            power=not inventory,
            makes_servers=not inventory,
            resize=not inventory,
            rescue=not inventory,
            floating=floating,
        )
        self._boot_seconds, self._stop_seconds = boot_seconds, stop_seconds
        self._images, self._locations = tuple(images), tuple(locations)
        self._floating: dict[str, str | None] = dict.fromkeys(floating_ips)
        self._servers: dict[str, FakeServer] = {}
        self._names: dict[str, list[FakeServer]] = {}
        """The same by name, oldest first: thousands of them are asked for by name again and again."""
        self._gone: list[FakeServer] = []
        """Those that lists may still show."""
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
            return self.server(server_id).describe(loop_time())

    async def provision_server(self, spec: ServerSpec) -> Server:
        async with self._call("provision_server", changes=True):
            self._check(spec)
            server = self._named(spec.name)
            if server is None:
                server = self._obtain(spec)
            elif server.owner != spec.owner:
                raise ClaimedByOther(f"server {spec.name!r} belongs to {str(server.owner)!r}: choose another name")
            return server.describe(loop_time())

    async def decommission_server(self, server_id: str, owner: OwnerTag) -> None:
        async with self._call("decommission_server", changes=True):
            server = self._servers.get(server_id)
            if server is not None and server.owner != owner:
                raise ClaimedByOther(f"server {server_id!r} belongs to {str(server.owner)!r}: not ours to delete")
            if server is not None and self._capabilities.makes_servers:
                self.vanish(server_id)
            elif server is not None:
                server.owner = None

    async def start_server(self, server_id: str) -> None:
        async with self._call("start_server", changes=True):
            server = self.server(server_id)
            self._need(self._capabilities.power, server, "be started")
            server.start()

    async def stop_server(self, server_id: str, *, force: bool = False) -> None:
        async with self._call("stop_server", changes=True):
            server = self.server(server_id)
            self._need(self._capabilities.power, server, "be stopped")
            server.stop(clean=not force)

    async def reboot_server(self, server_id: str, *, force: bool = False) -> None:
        async with self._call("reboot_server", changes=True):
            self._need(self._capabilities.power, self.server(server_id), "be restarted")
            self.reboot(server_id, clean=not force)

    async def rebuild_server(self, server_id: str, spec: ServerSpec) -> None:
        async with self._call("rebuild_server", changes=True):
            self._check(spec)
            server = self.server(server_id)
            self._need(self._capabilities.makes_servers, server, "be rebuilt")
            if server.owner != spec.owner:
                raise ClaimedByOther(f"server {server_id!r} belongs to {str(server.owner)!r}: not ours to rebuild")
            server.stop(clean=False)
            server.disk += 1
            stays = {field: getattr(server.spec, field) for field in ("name", "location", "failure_domain", "labels")}
            server.spec = replace(spec, **stays)
            server.host_key = _public(spec)
            server.boot(server.disk, first=True)

    async def adopt_server(self, server_id: str, name: str, owner: OwnerTag, *, was: OwnerTag | None) -> Server:
        async with self._call("adopt_server", changes=True):
            server, namesake = self.server(server_id), self._named(name)
            if server.owner not in (was, owner):
                raise ClaimedByOther(f"server {server_id!r} belongs to {str(server.owner)!r}: it is left alone")
            if namesake is not None and namesake is not server:
                raise ClaimedByOther(f"server {namesake.id!r} has the name {name!r} already: choose another one")
            self._claim(server, name, owner)
            return server.describe(loop_time())

    async def resize_server(self, server_id: str, type: str) -> None:
        async with self._call("resize_server", changes=True):
            server = self.server(server_id)
            _one_of("server type", type, [known.name for known in TYPES])
            self._need(self._capabilities.resize, server, "be resized")
            if server.spec.type != type and server.state(loop_time()) is not ServerState.STOPPED:
                raise Invalid(f"server {server_id!r} runs and cannot be resized: stop it first")
            server.spec = replace(server.spec, type=type)

    async def rescue_server(self, server_id: str) -> None:
        async with self._call("rescue_server", changes=True):
            server = self.server(server_id)
            self._need(self._capabilities.rescue, server, "run a rescue system")
            server.rescue()

    def runs_cloud_init(self, image: str) -> bool:
        return image in CLOUD_INIT

    async def list_unusable(self) -> tuple[Unusable, ...]:
        async with self._call("list_unusable"):
            return self.unusable

    async def list_floating_ips(self) -> tuple[FloatingIp, ...]:
        async with self._call("list_floating_ips"):
            return tuple(FloatingIp(address=address, server_id=to) for address, to in self._floating.items())

    async def assign_floating_ip(self, address: str, server_id: str) -> None:
        async with self._call("assign_floating_ip", changes=True):
            self._pooled(address)
            server = self.server(server_id)
            if self._capabilities.floating is Floating.ROUTED:
                self._floating[address] = server.id

    async def unassign_floating_ip(self, address: str) -> None:
        async with self._call("unassign_floating_ip", changes=True):
            self._pooled(address)
            self._floating[address] = None

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
        self.server(server_id).stop(clean=False)

    def shut_down(self, server_id: str) -> None:
        """Somebody inside shuts it down."""
        self.server(server_id).stop(clean=True)

    def reboot(self, server_id: str, *, clean: bool) -> None:
        """Somebody restarts it, from inside or by its reset button."""
        server = self.server(server_id)
        server.stop(clean=clean)
        server.start()

    def vanish(self, server_id: str) -> None:
        """It is gone with its disks. Lists may show it for a while."""
        server = self.server(server_id)
        server.stop(clean=False)
        self._floating = {address: to if to != server_id else None for address, to in self._floating.items()}
        now = loop_time()
        server.listed_until = now + self._capabilities.settles_after
        self._gone = [gone for gone in self._gone if gone.listed_until is None or now < gone.listed_until]
        self._gone.append(self._servers.pop(server_id))
        self._unname(server)

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
        gone = (server for server in self._gone if name in (None, server.spec.name))
        for server in itertools.chain(gone, self._servers.values() if name is None else self._names.get(name, ())):
            shown = server.listed_from <= now and (server.listed_until is None or now < server.listed_until)
            if shown and server.owner is not None:
                yield server.describe(seen)

    def _named(self, name: str) -> FakeServer | None:
        return next(iter(self._names.get(name, ())), None)

    def _claim(self, server: FakeServer, name: str, owner: OwnerTag) -> None:
        """It is somebody's from now on, under that name."""
        self._unname(server)
        server.owner, server.spec = owner, replace(server.spec, name=name, owner=owner)
        self._names.setdefault(name, []).append(server)

    def _unname(self, server: FakeServer) -> None:
        namesakes = self._names[server.spec.name]
        namesakes.remove(server)
        if not namesakes:
            del self._names[server.spec.name]

    def _check(self, spec: ServerSpec) -> None:
        _one_of("server type", spec.type, [type.name for type in TYPES])
        _one_of("image", spec.image, self._images)
        _one_of("location", spec.location, ["", *(location.name for location in self._locations)])
        _one_of("failure domain", spec.failure_domain, ["", *self._domains(spec.location)])
        if spec.labels and self._capabilities.makes_servers:
            raise Invalid(
                f"servers here have no labels, {', '.join(sorted(spec.labels))!r} was asked for: leave it out"
            )
        if spec.user_data and not self.runs_cloud_init(spec.image):
            raise Invalid(f"image {spec.image!r} has no cloud-init for the user data: use {', '.join(CLOUD_INIT)}")

    def _domains(self, location: str) -> tuple[str, ...]:
        """What servers of the location (the first one when it is left to us) can fail with."""
        name = location or self._locations[0].name
        return next((known.failure_domains for known in self._locations if known.name == name), ())

    def _need(self, able: bool, server: FakeServer, what: str) -> None:
        if not able:
            raise Invalid(f"server {server.id!r} cannot {what}: it stands in an inventory and has no power switch")

    def _pooled(self, address: str) -> None:
        if address not in self._floating:
            raise NotFound(f"floating address {address!r} does not exist: list them")

    def _obtain(self, spec: ServerSpec) -> FakeServer:
        """A new server; in an inventory the first of its kind that is nobody's."""
        if self._capabilities.makes_servers:
            return self._create(spec, spec.owner)
        for server in self._servers.values():
            if server.owner is None and _fits(server.spec, spec):
                self._claim(server, spec.name, spec.owner)
                return server
        raise LimitReached(f"no server of type {spec.type!r} is free in the inventory: add one, or release one")

    def _create(self, spec: ServerSpec, owner: OwnerTag | None) -> FakeServer:
        if self.quota is not None and len(self._servers) >= self.quota:
            raise LimitReached(f"the account may have {self.quota} servers: ask the provider for more, or remove some")
        self._made += 1
        location = spec.location or self._locations[0].name
        domains = self._domains(location) or ("",)
        spread = domains[self._made % len(domains)]
        server = FakeServer(
            id=f"fake-{self._made}",
            spec=replace(spec, location=location, failure_domain=spec.failure_domain or spread),
            owner=owner,
            host_key=_public(spec),
            boot_seconds=self._boot_seconds,
            stop_seconds=self._stop_seconds,
            address=f"198.51.{100 + self._made // 250}.{self._made % 250 + 1}",
            created_at=self.clock.now(),
            listed_from=loop_time() + self._capabilities.settles_after,
        )
        self._servers[server.id] = server
        self._names.setdefault(server.spec.name, []).append(server)
        server.boot(server.disk, first=True)
        return server


def _public(spec: ServerSpec) -> str:
    return public_line(spec.host_key) if spec.host_key else ""


def _one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise Invalid(f"{what} {value!r} does not exist: use one of {', '.join(filter(None, known))}")


def _fits(has: ServerSpec, wanted: ServerSpec) -> bool:
    """Is it of the kind that is looked for?"""
    same_place = wanted.location in ("", has.location) and wanted.failure_domain in ("", has.failure_domain)
    return has.type == wanted.type and same_place and wanted.labels.items() <= has.labels.items()
