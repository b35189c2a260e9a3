"""The fleet: the machines of one directory, their power, their cables, and what can go wrong with them.

Called by the provider, `agentmetal dev machine …` and tests. It keeps nothing in memory: files, locks, cgroups and
namespaces are the truth, so any number of processes may use one fleet, and any of them may die at any point. A machine
is supervised by a detached process of its own (`supervisor.py`); the fleet starts it, asks it, or kills it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentmetal.core.errors import Invalid, NotFound, Unavailable
from agentmetal.core.machine import OwnerTag, ServerSpec, ServerState
from agentmetal.providers.nspawn import cgroups, images, network
from agentmetal.providers.nspawn.files import is_locked, locked
from agentmetal.providers.nspawn.orders import Orders
from agentmetal.providers.nspawn.record import Place, Record, fleet_id, new_id, places
from agentmetal.providers.nspawn.supervisor import start_time

PATIENCE = 15.0
"""Seconds until a killed supervisor must be gone."""
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "PYTHONPATH", "XDG_CACHE_HOME")
"""What a supervisor sees of ours: it lives long, and our environment holds secrets."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine as it is now."""

    record: Record
    state: ServerState
    pid: int | None
    """Its pid 1, as this computer sees it; None when it is off."""
    faults: tuple[str, ...] = ()
    """What somebody did to it: `frozen`, `cable pulled`."""

    rescue: bool = False
    """It runs, or is about to run, its rescue system."""

    @property
    def owner(self) -> OwnerTag | None:
        """Whose it is."""
        return OwnerTag.parse(self.record.owner) if self.record.owner else None

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace of its Instance."""
        return self.owner.namespace if self.owner else ""


class Fleet:
    """The machines whose state is in one directory."""

    def __init__(self, directory: Path, *, at_most: int | None = None) -> None:
        if forbidden := set(str(directory.resolve())) & set(',:\\"'):
            raise Invalid(f"{str(directory)!r} holds {''.join(sorted(forbidden))!r}, which mounts cannot: use another")
        self.directory = directory
        self.id = fleet_id(directory)
        self._orders = Orders(directory, at_most=at_most)

    # -- what there is -------------------------------------------------------------------------------------------------

    async def machines(self) -> tuple[Machine, ...]:
        """All machines, by name."""
        return await asyncio.to_thread(self._machines)

    async def machine(self, name: str) -> Machine:
        """The machine of that name. Raises NotFound with the names there are."""
        known = {machine.record.name: machine for machine in await self.machines()}
        if name not in known:
            raise NotFound(f"machine {name!r} does not exist: there are {', '.join(known) or 'none'}")
        return known[name]

    async def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A connected socket inside the fleet's network, for an SSH client outside. Raises Unavailable."""
        connection = await asyncio.to_thread(network.new_socket, self.id)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):  # TimeoutError is one
                raise Unavailable(f"{address}:{port} does not answer: {str(error) or 'timed out'}") from error
            raise
        return connection

    # -- power ---------------------------------------------------------------------------------------------------------

    async def create(self, spec: ServerSpec) -> Machine:
        """Claim the name and switch on what never ran. One of many concurrent calls makes it, the others find it."""
        await asyncio.to_thread(self._bury)
        while (place := await asyncio.to_thread(self._orders.claim, spec)).removing.exists():
            await self.remove(spec.name)
        if not place.boot_state().get("booted"):
            await self._power_on(place)
        return await self.machine(spec.name)

    async def start(self, name: str) -> None:
        """Switch on; nothing happens when it runs."""
        await self._power_on(self._place(name))

    async def stop(self, name: str) -> None:
        """Press the power button. Returns before it is off."""
        place = self._place(name)
        # Before the wish, so that no crash leaves a machine that seems to go down and never heard of it; and after it,
        # for one that is down already comes up again as long as nobody wished otherwise.
        await asyncio.to_thread(self._signal, place, signal.SIGTERM)
        await asyncio.to_thread(self._orders.wish, place, powered=False)
        await asyncio.to_thread(self._signal, place, signal.SIGTERM)

    async def reboot(self, name: str) -> None:
        """Ask it to restart; a machine that is off is switched on."""
        place = self._place(name)
        if not await asyncio.to_thread(self._signal, place, signal.SIGHUP):
            await self._power_on(place)

    async def kill(self, name: str) -> None:
        """Power loss: silence on the cable and every process dead at once. Returns when it is off."""
        await self._cut_power(self._place(name))

    async def reset(self, name: str) -> None:
        """Power loss, and power again."""
        await self.kill(name)
        await self.start(name)

    async def rebuild(self, name: str, spec: ServerSpec) -> None:
        """Replace its disk by a new one of another image, and switch on. Identity and address stay."""
        place, lock = self._place(name), None
        while lock is None:  # whoever switches it on meanwhile loses: it is off while its disk is changed
            await self._cut_power(place)
            lock = await asyncio.to_thread(self._orders.exchange, place, spec)
        await self._supervise(place, lock)

    async def rescue(self, name: str) -> None:
        """Power loss, and power again with a rescue system that has the machine's disk at /mnt."""
        place, lock = self._place(name), None
        while lock is None:
            await self._cut_power(place)
            lock = await asyncio.to_thread(self._orders.rescue, place)
        await self._supervise(place, lock)

    async def adopt(self, name: str, owner: OwnerTag, *, was: OwnerTag | None) -> None:
        """Make it another owner's; its name stays."""
        await asyncio.to_thread(self._orders.adopt, self._place(name), owner, was=was)

    async def resize(self, name: str, type: str) -> None:
        """Give it another type for its next boot; it must be off."""
        await asyncio.to_thread(self._orders.resize, self._place(name), type)

    async def remove(self, name: str) -> None:
        """Delete a machine with its disk; goes on where a crash ended it, succeeds when it is gone."""
        with suppress(NotFound, FileNotFoundError):  # somebody else may have finished it at any point
            place = self._place(name)
            place.removing.touch()
            await self._cut_power(place)
            await asyncio.to_thread(self._forget, place)

    # -- faults --------------------------------------------------------------------------------------------------------

    async def freeze(self, name: str) -> None:
        """Hang: nothing inside runs any more, connections stay open."""
        await asyncio.to_thread(cgroups.freeze, self._group(name), frozen=True)

    async def thaw(self, name: str) -> None:
        """Undo `freeze`."""
        await asyncio.to_thread(cgroups.freeze, self._group(name), frozen=False)

    async def cut(self, name: str) -> None:
        """Pull its cable; stays pulled over reboots."""
        place = self._place(name)
        place.cut.touch()
        await self._plug(place, up=False)

    async def heal(self, name: str) -> None:
        """Plug its cable in again."""
        place = self._place(name)
        place.cut.unlink(missing_ok=True)
        await self._plug(place, up=True)

    # -- the whole fleet -----------------------------------------------------------------------------------------------

    async def ensure_image(self, name: str, progress: Callable[[str], None]) -> None:
        """Build an image if it is missing, saying what goes on. Half a minute for the first one."""
        images.recipe_of(name)
        argv = (sys.executable, "-P", "-m", "agentmetal.providers.nspawn.images", name)
        builder = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # so that it and its children can be ended together
        )
        line = ""
        try:
            assert builder.stdout is not None  # noqa: S101 - asked for by PIPE
            async for raw in builder.stdout:
                progress(line := raw.decode(errors="replace").rstrip())
            code = await builder.wait()
        except asyncio.CancelledError:
            if builder.returncode is None:
                os.killpg(builder.pid, signal.SIGTERM)
            raise
        if code:
            raise Unavailable(f"image {name!r} cannot be built: {line}")

    async def down(self) -> None:
        """Remove every process, network, control group and file of the fleet. May be called again at any point."""
        for place in await asyncio.to_thread(places, self.directory):
            place.removing.touch()
        await asyncio.to_thread(cgroups.kill, self.id)
        for place in await asyncio.to_thread(places, self.directory):
            await self.remove(place.path.name)
        await asyncio.to_thread(self._sweep)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _machines(self) -> tuple[Machine, ...]:
        found = ((place, place.record()) for place in places(self.directory))
        return tuple(_describe(place, record) for place, record in found if record is not None)

    def _place(self, name: str) -> Place:
        place = Place(path=self.directory / name)
        if "/" in name or name.startswith(".") or place.record() is None:
            raise NotFound(f"machine {name!r} does not exist in {str(self.directory)!r}: list them")
        return place

    def _group(self, name: str) -> str:
        record = self._place(name).record()
        return f"{self.id}/{record.number if record else ''}"

    async def _power_on(self, place: Place) -> None:
        """Start it, unless it is supervised already."""
        lock = await asyncio.to_thread(self._orders.wish, place, powered=True)
        if lock is not None:
            await self._supervise(place, lock)

    async def _supervise(self, place: Place, lock: int) -> None:
        """Start the supervisor and hand it the lock: there is no moment in which a second one could start."""
        with suppress(Unavailable):  # at its first start it has no group yet
            await self.thaw(place.path.name)  # a power cycle ends a freeze, also one asked for while it was off
        argv = (sys.executable, "-P", "-m", "agentmetal.providers.nspawn.supervisor", str(place.path.resolve()))
        try:
            with place.log.open("ab") as log:
                launcher = await asyncio.create_subprocess_exec(
                    *("setsid", "--fork", *argv, str(lock)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    cwd="/",
                    env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
                )
                await launcher.wait()
        finally:
            os.close(lock)

    async def _plug(self, place: Place, *, up: bool) -> None:
        """A machine that is off has no cable; it boots with what `cut` says."""
        record = place.record()
        if record is not None:
            with suppress(Unavailable):
                await asyncio.to_thread(network.plug, self.id, record, up=up)

    async def _cut_power(self, place: Place) -> None:
        """Kill until nobody holds the machine's lock: a supervisor may be so young that it is in no group yet."""
        await self._plug(place, up=False)
        async with asyncio.timeout(PATIENCE):
            while True:
                await asyncio.to_thread(cgroups.kill, self._group(place.path.name))
                if not is_locked(place.lock):
                    return
                await asyncio.sleep(0.01)

    def _signal(self, place: Place, number: int) -> bool:
        """Signal the supervisor and nobody else: a pid is believed only with its start time. False when it is off."""
        state = place.boot_state()
        if not is_locked(place.lock) or "pid" not in state:
            return False
        try:
            descriptor = os.pidfd_open(state["pid"])
        except ProcessLookupError:
            return False
        try:
            if start_time(state["pid"]) != state["since"]:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _forget(self, place: Place) -> None:
        """Remove what a dead machine leaves; its address is free once its directory is gone."""
        with locked(self.directory / ".network.lock"):
            if (record := place.record()) is not None:
                network.remove_machine(self.id, record)
                cgroups.remove(f"{self.id}/{record.number}")
                _forget_container(f"{self.id}-{record.number}")
        with locked(self.directory / ".lock"), suppress(FileNotFoundError):
            grave = place.path.with_name(f".gone-{new_id()}")
            if place.removing.exists():  # otherwise somebody finished it, and the name is used again
                place.path.rename(grave)
        self._bury()

    def _bury(self) -> None:
        """Delete the disks of removed machines, also those of removals that a crash ended."""
        for grave in self.directory.glob(".gone-*"):
            shutil.rmtree(grave, ignore_errors=True)

    def _sweep(self) -> None:
        """What belongs to no machine: the fleet's own network and group, and all that lost its files."""
        cgroups.kill(self.id)
        for namespace in network.namespaces(self.id):
            network.remove_namespace(namespace)
        cgroups.remove(self.id)
        _forget_container(f"{self.id}-*")
        shutil.rmtree(self.directory, ignore_errors=True)


def _forget_container(pattern: str) -> None:
    """nspawn leaves empty directories of containers that were killed."""
    for path in Path("/run/systemd/nspawn").glob(f"*/{pattern}"):
        shutil.rmtree(path, ignore_errors=True)


def _describe(place: Place, record: Record) -> Machine:
    """The state follows from who holds the lock, what was asked for, and what the supervisor has reached."""
    boot, on = place.boot_state(), is_locked(place.lock)
    if place.removing.exists():
        state = ServerState.DECOMMISSIONING
    elif on and not record.powered:
        state = ServerState.STOPPING
    elif on:
        state = ServerState.RUNNING if boot.get("ready") else ServerState.PROVISIONING
    else:  # also when whoever ordered it died before he switched it on: it must look like what can be started
        state = ServerState.STOPPED
    pid = boot.get("leader") or None if on else None
    rescue = on and (place.rescue.exists() or bool(boot.get("rescue")))
    return Machine(record=record, state=state, pid=pid, faults=_faults(place, record, on=on), rescue=rescue)


def _faults(place: Place, record: Record, *, on: bool) -> tuple[str, ...]:
    frozen = ("frozen",) if on and cgroups.is_frozen(f"{place.fleet}/{record.number}") else ()
    return (*frozen, *(("cable pulled",) if place.cut.exists() else ()))
