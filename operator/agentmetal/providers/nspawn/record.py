"""What is written down about a machine: `machine.json` and `boot.json` in its directory, and the files it starts with.

Called by the fleet (operator) and the supervisor (machine). A directory appears complete by one rename, so there are
no half-made machines; a rebuild is staged as `next/` and taken over before the next boot.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentmetal.providers.nspawn.files import read_json, write_atomically, write_json

NETWORK = ipaddress.ip_network("10.77.0.0/16")
FIRST = 11
"""Number of the first machine; 10.77.0.1 is the bridge."""
LAST = 65_000
FLOATING = tuple(str(NETWORK[number]) for number in range(255 * 256 + 1, 255 * 256 + 255))
"""Addresses that no machine has by itself: whoever configures one has it. Beyond LAST."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a server type gives."""

    vcpus: int
    memory_mb: int
    disk_gb: int


SIZES = {
    "small": Size(vcpus=1, memory_mb=256, disk_gb=10),
    "medium": Size(vcpus=2, memory_mb=512, disk_gb=20),
    "large": Size(vcpus=4, memory_mb=1024, disk_gb=40),
}


def fleet_id(directory: Path) -> str:
    """What everything of a fleet is named by in the kernel (network namespaces, cgroups)."""
    return "am-" + hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class CloudSeed:
    """What cloud-init's datasource NoCloud finds, so that it never looks anywhere else."""

    instance_id: str
    hostname: str
    user_data: str
    """Nothing happens when it is empty."""

    def write(self, upper: Path) -> None:
        """Only root may read it: user data holds secrets."""
        directory = upper / "var/lib/cloud/seed/nocloud"
        directory.mkdir(parents=True)
        directory.chmod(0o700)
        for above in ("var", "var/lib", "var/lib/cloud", "var/lib/cloud/seed"):
            (upper / above).chmod(0o755)  # they hide what the image says of them, and our umask has no say
        meta = {"instance-id": self.instance_id, "local-hostname": self.hostname}
        write_atomically(directory / "meta-data", json.dumps(meta) + "\n", mode=0o600)  # JSON is YAML
        write_atomically(directory / "user-data", self.user_data or "#cloud-config\n{}\n", mode=0o600)


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The files that make a machine out of an image."""

    hostname: str
    authorized_keys: tuple[str, ...]
    host_key: str
    machine_id: str = ""
    """A new one when empty."""
    cloud: CloudSeed | None = None
    """For images that carry cloud-init."""

    @classmethod
    def of_rescue(cls, hostname: str, disk: Path) -> Seed:
        """For a rescue system that must be taken for the machine whose own layer is given."""
        return cls(
            hostname=hostname,
            authorized_keys=tuple(_kept(disk, "root/.ssh/authorized_keys").splitlines()),
            host_key=_kept(disk, "etc/ssh/ssh_host_ed25519_key"),
            machine_id=_kept(disk, "etc/machine-id").strip(),
        )

    def write(self, upper: Path) -> None:
        """Lay them into the machine's own layer. Without a host key the supervisor makes one."""
        for directory, mode in (("etc/ssh", 0o755), ("root/.ssh", 0o700)):
            (upper / directory).mkdir(parents=True)
            (upper / directory).chmod(mode)
        upper.chmod(0o755)
        (upper / "etc").chmod(0o755)
        (upper / "root").chmod(0o700)
        write_atomically(upper / "etc/hostname", self.hostname + "\n")
        write_atomically(upper / "etc/machine-id", (self.machine_id or uuid.uuid4().hex) + "\n", mode=0o444)
        write_atomically(upper / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.hostname}\n::1 localhost\n")
        keys = "".join(f"{key.strip()}\n" for key in self.authorized_keys)
        write_atomically(upper / "root/.ssh/authorized_keys", keys, mode=0o600)
        if self.host_key:
            write_atomically(upper / "etc/ssh/ssh_host_ed25519_key", self.host_key.strip() + "\n", mode=0o600)
        if self.cloud:
            self.cloud.write(upper)


