"""One simulated host: its disk, its units, what is wrong with it, and the commands it answers. Used by `fake_hosts.py`.

Tests change its fields to make things go wrong. It knows nothing of connections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePosixPath

from agentmetal.clients.keys import public_line
from agentmetal.clients.ssh import authorized
from agentmetal.core.machine import Completed, UnitPhase, UnitState
from agentmetal.providers.fake import TYPES
from agentmetal.providers.fake_proc import Health, proc
from agentmetal.providers.fake_server import Boot, FakeServer, loop_time

ROOT = "root"
OS_RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a command does when it runs as a unit."""

    exit_code: int = 0
    output: str = ""
    seconds: float = 0.0
    """How long it takes. What it changes is changed at its beginning."""


@dataclass
class FakeUnit:
    """A unit that was started, and what is known of its end."""

    boot: Boot
    effect: Effect
    began: float
    timeout: float
    end_lost: bool = False

    def state(self, now: float) -> UnitState:
        """What the wrapper would tell."""
        ends = self.began + min(self.effect.seconds, self.timeout)
        if self.boot.down_at is not None and self.boot.down_at <= now and self.boot.down_at < ends:
            return UnitState(phase=UnitPhase.INTERRUPTED)
        if now < ends:
            return UnitState(phase=UnitPhase.RUNNING)
        if self.end_lost:
            return UnitState(phase=UnitPhase.UNKNOWN)
        if self.effect.seconds > self.timeout:
            return UnitState(phase=UnitPhase.ENDED, killed_by="timeout")
        return UnitState(phase=UnitPhase.ENDED, exit_code=self.effect.exit_code, output=self.effect.output[-1024:])


@dataclass
class FakeHost:
    """One disk with an operating system; a rebuilt server gets another one."""

    server: FakeServer
    files: dict[str, bytes]
    modes: dict[str, int] = field(default_factory=dict)
    units: dict[str, FakeUnit] = field(default_factory=dict)
    epoch: int = 0
    installed: bool = False
    """Is the wrapper there?"""
    port: int = 22
    plain: bool = False
    """It belongs to no cloud."""
    cut: bool = False
    """Silence: nobody reaches it, and nobody is told so."""
    refuses: bool = False
    """Nothing listens: who wants to connect is told at once."""
    sudo_asks: bool = False
    """Whoever is not root needs a password to become it."""
    frozen: bool = False
    full: bool = False
    """No room on the disk: nothing can be written or started."""
    host_key: str = ""
    """The public key it shows; change it to pretend that somebody is in between."""
    health: Health = field(default_factory=Health)
    """What it says about itself."""

    @property
    def boot(self) -> Boot | None:
        """The boot that answers now."""
        now = loop_time()
        return next((boot for boot in self.server.boots if boot.disk == self.server.system and boot.up(now)), None)

    def mount(self, disk: FakeHost) -> None:
        """Show the files of another disk below /mnt, as they are now."""
        self.files |= {f"/mnt{path}": data for path, data in disk.files.items()}

    @property
    def hostname(self) -> str:
        """Its name, as it is kept on disk."""
        return self.files["/etc/hostname"].decode().strip()

    def logins(self, user: str) -> str:
        """The file that says which keys may log in as somebody."""
        return f"{'/root' if user == ROOT else f'/home/{user}'}/{authorized.PATH}"

    def readable(self) -> dict[str, bytes]:
        """All files: those on the disk, and those that the kernel makes up. What a test wrote counts."""
        began = self.boot.up_at if self.boot else 0.0
        size = next((type for type in TYPES if type.name == self.server.spec.type), TYPES[0])
        made_up = proc(
            self.health,
            hostname=self.hostname,
            memory_kb=size.memory_mb * 1024,
            cpus=size.vcpus,
            boot=f"{self.server.id}/{self.server.system}/{began}",
            up_seconds=loop_time() - began,
        )
        if self.health.reboot_required:
            made_up["/run/reboot-required"] = "*** System restart required ***\n"
        return {path: text.encode() for path, text in made_up.items()} | self.files


Command = Callable[[FakeHost, Sequence[str], bytes], Completed]
"""Answers a command: (host, argv, stdin)."""
UnitCommand = Callable[[FakeHost, Sequence[str]], Effect]
"""Runs a command as a unit: (host, argv)."""


def installed(server: FakeServer) -> FakeHost:
    """A new disk with the image on it, and what the spec put there."""
    spec = server.spec
    machine_id = sha256(f"{server.id}/{server.disk}".encode()).hexdigest()[:32]
    keys = "".join(f"{key}\n" for key in spec.authorized_keys)
    files = {
        "/etc/machine-id": f"{machine_id}\n",
        "/etc/hostname": f"{spec.hostname or spec.name}\n",
        "/etc/os-release": OS_RELEASE,
        "/etc/agentmetal-image": f"{spec.image}\n",
        "/var/lib/dpkg/status": "Package: base-files\n",
        "/root/.ssh/authorized_keys": keys,
    }
    host_key = public_line(spec.host_key) if spec.host_key else ""
    return FakeHost(server=server, files={path: text.encode() for path, text in files.items()}, host_key=host_key)


def ok(stdout: str = "") -> Completed:
    return Completed(exit_code=0, stdout=stdout, stderr="")


def _cat(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
    paths = [path for path in argv[1:] if path != "--"]
    files = host.readable()
    missing = [path for path in paths if path not in files]
    text = b"".join(files[path] for path in paths if path in files).decode(errors="replace")
    complaint = "".join(f"cat: {path}: No such file or directory\n" for path in missing)
    return Completed(exit_code=1 if missing else 0, stdout=text, stderr=complaint)


def _test_exists(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
    wanted = "!" not in argv
    return Completed(exit_code=0 if (argv[-1] in host.files) is wanted else 1, stdout="", stderr="")


def _real(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
    """No host of these has a link; tests that want one answer this themselves."""
    return ok("".join(f"{path}\0" for path in argv[argv.index("--") + 1 :]))


def _account(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
    home = PurePosixPath(host.logins(argv[-1])).parent.parent
    return ok(f"{argv[-1]}:x:1000:1000::{home}:/bin/sh\n")


def _hostnamectl(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
    if len(argv) == 2:
        return ok(f"{host.hostname}\n")
    host.files["/etc/hostname"] = f"{argv[-1]}\n".encode()
    return ok()


def _processors(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
    return ok({"small": "1\n", "medium": "2\n", "large": "4\n"}[host.server.spec.type])


COMMANDS: dict[tuple[str, ...], Command] = {
    ("true",): lambda host, argv, stdin: ok(),
    ("false",): lambda host, argv, stdin: Completed(exit_code=1, stdout="", stderr=""),
    ("cat",): _cat,
    ("test", "-e"): _test_exists,
    ("test", "!", "-e"): _test_exists,
    ("realpath", "-m", "-z"): _real,
    ("getent", "passwd"): _account,
    ("hostname",): lambda host, argv, stdin: ok(f"{host.hostname}\n"),
    ("hostnamectl", "hostname"): _hostnamectl,
    ("hostnamectl", "set-hostname"): _hostnamectl,
    ("uname", "-r"): lambda host, argv, stdin: ok("6.1.0-40-cloud-amd64\n"),
    ("uname", "-m"): lambda host, argv, stdin: ok("x86_64\n"),
    ("nproc",): _processors,
    ("systemctl", "is-system-running"): lambda host, argv, stdin: ok("running\n"),
}
