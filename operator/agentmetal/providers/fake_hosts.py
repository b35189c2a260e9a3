"""Simulated hosts: the servers of a `FakeCloud`, and plain hosts of no cloud (an inventory's), answer as if by SSH.

Implements `core.machine.Machines` and `Ssh`; used by unit tests and sweeps of whole plans. Everything is in memory
and in the event loop's time: files, units with a duration, power, cables. Commands are answered from a table; one that
is not in it "is not installed". The journal records every command that ran as a unit, on whichever host, for tests that
count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import TypeVar

from agentmetal.clients.keys import fingerprint, public_line
from agentmetal.clients.ssh import authorized, sudo
from agentmetal.clients.ssh.machines import Login
from agentmetal.clients.ssh.wrapper import PATH, name_of, program
from agentmetal.core.clock import Clock, LoopClock
from agentmetal.core.errors import (
    AuthenticationFailed,
    Forbidden,
    HostKeyMismatch,
    Invalid,
    LimitReached,
    NotFound,
    StaleLeader,
    Unavailable,
)
from agentmetal.core.machine import Completed, MachineIdentity, OwnerTag, SecretKey, ServerSpec, UnitPhase, UnitState
from agentmetal.core.resource import Key
from agentmetal.providers.fake import IMAGES, FakeCloud, Faults
from agentmetal.providers.fake_host import (
    COMMANDS,
    ROOT,
    Command,
    Effect,
    FakeHost,
    FakeUnit,
    UnitCommand,
    installed,
    ok,
)
from agentmetal.providers.fake_proc import looked_at
from agentmetal.providers.fake_server import loop_time

__all__ = ["Effect", "FakeHost", "FakeHosts", "FakeSsh", "Run"]

LoadKey = Callable[[SecretKey], Awaitable[str]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command that ran as a unit."""

    server_id: str
    name: str
    argv: tuple[str, ...]
    epoch: int
    at: float


@dataclass(kw_only=True)
class _Kept:
    ssh: FakeSsh
    owners: set[Key]


