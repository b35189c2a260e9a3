"""Looking at a host: one command that reads everything, and how its answer is read. Called by `observe` and by tools.

Works on hosts that nothing was installed on, as root or by sudo, with GNU find, grep, stat and date; changes nothing.
It is one command because 1,000 hosts are looked at every 30 s, and each command costs a session here and a fork there.

Why no file can pretend to be another one: every line of the answer begins with words of the command that wrote it.
`grep -H` puts the path before each line of a file, `stat` and `date` write one line after a word of ours, and what has
lines without such a beginning, the list of units, comes last: all that follows the first `units:` is read as names of
units only. A host that lies as a whole can lie about itself, and only that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from agentmetal.clients.ssh.wrapper import PATH as WRAPPER_PATH
from agentmetal.core.claim import CLAIM_PATH, UNREADABLE, claimant
from agentmetal.core.clock import Clock
from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.core.machine import Completed, Ssh
from agentmetal_tools.hosts import BOOT_FILES, Boot, clean, read_boot

LOOK_TIMEOUT = 8.0
"""Seconds. Listing units may take 3 of them: a manager that hangs must not make its host look dead."""
MAX_FAILED_UNITS = 8

USER_DATA_PATH = "/var/lib/agentmetal/user-data.json"
REBOOT_REQUIRED_PATH = "/run/reboot-required"
PACKAGE_PATHS = (
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
)
"""Written whenever packages change: dpkg, and the databases that rpm has had."""
_SHORT = (
    CLAIM_PATH,  # first: nothing that is long can push it out of the answer
    USER_DATA_PATH,
    "/etc/machine-id",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/version",
    "/proc/loadavg",
    "/sys/devices/system/cpu/online",
    *BOOT_FILES,
)
_LONG = ("/etc/os-release", "/proc/meminfo", "/proc/self/mounts")
_WANTED_LINES = "^PRETTY_NAME=|^Mem(Total|Available):|^[^ ]+ / "
MAX_LINES = 64
MAX_FILE = 4096

LOOK: tuple[str, ...] = (
    *("find", "/", "-maxdepth", "0"),  # runs the others, one after the other, without a shell
    *("-exec", "date", "+clock:%s.%N", ";", ","),
    *("-exec", "stat", "-f", "-c", "disk:%b %f %a %c %d", "/", ";", ","),
    *("-printf", "machine:", ",", "-exec", "uname", "-m", ";", ","),
    *("-exec", "stat", "-L", "-c", "there:%Y %n", "--"),
    *(CLAIM_PATH, WRAPPER_PATH, REBOOT_REQUIRED_PATH, *PACKAGE_PATHS, ";", ","),
    *("-exec", "grep", "-a", "-H", "-s", "-m", str(MAX_LINES), "-e", "", "--", *_SHORT, ";", ","),
    *("-exec", "grep", "-a", "-H", "-s", "-m", "8", "-E", "-e", _WANTED_LINES, "--", *_LONG, ";", ","),
    *("-printf", "units:\\n", ",", "-exec", "timeout", "-s", "KILL", "3"),
    *("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", "--full", ";"),
)
"""The command. `,` of GNU find goes on whatever came before, also where a program is missing."""


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """Numbers that change by themselves: metrics and thresholds, never parameters of a plan. None: not known."""

    disk_free_ratio: float | None = None
    """Of /, as `df` counts: what is left for everybody."""
    inodes_free_ratio: float | None = None
    memory_available_ratio: float | None = None
    load_per_cpu: float | None = None
    """Of the last minute."""
    clock_offset_seconds: float | None = None
    """How far its clock is ahead of ours, or behind, as far as that is certain: what latency explains counts as 0."""
    packages_age_seconds: float | None = None
    """Since packages were last changed."""
    kernel_age_seconds: float | None = None
    """Since the running kernel was built."""


UNKNOWN = Vitals()
NO_BOOT = Boot()


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a host says about itself. Untrusted and bounded: shown and compared, never executed or used as a path."""

    machine_id: str = ""
    claimed_by: str = ""
    """An owner tag's text; empty when the host is nobody's."""
    hostname: str = ""
    wrapper: bool = False
    """The program behind units is installed."""
    user_data: str = ""
    """What our marker of user data holds; empty when there is none."""
    os: str = ""
    kernel: str = ""
    architecture: str = ""
    cpus: int = 0
    memory_mb: int = 0
    boot: Boot = NO_BOOT
    reboot_required: bool = False
    failed_units: tuple[str, ...] = ()
    """The first few by name; our own commands are not among them, they are reported with their step."""
    packages_from: str = ""
    """Day on which packages were last changed, as YYYY-MM-DD."""
    root_read_only: bool = False
    vitals: Vitals = UNKNOWN


