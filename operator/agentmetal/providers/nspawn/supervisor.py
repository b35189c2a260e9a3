"""The process behind one machine: boots it, boots it again when it reboots, and ends when it is off.

`python -m agentmetal.providers.nspawn.supervisor DIRECTORY LOCK`, started detached by the fleet, which hands over the
descriptor of the machine's lock: held means powered. It outlives the operator, imports little, and everything it holds
(mounts, lock, the machine) dies with it. Signals: TERM = power button, HUP = restart. The fleet cuts power by killing.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from agentmetal.core.errors import AgentMetalError
from agentmetal.providers.nspawn import cgroups, images, mounts, network
from agentmetal.providers.nspawn.commands import die_with_parent, run, tied
from agentmetal.providers.nspawn.files import locked, write_atomically, write_json
from agentmetal.providers.nspawn.record import SIZES, Place, Record, Seed

REBOOTED = 133
"""nspawn --keep-unit ends like this when the machine wants to be started again."""
RESCUE_FILES = {
    "etc/motd": "This is a rescue system: it is gone after a restart. The machine's disk is at /mnt.\n",
    "etc/cloud/cloud-init.disabled": "",  # the seed is the machine's own affair
}
SHUT_DOWN, RESTART = signal.SIGRTMIN + 3, signal.SIGRTMIN + 5
"""How systemd as pid 1 is asked for it."""


def start_time(pid: int) -> int | None:
    """When a process was started, in kernel ticks: with the pid it names one process for ever. None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rsplit(")", 1)[1].split()[19])


def _numbers(pid: int) -> list[int]:
    """The process' numbers in all its pid namespaces, ours first. Empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return next([int(number) for number in line.split()[1:]] for line in lines if line.startswith("NSpid:"))


class Supervisor:
    """One machine, from power on to power off."""

    def __init__(self, place: Place, group: str, lock: int) -> None:
        self._place = place
        self._group = group
        self._lock = lock
        self._stopping = False
        self._ready = False
        self._rescue = False
        self._leader = 0
        self._selector = selectors.DefaultSelector()
        self._wake, self._notify = self._listen()

    def run(self) -> None:
        """Boot until the machine is off and nobody wants it on."""
        self._note(booted=False, ready=False)
        while True:
            self._place.take_over()
            record = self._place.record()
            if record is None or self._place.removing.exists():
                return
            code = self._boot(record) if record.powered else 0
            self._say(f"machine is off, exit code {code}")
            if code != REBOOTED and not self._wanted_again():
                return

    def _listen(self) -> tuple[int, socket.socket]:
        """Signals and the machine's notifications, as readable descriptors."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writing)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _only_wake)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(f"\0{self._place.fleet}-{os.getpid()}")
        self._selector.register(reading, selectors.EVENT_READ)
        self._selector.register(notify, selectors.EVENT_READ)
        return reading, notify

    def _boot(self, record: Record) -> int:
        """From power on to the end of pid 1; returns nspawn's exit code."""
        place, fleet = self._place, self._place.fleet
        self._begin()
        with locked(place.path.parent / ".network.lock"):
            network.ensure_fleet(fleet)
            network.renew_machine(fleet, record, up=not place.cut.exists())
        upper, work, root = (place.path / name for name in ("upper", "work", "root"))
        _ensure_host_key(upper)
        with mounts.private():
            images.ensure(record.image, self._say)
            with mounts.overlay(images.layers(record.image), upper, work=work, root=root):
                code = self._run_rescue(record, root) if self._rescue else self._run(record, root)
        with contextlib.suppress(AgentMetalError):  # pulled already, or the whole network is gone
            network.plug(fleet, record, up=False)  # its namespace outlives it and would answer where silence is due
        return code

    def _begin(self) -> None:
        """Decide which system boots, and say so. A rescue system is for this one boot."""
        self._ready, self._leader, self._rescue = False, 0, self._place.rescue.exists()
        self._note(booted=False, ready=False)
        self._place.rescue.unlink(missing_ok=True)

    def _run_rescue(self, record: Record, disk: Path) -> int:
        """A pristine system that looks like the machine from outside, with the machine's disk at /mnt."""
        own = self._place.path / "rescue-system"
        shutil.rmtree(own, ignore_errors=True)
        Seed.of_rescue(record.hostname, self._place.path / "upper").write(own / "upper")
        for name, text in RESCUE_FILES.items():
            (own / "upper" / name).parent.mkdir(exist_ok=True)
            (own / "upper" / name).parent.chmod(0o755)
            write_atomically(own / "upper" / name, text)
        with mounts.overlay(images.layers(record.image), own / "upper", work=own / "work", root=own / "root"):
            code = self._run(record, own / "root", f"--bind={disk}:/mnt")
        shutil.rmtree(own)
        return code

    def _run(self, record: Record, root: Path, *options: str) -> int:
        """Start the container and attend to it until it ends."""
        group, size = self._group, SIZES[record.type]
        process = subprocess.Popen(
            tied([*_nspawn(record, self._place.fleet, root), *options]),
            env=_environment(f"{self._place.fleet}-{os.getpid()}"),
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _prepare(group),  # noqa: PLW1509 - this process has a single thread
        )
        for gap in cgroups.limit(group, memory_mb=size.memory_mb, vcpus=size.vcpus):
            self._say(gap)
        return self._attend(process)

    def _attend(self, process: subprocess.Popen[bytes]) -> int:
        """Pass signals in and news out until it ends."""
        while (code := process.poll()) is None:
            for key, _ in self._selector.select():
                if key.fileobj is self._notify:
                    self._hear(self._notify.recv(4096).decode(errors="replace"))
                else:
                    for number in os.read(self._wake, 64):
                        self._obey(number)
        return code

    def _obey(self, number: int) -> None:
        if number == signal.SIGTERM:
            self._stopping = True
            self._ask(SHUT_DOWN)
        elif number == signal.SIGHUP:
            self._ask(RESTART)

    def _ask(self, what: int) -> None:
        """Ask pid 1 for something, once it can hear: while it boots it ignores signals."""
        if self._ready and self._leader:
            with contextlib.suppress(ProcessLookupError):  # it went down by itself just now
                os.kill(self._leader, what)

    def _hear(self, message: str) -> None:
        """nspawn names the machine's pid 1; later pid 1 says that it has booted."""
        news = dict(line.split("=", 1) for line in message.splitlines() if "=" in line)
        if "X_NSPAWN_LEADER_PID" in news:
            self._leader = self._outside(int(news["X_NSPAWN_LEADER_PID"]))
            self._note(booted=True, ready=False)
        if news.get("READY") == "1" and not self._ready:
            self._ready = True
            self._note(booted=True, ready=True)
            if self._stopping:
                self._ask(SHUT_DOWN)

    def _outside(self, inner: int) -> int:
        """Our number for the process that nspawn, one pid namespace further in, knows by that one."""
        depth = len(_numbers(os.getpid()))
        found = (pid for pid in cgroups.members(self._group) if _numbers(pid)[depth : depth + 1] == [inner])
        return next(found, 0)

    def _wanted_again(self) -> bool:
        """Was it switched on again while it went down? If not, the lock is given back under the fleet's lock, so
        whoever switches it on next either is seen here or finds the lock free."""
        with locked(self._place.path.parent / ".lock"):
            record = self._place.record()
            if self._stopping and record is not None and record.powered:
                self._stopping = False
                return True
            os.close(self._lock)
            return False

    def _note(self, *, booted: bool, ready: bool) -> None:
        """Write down who supervises; what was once reached on this disk stays reached."""
        before = self._place.boot_state()
        state = {
            "pid": os.getpid(),
            "since": start_time(os.getpid()),
            "leader": self._leader,
            "booted": booted or before.get("booted", False),
            "ready": ready or before.get("ready", False),
            "rescue": self._rescue,
        }
        write_json(self._place.boot, state)

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} supervisor: {text}", flush=True)  # noqa: T201 - into the machine's log