def _kept(disk: Path, name: str) -> str:
    """A file of a machine's own layer, or nothing. Links are not followed: they would lead out of it."""
    path = disk / name
    if not path.is_file() or path.resolve() != disk.resolve() / name:
        return ""
    return path.read_text(errors="replace")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A machine as it was asked for."""

    id: str
    name: str
    owner: str
    type: str
    image: str
    hostname: str
    number: int
    powered: bool
    """Should it run?"""
    created_at: str
    host_key: str = ""
    """The public half of the key that was ordered, one OpenSSH line."""

    @property
    def address(self) -> str:
        """Its address in the fleet's network."""
        return str(NETWORK[self.number])

    @property
    def mac(self) -> str:
        """Follows the address: a new MAC behind an old address stays unreachable for 8-20 s (ARP caches)."""
        return "02:4d:" + ":".join(f"{byte:02x}" for byte in NETWORK[self.number].packed)

    @property
    def link(self) -> str:
        """Its port at the bridge."""
        return f"m{self.number}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The directory of one machine."""

    path: Path

    @property
    def fleet(self) -> str:
        """Its fleet's name in the kernel."""
        return fleet_id(self.path.parent)

    @property
    def lock(self) -> Path:
        """Held by whoever supervises the machine, from before its start until its death: locked = powered."""
        return self.path / "supervisor.lock"

    @property
    def removing(self) -> Path:
        """Exists once it is being deleted; nothing starts it any more."""
        return self.path / "removing"

    @property
    def cut(self) -> Path:
        """Exists while its cable is pulled, also over reboots."""
        return self.path / "cut"

    @property
    def rescue(self) -> Path:
        """Exists from the order of a rescue system until it boots; any other start removes it."""
        return self.path / "rescue"

    @property
    def log(self) -> Path:
        """Its console, and what its supervisor says."""
        return self.path / "console.log"

    @property
    def boot(self) -> Path:
        """What the supervisor knows: `{pid, since, leader, booted, ready, rescue}`."""
        return self.path / "boot.json"

    def record(self) -> Record | None:
        """What was asked for, or None when there is no such machine."""
        stored = read_json(self.path / "machine.json")
        return Record(**stored) if stored else None

    def save(self, record: Record) -> None:
        """Replace what was asked for."""
        write_json(self.path / "machine.json", asdict(record))

    def boot_state(self) -> dict[str, Any]:
        """What the supervisor has last said; empty before the first boot of this disk."""
        return read_json(self.boot) or {}

    def create(self, record: Record, seed: Seed) -> None:
        """Make the directory, complete or not at all. Called under the fleet's lock."""
        draft = self.path.with_name(f".new-{record.id}")
        seed.write(draft / "upper")
        Place(path=draft).save(record)
        draft.rename(self.path)

    def stage(self, record: Record, seed: Seed) -> None:
        """Write down another disk, for the next boot. Called while nothing supervises the machine."""
        draft, following = self.path / ".next", self.path / "next"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(following, ignore_errors=True)
        seed.write(draft / "upper")
        Place(path=draft).save(record)
        draft.rename(following)

    def take_over(self) -> None:
        """Exchange the disk by the staged one, if there is one. Goes on where a crash ended it."""
        following = Place(path=self.path / "next")
        record = following.record()
        if record is None:
            return
        if (following.path / "upper").exists():
            shutil.rmtree(self.path / "upper", ignore_errors=True)
            self.boot.unlink(missing_ok=True)
            (following.path / "upper").rename(self.path / "upper")
        self.save(replace(record, powered=True))
        shutil.rmtree(following.path)


def places(directory: Path) -> tuple[Place, ...]:
    """All machines of a fleet, by name."""
    found = sorted(directory.glob("*/machine.json"))
    return tuple(Place(path=path.parent) for path in found if not path.parent.name.startswith("."))


def free_number(taken: Sequence[int]) -> int | None:
    """The lowest free address, or None. Called under the fleet's lock."""
    used = set(taken)
    return next((number for number in range(FIRST, LAST) if number not in used and number % 256 not in (0, 255)), None)


def new_id() -> str:
    """An identity that is never used again, unlike names and addresses."""
    return f"nspawn-{os.urandom(6).hex()}"