async def look(host: Ssh, clock: Clock) -> Look:
    """Ask a host about itself. Raises Unavailable when it stops answering, Invalid where the command cannot run."""
    asked = clock.now()
    completed = await host.run(LOOK, timeout=LOOK_TIMEOUT)
    answered = clock.now()
    if "machine:" not in completed.stdout:
        raise _refused(completed)
    return read_look(completed.stdout, asked=asked, answered=answered)


def read_look(text: str, *, asked: datetime, answered: datetime) -> Look:
    """What the answer says; whatever is missing or makes no sense is left out. Never raises."""
    said, _, units = text.partition("\nunits:\n")
    lines = said.split("\n")  # and at nothing else that Python takes for the end of a line
    contents = _contents(lines)
    there = _there(lines)
    total_kb = _number(_assigned(contents, "/proc/meminfo", "MemTotal", ":"))
    cpus = _count(_first(contents, "/sys/devices/system/cpu/online"))
    packages = max((there[path] for path in PACKAGE_PATHS if path in there), default=0)
    return Look(
        machine_id=clean(_first(contents, "/etc/machine-id"), 64),
        claimed_by=_claimed_by(contents.get(CLAIM_PATH, ""), exists=CLAIM_PATH in there),
        hostname=clean(_first(contents, "/proc/sys/kernel/hostname"), 64),
        wrapper=WRAPPER_PATH in there,
        user_data=contents.get(USER_DATA_PATH, ""),
        os=_assigned(contents, "/etc/os-release", "PRETTY_NAME", "="),
        kernel=clean(_first(contents, "/proc/sys/kernel/osrelease"), 128),
        architecture=clean(_after("machine:", lines), 32),
        cpus=cpus,
        memory_mb=int(total_kb) // 1024,
        boot=read_boot("\n".join(_first(contents, path) for path in BOOT_FILES)),
        reboot_required=REBOOT_REQUIRED_PATH in there,
        failed_units=_failed(units),
        packages_from=_day(packages),
        root_read_only=_read_only(contents.get("/proc/self/mounts", "")),
        vitals=Vitals(
            **_disk(_after("disk:", lines)),
            memory_available_ratio=_ratio(_number(_assigned(contents, "/proc/meminfo", "MemAvailable", ":")), total_kb),
            load_per_cpu=_number(_first(contents, "/proc/loadavg")) / cpus if cpus else None,
            clock_offset_seconds=_offset(_after("clock:", lines), asked.timestamp(), answered.timestamp()),
            packages_age_seconds=_age(packages, answered),
            kernel_age_seconds=_age(_built(_first(contents, "/proc/sys/kernel/version")), answered),
        ),
    )


def _refused(completed: Completed) -> Invalid | Unavailable:
    """The command did not run, which says nothing about the host: above all not that it is nobody's."""
    why = clean(completed.stderr, 200) or f"exit code {completed.exit_code}"
    if completed.exit_code in (126, 127):
        return Invalid(f"the host cannot be looked at ({why}): GNU find is needed there, install findutils")
    return Unavailable(f"the host answers, and the command that looks at it does not run: {why}")


def _contents(lines: Sequence[str]) -> Mapping[str, str]:
    """Text by file, of the files that were asked for."""
    found: dict[str, str] = {}
    for line in lines:
        path, colon, text = line.partition(":")
        if colon and path in _FILES:
            before = f"{found[path]}\n" if path in found else ""
            found[path] = (before + text)[:MAX_FILE]
    return found


_FILES = frozenset((*_SHORT, *_LONG))


