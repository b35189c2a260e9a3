"""Control groups of machines: to find, freeze and kill every process of one, and to limit it.

Finding, freezing and killing use cgroup2 alone (at /sys/fs/cgroup, or beside v1 at /sys/fs/cgroup/unified). Limits use
whatever controller there is, v1 or v2. Called by the supervisor and the fleet; knows groups, not machines.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path

from agentmetal.core.errors import Unavailable

ROOT = Path("/sys/fs/cgroup")
LIMITED = ("memory", "cpu")


def unified() -> Path:
    """Where cgroup2 is. Raises Unavailable without one."""
    for path in (ROOT, ROOT / "unified"):
        if (path / "cgroup.controllers").exists():
            return path
    raise Unavailable(f"no cgroup2 is mounted at {str(ROOT)!r} or {str(ROOT / 'unified')!r}: machines cannot run here")


def enter(group: str) -> None:
    """Move the calling process into the group, made when needed, where processes are found again."""
    _enter((unified(), *_existing("systemd")), group)


def enter_limits(group: str) -> None:
    """Move the calling process into the group where v1 limits."""
    _enter(_existing(*LIMITED), group)


def limit(group: str, *, memory_mb: int, vcpus: int) -> tuple[str, ...]:
    """Limit a group; returns sentences about what this kernel cannot limit."""
    wishes = {
        "memory": (("memory/{}/memory.limit_in_bytes", memory_mb << 20), ("{}/memory.max", memory_mb << 20)),
        "cpu": (("cpu/{}/cpu.cfs_quota_us", vcpus * 100_000), ("{}/cpu.max", f"{vcpus * 100_000} 100000")),
    }
    return tuple(
        f"no cgroup controller for {what} here: the machine is not limited in it"
        for what, files in wishes.items()
        if not any(_write(ROOT / name.format(group), str(value)) for name, value in files)
    )


def freeze(group: str, *, frozen: bool) -> None:
    """Stop every process of the group in its tracks, or let them go on. Raises Unavailable when there is no group."""
    path = unified() / group
    if not _write(path / "cgroup.freeze", "1" if frozen else "0"):
        raise Unavailable(f"nothing runs in {str(path)!r}: start the machine first")


def is_frozen(group: str) -> bool:
    """Was it stopped in its tracks? A group that does not exist was not."""
    try:
        return (unified() / group / "cgroup.freeze").read_text().strip() == "1"
    except FileNotFoundError:
        return False


def kill(group: str, *, timeout: float = 10.0) -> None:
    """Kill every process of the group at once, frozen or not, and wait until all are gone."""
    path = unified() / group
    if _write(path / "cgroup.kill", "1") and not _wait_until_empty(path, timeout):
        raise Unavailable(f"processes in {str(path)!r} did not die in {timeout:g} s: they hang in the kernel")


def remove(group: str) -> None:
    """Remove the empty group and all below it from every hierarchy."""
    for hierarchy in (unified(), *_existing("systemd", *LIMITED)):
        for path in _deepest_first(hierarchy / group):
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()


def members(group: str) -> tuple[int, ...]:
    """The processes of the group and all below it."""
    files = (unified() / group).glob("**/cgroup.procs")
    return tuple(int(pid) for file in files for pid in file.read_text().split())


def _existing(*names: str) -> tuple[Path, ...]:
    """Those hierarchies of v1 that this system has."""
    return tuple(ROOT / name for name in names if (ROOT / name / "cgroup.procs").exists())


def _enter(hierarchies: tuple[Path, ...], group: str) -> None:
    for hierarchy in hierarchies:
        (hierarchy / group).mkdir(parents=True, exist_ok=True)
        (hierarchy / group / "cgroup.procs").write_text("0")


def _deepest_first(path: Path) -> Iterator[Path]:
    for below, _, _ in os.walk(path, topdown=False):
        yield Path(below)


def _write(path: Path, text: str) -> bool:
    """Write to a control file that exists; never creates one. False when this kernel or group has none."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    return True


def _wait_until_empty(path: Path, timeout: float) -> bool:
    """The kernel reports a change of `cgroup.events` as an exceptional condition."""
    try:
        descriptor = os.open(path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLPRI)
        while b"populated 1" in os.pread(descriptor, 256, 0):
            if not poll.poll(timeout * 1000):
                return b"populated 0" in os.pread(descriptor, 256, 0)
        return True
    finally:
        os.close(descriptor)