class FakeHosts:
    """Connections to the servers of a fake cloud, and to plain hosts."""

    def __init__(
        self,
        cloud: FakeCloud | None = None,
        load_key: LoadKey | None = None,
        *,
        connect_timeout: float = 5.0,
        clock: Clock | None = None,
        boot_seconds: float = 5.0,
    ) -> None:
        """Clock and `boot_seconds` are those of plain hosts; without `load_key` every client key is accepted."""
        self.faults = Faults()
        self.journal: list[Run] = []
        self.connections = 0
        """How many were made."""
        self._metal = FakeCloud(clock or LoopClock(), boot_seconds=boot_seconds, stop_seconds=boot_seconds)
        """What gives plain hosts their power: nobody's account."""
        self._cloud, self._load_key, self._connect_timeout = cloud or self._metal, load_key, connect_timeout
        self._hosts: dict[tuple[str, int], FakeHost] = {}
        self._plain: dict[tuple[str, int], FakeHost] = {}
        self._kept: dict[Login, _Kept] = {}
        self._commands: dict[tuple[str, ...], Command] = dict(COMMANDS)
        self._units: dict[tuple[str, ...], UnitCommand] = {}
        self.command(["find", "/", "-maxdepth", "0"], self._looked_at)
        self.command(["systemctl", "reboot"], self._reboot)
        self.command(["systemctl", "poweroff"], self._power_off)

    async def connect(self, identity: MachineIdentity) -> FakeSsh:
        """The kept connection, or a new one. A host that is off, cut or frozen is silence until the timeout."""
        kept = self._kept.get(login := Login.of(identity))
        if kept is not None and kept.ssh.open:
            kept.owners.add(identity.owner)
            return kept.ssh
        async with self.faults.around("connect"):
            host = await self._reached(identity)
            await self._verify(identity, host)
            self.connections += 1
            self._kept[login] = _Kept(ssh=FakeSsh(self, host, identity.user), owners={identity.owner})
            return self._kept[login].ssh

    async def forget(self, owner: Key) -> None:
        """Close what is kept for an object and for nobody else."""
        for login, kept in list(self._kept.items()):
            kept.owners.discard(owner)
            if not kept.owners:
                self._kept.pop(login).ssh.close()

    async def shown_host_key(self, identity: MachineIdentity) -> str:
        """What is shown there now."""
        async with self.faults.around("shown_host_key"):
            return (await self._reached(identity)).host_key

    # -- for tests -----------------------------------------------------------------------------------------------------

    def host(self, server_id: str) -> FakeHost:
        """The operating system on the disk that the server has now. Raises NotFound."""
        server = self._cloud.server(server_id)
        place = (server.id, server.system)
        if place not in self._hosts:
            self._hosts[place] = installed(server)
            if server.rescued:
                self._hosts[place].mount(self._hosts.get((server.id, server.disk)) or installed(server))
        return self._hosts[place]

    def plain(
        self,
        name: str,
        *,
        address: str,
        port: int = 22,
        user: str = ROOT,
        host_key: str = "",
        authorized_keys: Sequence[str] = (),
        type: str = "small",
        machine_id: str = "",
    ) -> FakeHost:
        """A host that belongs to no cloud and bears no claim, up at once; another one at the same place replaces it.

        `host_key` is a public key. What can go wrong with it: `cut`, `refuses`, `frozen`, `sudo_asks`, `full`,
        `health` (read-only, clock, …), `host_key`, its file /etc/machine-id, and its power: `reboot`, `lose_power`.
        """
        nobody = OwnerTag(cluster="nobody", namespace="nobody", uid="nobody")
        spec = ServerSpec(name=name, owner=nobody, type=type, image=IMAGES[0])
        server = self._metal.server(self._metal.order_by_hand(spec))
        server.address, server.boots[0].up_at = address, loop_time()
        host = installed(server)
        host.host_key, host.port, host.plain = host_key, port, True
        host.files[host.logins(user)] = "".join(f"{key}\n" for key in authorized_keys).encode()
        machine_id = machine_id or sha256(f"plain/{server.id}/{name}".encode()).hexdigest()[:32]
        host.files["/etc/machine-id"] = f"{machine_id}\n".encode()
        self._plain[address, port] = host
        return host

    def host_at(self, address: str, port: int = 22) -> FakeHost:
        """The plain host that is at that place now. Raises NotFound."""
        try:
            return self._plain[address, port]
        except KeyError:
            raise NotFound(f"no plain host is at {address}:{port}") from None

    def reboot(self, host: FakeHost, *, clean: bool = True) -> None:
        """Somebody restarts it, from inside or by its reset button."""
        self._power(host).reboot(host.server.id, clean=clean)

    def lose_power(self, host: FakeHost) -> None:
        """It is off, at once."""
        self._power(host).lose_power(host.server.id)

    def command(self, prefix: Sequence[str], answer: Command) -> None:
        """Answer commands that begin so; the longest prefix counts. They also run as units."""
        self._commands[tuple(prefix)] = answer

    def unit(self, prefix: Sequence[str], run: UnitCommand | Effect) -> None:
        """Run commands that begin so, as units only."""
        self._units[tuple(prefix)] = (lambda host, argv: run) if isinstance(run, Effect) else run

    def runs(self, name: str) -> tuple[Run, ...]:
        """Every run of a unit of that name, on any host: one, if all is well."""
        return tuple(run for run in self.journal if run.name == name)

    # -- for the connections -------------------------------------------------------------------------------------------

    def answer(self, host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
        """Run a command."""
        command = _longest(self._commands, argv)
        if command is None:
            return Completed(exit_code=127, stdout="", stderr=f"{argv[0]}: command not found\n")
        return command(host, argv, stdin)

    def effect(self, host: FakeHost, name: str, argv: Sequence[str]) -> Effect:
        """Run a command as a unit. Raises NotFound when there is no such program."""
        unit = _longest(self._units, argv)
        if unit is not None:
            return unit(host, argv)
        if _longest(self._commands, argv) is None:
            raise NotFound(f"the host has no program {argv[0]!r}: unit {name!r} was not started")
        done = self.answer(host, argv, b"")
        return Effect(exit_code=done.exit_code, output=done.stdout + done.stderr)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _power(self, host: FakeHost) -> FakeCloud:
        """Who can switch it."""
        return self._metal if host.plain else self._cloud

    def _at(self, identity: MachineIdentity) -> FakeHost | None:
        """What is at that address."""
        plain = self._plain.get((identity.address, identity.port))
        if plain is not None:
            return plain
        try:
            host = self.host(identity.server_id)
        except NotFound:
            return None
        return host if host.server.address == identity.address and self._cloud.capabilities.hosts else None

    async def _reached(self, identity: MachineIdentity) -> FakeHost:
        host = self._at(identity)
        if host is None or host.boot is None or host.cut or host.frozen:
            await asyncio.sleep(self._connect_timeout)
            raise Unavailable(f"{identity.address}:{identity.port} does not answer: timed out")
        if host.refuses:
            raise Unavailable(f"{identity.address}:{identity.port} refuses connections")
        return host

    async def _verify(self, identity: MachineIdentity, host: FakeHost) -> None:
        if host.host_key.split()[:2] != identity.host_key.split()[:2]:
            shown = fingerprint(host.host_key) if host.host_key else "none of that kind"
            pinned = fingerprint(identity.host_key)
            raise HostKeyMismatch(f"{identity.address!r} shows another key; pinned {pinned}, shown {shown}")
        if self._load_key is not None:
            ours = public_line(await self._load_key(identity.client_key)).split()[:2]
            accepted = authorized.keys_in(host.files.get(host.logins(identity.user), b""))
            if ours not in [line.split()[:2] for line in accepted]:
                raise AuthenticationFailed(f"{identity.address!r} refuses the key of {identity.client_key.name!r}")
        _check_sudo(identity.user, host)

    def _looked_at(self, host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
        now = self._power(host).clock.now()
        return ok(looked_at(host.health, host.readable(), argv, now=now, full=host.full))

    def _reboot(self, host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
        self.reboot(host)
        return ok()

    def _power_off(self, host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
        self._power(host).shut_down(host.server.id)
        return ok()


class FakeSsh:
    """A connection to a host, for as long as it stays up."""

    def __init__(self, hosts: FakeHosts, host: FakeHost, user: str = ROOT) -> None:
        self._hosts, self._host, self._boot = hosts, host, host.boot
        self._logins, self._user = host.logins(user), user
        self._closed = False

    @property
    def open(self) -> bool:
        """Does the host still know of it? A frozen or cut one does: nobody told us otherwise."""
        boot = self._host.boot
        return not self._closed and boot is not None and boot is self._boot

    def close(self) -> None:
        """End it."""
        self._closed = True

    async def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 10.0) -> Completed:
        async with self._hosts.faults.around("run"):
            await self._reach(timeout)
            return self._hosts.answer(self._host, argv, stdin or b"")

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        async with self._hosts.faults.around("write_file", changes=True):
            await self._reach()
            self._write(path, data, mode)

    async def create_file(self, path: str, data: bytes, *, mode: int = 0o644) -> bytes:
        async with self._hosts.faults.around("create_file", changes=True):
            await self._reach()
            if path not in self._host.files:
                self._write(path, data, mode)
            return self._host.files[path]

    async def remove_file(self, path: str) -> None:
        async with self._hosts.faults.around("remove_file", changes=True):
            await self._reach()
            if _absolute(path) in self._host.files:
                self._need_writable(path)
                del self._host.files[path]

    async def swap_file(self, path: str, was: bytes, data: bytes | None, *, mode: int = 0o644) -> bool:
        async with self._hosts.faults.around("swap_file", changes=True):
            await self._reach()
            if self._host.files.get(_absolute(path)) != was:
                return False
            if data is None:
                self._need_writable(path)
                del self._host.files[path]
            else:
                self._write(path, data, mode)
            return True

    async def start_unit(self, name: str, argv: Sequence[str], *, epoch: int, timeout: float) -> UnitState:
        async with self._hosts.faults.around("start_unit", changes=True):
            await self._reach()
            self._fence(name_of(name), epoch)
            if name not in self._host.units:
                self._start(name, argv, epoch, timeout)
            return self._host.units[name].state(loop_time())

    async def unit_state(self, name: str) -> UnitState:
        async with self._hosts.faults.around("unit_state"):
            await self._reach()
            self._need_wrapper()
            unit = self._host.units.get(name_of(name))
            return unit.state(loop_time()) if unit else UnitState(phase=UnitPhase.NEVER)

    async def forget_units(self, operation: str) -> None:
        async with self._hosts.faults.around("forget_units", changes=True):
            await self._reach()
            self._need_wrapper()
            for name in [name for name in self._host.units if name.rsplit("-", 2)[0] == operation]:
                if self._host.units[name].state(loop_time()).phase is not UnitPhase.RUNNING:
                    del self._host.units[name]

    async def install_wrapper(self, *, epoch: int) -> None:
        async with self._hosts.faults.around("install_wrapper", changes=True):
            await self._reach()
            self._need_room(PATH)
            self._host.files[PATH] = program()
            if not self._host.installed:
                self._host.installed, self._host.epoch = True, epoch

    async def remove_wrapper(self, *, epoch: int) -> None:
        async with self._hosts.faults.around("remove_wrapper", changes=True):
            await self._reach()
            if epoch < self._host.epoch:
                raise StaleLeader(f"the host has seen epoch {self._host.epoch}: nothing was removed")
            self._need_writable(PATH)
            self._host.files.pop(PATH, None)
            self._host.installed, self._host.epoch = False, 0
            self._host.units.clear()

    async def authorized(self) -> tuple[str, ...]:
        async with self._hosts.faults.around("authorized"):
            await self._reach(as_root=False)
            return authorized.keys_in(self._host.files.get(self._logins, b""))

    async def authorize(self, public_key: str, *, like: str = "") -> None:
        async with self._hosts.faults.around("authorize", changes=True):
            await self._reach(as_root=False)
            self._change_logins(lambda content: authorized.with_key(content, public_key, like=like))

    async def revoke(self, public_key: str) -> None:
        async with self._hosts.faults.around("revoke", changes=True):
            await self._reach(as_root=False)
            self._change_logins(lambda content: authorized.without_key(content, public_key))

    def _change_logins(self, changed: Callable[[bytes], bytes]) -> None:
        content = self._host.files.get(self._logins, b"")
        if (new := changed(content)) != content:
            self._write(self._logins, new, authorized.MODE)

    async def _reach(self, timeout: float = 10.0, *, as_root: bool = True) -> None:
        """Silence costs the whole timeout; a connection whose host went down is known to be lost."""
        if self.open and (self._host.cut or self._host.frozen):
            await asyncio.sleep(timeout)
            self.close()
        if not self.open:
            raise Unavailable(f"the connection to {self._host.server.address!r} is lost: connect again")
        if as_root:
            _check_sudo(self._user, self._host)

    def _write(self, path: str, data: bytes, mode: int) -> None:
        self._need_room(_absolute(path))
        self._host.files[path] = data
        self._host.modes[path] = mode

    def _fence(self, name: str, epoch: int) -> None:
        self._need_wrapper()
        if epoch < self._host.epoch:
            raise StaleLeader(f"the host has seen epoch {self._host.epoch}: unit {name!r} was not started")
        self._host.epoch = epoch

    def _start(self, name: str, argv: Sequence[str], epoch: int, timeout: float) -> None:
        self._need_room(f"/var/lib/agentmetal/units/{name}")
        assert self._boot is not None  # noqa: S101 - an open connection has one
        began, id = loop_time(), self._host.server.id
        effect = self._hosts.effect(self._host, name, argv)
        self._hosts.journal.append(Run(server_id=id, name=name, argv=tuple(argv), epoch=epoch, at=began))
        self._host.units[name] = FakeUnit(boot=self._boot, effect=effect, began=began, timeout=timeout)

    def _need_wrapper(self) -> None:
        if not self._host.installed:
            raise Unavailable(f"agentmetal-run is not on {self._host.server.address!r}: install it")

    def _need_writable(self, path: str) -> None:
        if self._host.health.read_only:
            raise Forbidden(
                f"the file system of {self._host.server.address!r} is read-only: {path!r} cannot be written"
            )

    def _need_room(self, path: str) -> None:
        self._need_writable(path)
        if self._host.full:
            raise LimitReached(f"no space is left on {self._host.server.address!r} for {path!r}: free some")


def _check_sudo(user: str, host: FakeHost) -> None:
    """May that account do what root does? Raises Forbidden."""
    if user != ROOT and host.sudo_asks:
        raise sudo.refusal(user, "sudo: a password is required")


def _absolute(path: str) -> str:
    """The same paths are refused as by the real client."""
    parsed = PurePosixPath(path)
    if not parsed.is_absolute() or not parsed.name or ".." in parsed.parts or "\0" in path:
        raise Invalid(f"{path!r} is no file path: give an absolute one without `..`")
    return path


T = TypeVar("T")


def _longest(table: dict[tuple[str, ...], T], argv: Sequence[str]) -> T | None:
    matches = (length for length in range(len(argv), 0, -1) if tuple(argv[:length]) in table)
    length = next(matches, 0)
    return table[tuple(argv[:length])] if length else None