def _there(lines: Sequence[str]) -> Mapping[str, int]:
    """When the files that exist were last changed, in seconds since 1970."""
    found = (line.removeprefix("there:").partition(" ") for line in lines if line.startswith("there:"))
    return {path: int(_number(changed)) for changed, _, path in found}


def _after(word: str, lines: Sequence[str]) -> str:
    return next((line.removeprefix(word) for line in lines if line.startswith(word)), "")


def _first(contents: Mapping[str, str], path: str) -> str:
    return contents.get(path, "").partition("\n")[0]


def _assigned(contents: Mapping[str, str], path: str, name: str, sign: str) -> str:
    """The value in a line `name<sign>value` of a file, without quotes."""
    for line in contents.get(path, "").split("\n"):
        key, _, value = line.partition(sign)
        if key.strip() == name:
            return clean(value.strip().strip("\"'"), 128)
    return ""


def _claimed_by(content: str, *, exists: bool) -> str:
    """A claim that is empty or may not be read is somebody's, too."""
    if content:
        return claimant(content)
    return UNREADABLE if exists else ""


_NUMBER = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)(?![0-9])")


def _number(text: str) -> float:
    """The number a text begins with, or 0."""
    found = _NUMBER.match(text)
    return float(found[1]) if found else 0.0


def _count(cpus: str) -> int:
    """How many a list like `0-3,8` names."""
    ranges = re.findall(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", cpus[:1024])
    return sum(max(0, int(last or first) - int(first) + 1) for first, last in ranges)


_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}")


def _failed(listed: str) -> tuple[str, ...]:
    words = (line.split(maxsplit=1)[0] for line in listed.split("\n")[:1000] if line.strip())
    names = {name[:64] for name in words if _UNIT.fullmatch(name) and not name.startswith("agentmetal-op-")}
    return tuple(sorted(names)[:MAX_FAILED_UNITS])


def _read_only(mounts: str) -> bool:
    """Is what is mounted at / last read-only, by wish or after an error?"""
    found = [fields for line in mounts.split("\n") if len(fields := line.split(" ")) > 3 and fields[1] == "/"]
    return bool(found) and not {"ro", "emergency_ro"}.isdisjoint(found[-1][3].split(","))


def _disk(line: str) -> dict[str, float | None]:
    """Blocks: total, free, free for everybody; inodes: total, free. Some file systems count no inodes."""
    numbers = [_number(word) for word in line.split()[:5]]
    if len(numbers) < 5:
        return {}
    total, free, available, inodes, inodes_free = numbers
    return {
        "disk_free_ratio": _ratio(available, total - free + available),
        "inodes_free_ratio": _ratio(inodes_free, inodes),
    }


def _ratio(part: float, whole: float) -> float | None:
    return min(part / whole, 1.0) if whole > 0 else None


def _offset(clock: str, asked: float, answered: float) -> float | None:
    """It read its clock at some moment between asking and answering: the least difference that explains its time."""
    its = _number(clock)
    if not its:
        return None
    if asked <= its <= answered:
        return 0.0
    return its - answered if its > answered else its - asked


def _age(since: float, now: datetime) -> float | None:
    return max(0.0, now.timestamp() - since) if since else None


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BUILT = re.compile(r"\((20[0-9]{2})-([0-9]{2})-([0-9]{2})\)")  # Debian: ... 6.1.140-1 (2025-05-22)
_BUILT_AT = re.compile(rf"({'|'.join(_MONTHS)}) +([0-9]{{1,2}}) [0-9:]{{8}} (?:[A-Z]{{1,5}} )?(20[0-9]{{2}})")


def _built(version: str) -> float:
    """The day a kernel was built, in seconds since 1970, or 0."""
    if found := _BUILT.search(version):
        year, month, day = int(found[1]), int(found[2]), int(found[3])
    elif found := _BUILT_AT.search(version):
        year, month, day = int(found[3]), _MONTHS.index(found[1]) + 1, int(found[2])
    else:
        return 0.0
    try:
        return datetime(year, month, day, tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _day(seconds: int) -> str:
    """YYYY-MM-DD; nothing before 1970 and after 9999."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat() if 0 < seconds < 253_000_000_000 else ""