def _only_wake(number: int, frame: FrameType | None) -> None:
    """The signal's number arrives through the wake-up descriptor."""


def _prepare(group: str) -> None:
    """In the child: limited like the machine, and gone when the supervisor is gone."""
    cgroups.enter_limits(group)
    die_with_parent()


def _nspawn(record: Record, fleet: str, root: Path) -> list[str]:
    """The command line; tie it, for nspawn alone leaves its container running when it is killed."""
    return [
        *("systemd-nspawn", "--boot", "--quiet", "--keep-unit", "--register=no", "--settings=no", "--notify-ready=yes"),
        *("-D", str(root), "-M", f"{fleet}-{record.number}", f"--hostname={record.hostname}"),
        f"--network-namespace-path={network.NAMESPACES / network.namespace_of(fleet, record)}",
        *("--capability=all", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"),
    ]


def _environment(notify: str) -> dict[str, str]:
    """For nspawn: pure cgroup2 inside, writable network settings, and no lock, for ours is held already."""
    return {
        "PATH": os.environ["PATH"],
        "NOTIFY_SOCKET": f"@{notify}",
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
        "SYSTEMD_NSPAWN_LOCK": "0",
        "SYSTEMD_SECCOMP": "0",
    }


def _ensure_host_key(upper: Path) -> None:
    key = upper / "etc/ssh/ssh_host_ed25519_key"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key))


def main() -> None:
    """Supervise the machine of the directory, holding the inherited lock."""
    place, lock = Place(path=Path(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(lock, False)
    record = place.record()
    if record is None:
        return
    group = f"{place.fleet}/{record.number}"
    cgroups.kill(group)  # nobody holds the lock but us: whatever is in there is left over
    cgroups.enter(group)
    try:
        Supervisor(place, group, lock).run()
    except (AgentMetalError, OSError) as error:
        sys.exit(f"{time.strftime('%H:%M:%S')} supervisor: {error}")


if __name__ == "__main__":
    main()
