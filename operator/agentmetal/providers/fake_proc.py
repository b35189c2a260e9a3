"""What simulated hosts say about themselves: /proc, and the one command that looks at a host. Used by `fake_hosts.py`.

Every number can be set per host, for tests of what the operator makes of it. Text only, made when it is asked for; the
form is that of the real programs, so that the real parser reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

KERNEL = "6.1.0-40-cloud-amd64"
VERSION = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.153-1 (2025-09-20)"
TICKS = 100
BLOCKS = 2_500_000
"""Of 4 KiB: a disk of 10 GB."""
INODES = 640_000


@dataclass
class Health:
    """How a simulated host is; change it to make it ill."""

    disk_free: float = 0.6
    inodes_free: float = 0.9
    memory_available: float = 0.7
    load: float = 0.1
    clock_ahead: float = 0.0
    """Seconds."""
    read_only: bool = False
    """Is / mounted read-only? Then nothing can be written."""
    failed_units: tuple[str, ...] = ()
    reboot_required: bool = False
    packages_changed: float = 1_760_000_000.0
    """Seconds since 1970."""


def proc(health: Health, *, hostname: str, memory_kb: int, cpus: int, boot: str, up_seconds: float) -> dict[str, str]:
    """The files that the kernel makes up. `boot` names the boot."""
    return {
        "/proc/sys/kernel/hostname": f"{hostname}\n",
        "/proc/sys/kernel/osrelease": f"{KERNEL}\n",
        "/proc/sys/kernel/version": f"{VERSION}\n",
        "/proc/sys/kernel/random/boot_id": f"{_uuid(boot)}\n",
        "/proc/1/stat": f"1 (systemd) S 0 1 1 0 -1 4194560 {'0 ' * 12}{TICKS // 50} 0 0\n",
        "/proc/uptime": f"{up_seconds + 0.02:.2f} {up_seconds:.2f}\n",
        "/proc/loadavg": f"{health.load * cpus:.2f} 0.10 0.10 1/100 4711\n",
        "/proc/meminfo": f"MemTotal: {memory_kb} kB\nMemAvailable: {int(memory_kb * health.memory_available)} kB\n",
        "/proc/self/mounts": f"/dev/sda1 / ext4 {'ro' if health.read_only else 'rw'},relatime 0 0\n",
        "/sys/devices/system/cpu/online": f"0-{cpus - 1}\n" if cpus > 1 else "0\n",
    }


def looked_at(health: Health, files: Mapping[str, bytes], argv: Sequence[str], *, now: datetime, full: bool) -> str:
    """What `find / -maxdepth 0 -exec ... ;` prints: the programs' answers, one after the other."""
    said, word = "", list(argv[4:])
    while word:
        action = word.pop(0)
        if action == "-printf":
            said += word.pop(0).replace("\\n", "\n")
        elif action == "-exec":
            end = word.index(";")
            said += _program(health, files, word[:end], now=now, full=full)
            del word[: end + 1]
    return said


def _program(health: Health, files: Mapping[str, bytes], argv: Sequence[str], *, now: datetime, full: bool) -> str:
    operands = argv[argv.index("--") + 1 :] if "--" in argv else ()
    match argv:
        case ["date", *_]:
            return f"clock:{now.timestamp() + health.clock_ahead:.9f}\n"
        case ["stat", "-f", *_]:
            free = 0 if full else int(BLOCKS * health.disk_free)
            return f"disk:{BLOCKS} {free} {free} {INODES} {int(INODES * health.inodes_free)}\n"
        case ["stat", *_]:
            there = [path for path in operands if path in files]
            return "".join(f"there:{health.packages_changed:.0f} {path}\n" for path in there)
        case ["uname", *_]:
            return "x86_64\n"
        case ["grep", *_]:
            read = ((path, files[path].decode(errors="replace")) for path in operands if path in files)
            return "".join(f"{path}:{line}\n" for path, text in read for line in text.rstrip("\n").split("\n"))
        case _:
            return "".join(f"{name} loaded failed failed {name}\n" for name in health.failed_units)


def _uuid(boot: str) -> str:
    text = sha256(boot.encode()).hexdigest()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:32]}"
