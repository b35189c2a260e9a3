"""Orders: what is written down about the machines of a fleet, changed under the fleet's lock. Called by the fleet.

Every change is one rename or one file, so a crash leaves the old order or the new one. Power is not switched here: who
gets a machine's lock from here has to supervise it, or to close it.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from agentmetal.clients.keys import public_line
from agentmetal.core.errors import ClaimedByOther, Invalid, LimitReached, NotFound
from agentmetal.core.machine import OwnerTag, ServerSpec
from agentmetal.providers.nspawn import images
from agentmetal.providers.nspawn.files import is_locked, locked, try_lock
from agentmetal.providers.nspawn.record import (
    NETWORK,
    CloudSeed,
    Place,
    Record,
    Seed,
    free_number,
    new_id,
    places,
)

_INOTIFY = "fs.inotify.max_user_instances"
_INOTIFY_EACH = 7
"""Instances that a booted machine holds (counted): systemd alone 5. Containers share the limit of this computer."""


class Orders:
    """The orders of the fleet in one directory."""

    def __init__(self, directory: Path, *, at_most: int | None) -> None:
        self.directory = directory
        self._at_most = at_most if at_most is not None else _room()

    def claim(self, spec: ServerSpec) -> Place:
        """Find the name, or take it with the lowest free address."""
        place = Place(path=self.directory / spec.name)
        with locked(self.directory / ".lock"):
            if (known := place.record()) is not None:
                if known.owner != str(spec.owner) and not place.removing.exists():
                    raise ClaimedByOther(f"machine {spec.name!r} belongs to {known.owner!r}: choose another name")
                return place
            for draft in self.directory.glob(".new-*"):  # of claims that a crash interrupted
                shutil.rmtree(draft)
            known_numbers = [known.number for place in places(self.directory) if (known := place.record())]
            if len(known_numbers) >= self._at_most:
                raise LimitReached(
                    f"{self._at_most} machines exist: more would not boot. Remove some, or let this computer have more:"
                    f" sysctl -w {_INOTIFY}=1024"
                )
            number = free_number(known_numbers)
            if number is None:
                raise LimitReached(f"no address is free in {NETWORK}: remove machines of {str(self.directory)!r}")
            record = _record(spec, number)
            place.create(record, _seed(spec, record.id))
        return place

    def exchange(self, place: Place, spec: ServerSpec) -> int | None:
        """Give it another disk; its lock, to switch it on with, or None when somebody else just did."""
        with locked(self.directory / ".lock"):
            record = _kept(place)
            if (lock := try_lock(place.lock)) is None:
                return None
            changed = replace(record, image=spec.image, type=spec.type, hostname=spec.hostname or spec.name)
            place.stage(replace(changed, host_key=_public(spec)), _seed(spec, record.id))
            place.take_over()
            place.rescue.unlink(missing_ok=True)
            return lock

    def wish(self, place: Place, *, powered: bool) -> int | None:
        """Write down whether it should run; the lock to supervise it, if it should and nobody does."""
        with locked(self.directory / ".lock"):
            record = _kept(place)
            if record.powered != powered:
                place.save(replace(record, powered=powered))
            return _start(place) if powered else None

    def rescue(self, place: Place) -> int | None:
        """Let its next boot be that of a rescue system; its lock, or None when somebody else just switched it on."""
        with locked(self.directory / ".lock"):
            _kept(place)
            if (lock := _start(place)) is None:
                return None
            place.save(replace(_kept(place), powered=True))
            place.rescue.touch()
            return lock

    def adopt(self, place: Place, owner: OwnerTag, *, was: OwnerTag | None) -> None:
        """Exchange the owner, if it is the expected one."""
        with locked(self.directory / ".lock"):
            record = _settled(place)
            if record.owner not in (str(owner), str(was or "")):
                raise ClaimedByOther(
                    f"machine {record.name!r} belongs to {record.owner or 'nobody'!r}: it is left alone"
                )
            place.save(replace(record, owner=str(owner)))

    def resize(self, place: Place, type: str) -> None:
        """Give it another type for its next boot."""
        with locked(self.directory / ".lock"):
            record = _settled(place)
            if record.type != type and is_locked(place.lock):
                raise Invalid(f"machine {record.name!r} runs and cannot be resized: stop it first")
            place.save(replace(record, type=type))


def _kept(place: Place) -> Record:
    """What was asked for. Raises NotFound for what is to go."""
    record = place.record()
    if record is None or place.removing.exists():
        raise NotFound(f"machine {place.path.name!r} is being removed: create it again")
    return record


def _settled(place: Place) -> Record:
    """The same, once a rebuild that a crash ended is taken over: its record would undo what is written now."""
    if not is_locked(place.lock):
        place.take_over()
    return _kept(place)


def _start(place: Place) -> int | None:
    """The lock to supervise it with; with it, its own system boots from its own disk."""
    if (lock := try_lock(place.lock)) is not None:
        place.take_over()
        place.rescue.unlink(missing_ok=True)
    return lock


def _room() -> int:
    """How many machines this computer can boot."""
    limit = int((Path("/proc/sys") / _INOTIFY.replace(".", "/")).read_text())
    return max(1, limit // _INOTIFY_EACH)


def _record(spec: ServerSpec, number: int) -> Record:
    return Record(
        id=new_id(),
        name=spec.name,
        owner=str(spec.owner),
        type=spec.type,
        image=spec.image,
        hostname=spec.hostname or spec.name,
        number=number,
        powered=True,
        created_at=datetime.now(UTC).isoformat(),
        host_key=_public(spec),
    )


def _seed(spec: ServerSpec, id: str) -> Seed:
    hostname = spec.hostname or spec.name
    cloud = CloudSeed(instance_id=id, hostname=hostname, user_data=spec.user_data)
    return Seed(
        hostname=hostname,
        authorized_keys=spec.authorized_keys,
        host_key=spec.host_key,
        cloud=cloud if images.runs_cloud_init(spec.image) else None,
    )


def _public(spec: ServerSpec) -> str:
    return public_line(spec.host_key) if spec.host_key else ""
