"""agentmetal-address: keeps a floating IPv4 address on this host for as long as a command succeeds.

    check            can this host do it? Says what is missing
    hold ADDRESS     start holding as ADDRESS.conf says, or take over what it says now; nothing is dropped meanwhile
    keep ADDRESS     what the unit agentmetal-address-ADDRESS.service runs
    drop ADDRESS     stop, take the address off, and leave nothing behind

This file runs on hosts, not in the operator: `addresses.py` installs it as it stands here and calls it. It is complete
in itself and content with Debian's python3-minimal (3.8 or newer; no json, no asyncio) and `ip`.

The address has a lifetime in the kernel, which ends `lifetime` seconds after the start of the last check that
succeeded. So it goes away by itself whenever this program is dead, frozen or wrong. All that it needs lies in /run:
after a reboot nothing is held until the operator says so again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HOME = Path("/run/agentmetal/addresses")
UNITS = Path("/run/systemd/system")
UNIT = """\
[Unit]
Description=Floating address {address} (AgentMetal)
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={python} -I {program} keep {address}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=100ms
RestartPreventExitStatus={broken}
TimeoutStopSec=5
"""
BROKEN = 78
"""Exit code for what only another configuration can mend (EX_CONFIG)."""
PATIENCE = 5.0
"""Seconds that `ip` may take."""
EAGER, CALM = 1.0, 5.0
"""Seconds between two announcements: while others may believe another holder, and afterwards."""
QUIET = 5.0
"""Seconds that nobody else has answered for the address until it is ours undisputed."""
PROBES, PROBE_PAUSE = 3, 0.2
"""Questions, and seconds for each answer, before an address that was lost is taken again."""
BROADCAST, NOBODY = b"\xff" * 6, b"\0" * 6
ARP, REQUEST, REPLY = 0x0806, 1, 2
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")


class Trouble(Exception):
    """What may pass by itself: the unit starts again."""


class Problem(Trouble):
    """What a person must change; the text says what."""


# -- what to do --------------------------------------------------------------------------------------------------------


class Conf(NamedTuple):
    """What the operator asked for."""

    address: str
    epoch: int
    lifetime: int
    device: str
    condition: tuple[str, ...]
    digest: str
    """Of the configuration and of this program: what runs is compared with it."""


def read_conf(text: bytes, program: bytes) -> Conf:
    """Lines `name=value`; `condition` stands once for each argument. Raises Problem."""
    try:
        lines = [line.partition("=") for line in text.decode().split("\n")]  # and at nothing else that ends a line
        values = {name: value for name, _, value in lines if name != "condition"}
        condition = tuple(value for name, _, value in lines if name == "condition")
        address = str(ipaddress.IPv4Address(values["address"]))
        epoch, lifetime = int(values["epoch"]), int(values["lifetime"])
    except (KeyError, ValueError) as error:
        raise Problem(f"the configuration is not understood: {error!r}") from error
    if lifetime < 3 or not condition:
        raise Problem("the configuration needs a lifetime of 3 s or more, and a condition")
    return Conf(address, epoch, lifetime, values.get("device", ""), condition, digest(text, program))


def digest(conf: bytes, program: bytes) -> str:
    """What a configuration and the program that follows it are known by."""
    return hashlib.sha256(program + b"\0" + conf).hexdigest()


def left(good: float, lifetime: int, now: float) -> int:
    """The lifetime that the kernel is told: whole seconds. It ends an address up to one second late, never early."""
    return max(0, int(good + lifetime - now))


# -- what stands on the wire -------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """An ARP message."""

    operation: int
    sender: bytes
    sender_ip: bytes
    target_ip: bytes


def announcements(mac: bytes, address: bytes) -> list[bytes]:
    """Gratuitous ARP in both forms: some systems learn from one only."""
    ours = (mac, address)
    return [_frame(mac, REQUEST, *ours, NOBODY, address), _frame(mac, REPLY, *ours, mac, address)]


def probe(mac: bytes, address: bytes) -> bytes:
    """Who has the address? Asked as nobody, so that it changes no cache."""
    return _frame(mac, REQUEST, mac, b"\0" * 4, NOBODY, address)


def heard(frame: bytes) -> Heard | None:
    """The ARP message in an Ethernet frame, if it is one about IPv4."""
    if len(frame) < _FRAME.size:
        return None
    _, _, ethertype, hardware, protocol, hlen, plen, operation, sender, sender_ip, _, target_ip = _FRAME.unpack(
        frame[: _FRAME.size]
    )
    if (ethertype, hardware, protocol, hlen, plen) != (ARP, 1, 0x0800, 6, 4):
        return None
    return Heard(operation, sender, sender_ip, target_ip)


def _frame(mac: bytes, operation: int, sender: bytes, sender_ip: bytes, target: bytes, target_ip: bytes) -> bytes:
    header = (BROADCAST, mac, ARP, 1, 0x0800, 6, 4, operation)
    return _FRAME.pack(*header, sender, sender_ip, target, target_ip)


# -- what the kernel has -----------------------------------------------------------------------------------------------


class Placed(NamedTuple):
    """An address on a device."""

    device: str
    address: str
    prefix: int
    seconds: int | None
    """What is left of its lifetime; None for ever."""

    @property
    def ours(self) -> bool:
        """Did we put it there? One for ever, or in a network (a lease of DHCP has a lifetime, too), is another's."""
        return self.seconds is not None and self.prefix == 32


def placed(text: str) -> list[Placed]:
    """What `ip -o -4 addr show` says."""
    found = []
    for words in (line.split() for line in text.splitlines()):
        if len(words) > 3 and words[2] == "inet" and "/" in words[3]:
            address, _, prefix = words[3].partition("/")
            lifetime = words[words.index("valid_lft") + 1] if "valid_lft" in words else "forever"
            seconds = None if lifetime == "forever" else int(lifetime.replace("sec", ""))
            found.append(Placed(words[1], address, int(prefix), seconds))
    return found


def device_for(address: str, there: list[Placed]) -> str:
    """The device in the smallest network with the address. Raises Problem when there is none."""
    wanted = ipaddress.IPv4Address(address)
    networks = [
        (-each.prefix, each.device)
        for each in there
        if each.prefix < 31 and wanted in ipaddress.IPv4Network(f"{each.address}/{each.prefix}", strict=False)
    ]
    if not networks:
        raise Problem(f"no device of this host is in a network with {address}: name the device, or choose another host")
    return min(networks)[1]


def ip(*argv: str) -> str:
    """Run `ip`. Raises Problem when there is none, Trouble when it fails."""
    try:
        done = subprocess.run(("ip", *argv), stdout=-1, stderr=-1, timeout=PATIENCE, check=False)
    except FileNotFoundError as error:
        raise Problem("this host has no `ip`: install iproute2") from error
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"`ip {' '.join(argv)}` did not end within {PATIENCE:g} s") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise Trouble(f"`ip {' '.join(argv)}` failed: {said[:200]}")
    return done.stdout.decode(errors="replace")


def take_off(address: str, *, but: str = "") -> None:
    """Remove the address from all devices but one; what is somebody else's stays."""
    for each in placed(ip("-o", "-4", "addr", "show", "to", address)):
        if each.address == address and each.ours and each.device != but:
            ip("addr", "del", f"{address}/{each.prefix}", "dev", each.device)


def now() -> float:
    """Seconds that no clock change moves and that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# -- the unit's program ------------------------------------------------------------------------------------------------


class Check:
    """One run of the condition."""

    def __init__(self, condition: tuple[str, ...], timeout: float) -> None:
        self.began = now()
        self._ends = self.began + timeout
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._said = ""
        try:
            self._process = subprocess.Popen(
                condition, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", start_new_session=True
            )
        except OSError as error:
            self._said = f"cannot be started: {error}"

    def judged(self) -> str | None:
        """None while it runs; then what is wrong, empty when all is well. An end in time that is seen late is late."""
        if self._process is None:
            return self._said
        in_time = now() < self._ends
        if in_time and not self._ended(self._process):
            return None
        self.kill()
        code = self._process.poll()
        if not in_time:
            return None if code is None else f"no answer within {self._timeout:g} s"
        return f"exit code {code}" if code else ""

    def kill(self) -> None:
        """End it and what it left behind; a process that even this does not end keeps the next check from starting."""
        if self._process is not None and self._process.returncode is None:  # its pid is still nobody else's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @staticmethod
    def _ended(process: subprocess.Popen[bytes]) -> bool:
        """Has it? It is only looked at: once it was waited for, its number may be that of another group."""
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Keeper:
    """Holds one address. Everything happens in `turn`, which is called at events and at `due`."""

    def __init__(self, conf: Conf) -> None:
        self._conf = conf
        self._raw = socket.inet_aton(conf.address)
        there = placed(ip("-o", "-4", "addr", "show"))
        self._device = conf.device or device_for(conf.address, there)
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP))
        self._wire.setblocking(False)
        self._wire.bind((self._device, ARP))
        self._mac: bytes = self._wire.getsockname()[4]
        self._own = {self._mac, *_own_macs()}
        state = _read_state(conf.address)
        self._said = self._rival = ""
        mine = [each for each in there if each.ours and each[:2] == (self._device, conf.address)]
        self._held = bool(mine)
        self._since = state.get("since", "") if self._held else ""
        self._lost = state.get("epoch") == str(conf.epoch) and state.get("taken") == "yes" and not self._held
        """It was ours and went away: it may be another one's by now."""
        self._good = now() - conf.lifetime + min(conf.lifetime, max((each.seconds or 0 for each in mine), default=0))
        """When the last check began that succeeded, as far as we know."""
        self._check: Check | None = None
        self._next_check = self._next_announcement = self._next_probe = now()
        self._probes = 0
        self._disputed_until = now() + QUIET
        self._stopping = self._renewing = False
        self._written: str | None = ""
        """None: it could not be written down."""

    def run(self) -> None:
        """Until told to stop."""
        take_off(self._conf.address, but=self._device)
        events, woken = selectors.DefaultSelector(), socket.socketpair()
        for end in woken:
            end.setblocking(False)
        signal.set_wakeup_fd(woken[1].fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGHUP, self._renew)
        events.register(woken[0], selectors.EVENT_READ)
        events.register(self._wire, selectors.EVENT_READ)
        while not self._stopping and not self._renewing:
            self.turn()
            events.select(max(0.0, self._due() - now()))
            _drain(woken[0])
        if self._check is not None:
            self._check.kill()
        if self._renewing:  # the new program goes on with what the kernel has
            os.execv(sys.executable, [sys.executable, "-I", *sys.argv])  # noqa: S606 - this very program
        take_off(self._conf.address)

    def turn(self) -> None:
        """Everything that is to be done now."""
        self._listen()
        self._judge()
        if self._held and now() >= self._good + self._conf.lifetime:
            self._lapse()
        if self._check is None and now() >= self._next_check:
            self._next_check = now() + self._conf.lifetime / 3
            self._check = Check(self._conf.condition, self._conf.lifetime / 3)
        if self._held and not self._said and now() >= self._next_announcement:
            self._announce()
        if self._probes and now() >= self._next_probe:
            self._ask_before_taking()
        self._tell()

    def _due(self) -> float:
        dues = [self._next_check] if self._check is None else [self._check.began + self._conf.lifetime / 3]
        if dues[0] <= now():  # a check that cannot be killed
            dues = [now() + EAGER]
        if self._held:
            dues.append(self._good + self._conf.lifetime)
            if not self._said:
                dues.append(self._next_announcement)
        if self._probes:
            dues.append(self._next_probe)
        return min(dues)

    def _judge(self) -> None:
        if self._check is None or (said := self._check.judged()) is None:
            return
        began, self._check = self._check.began, None
        if said:
            self._probes, self._said = 0, said
            return
        self._good = began
        if self._held or not self._lost:
            self._said = ""
            self._keep()
        elif not self._probes:
            self._probes, self._next_probe, self._rival = PROBES + 1, now(), ""

    def _ask_before_taking(self) -> None:
        """It was lost. Whoever answers for it now has it, and keeps it."""
        if self._rival:
            self._probes, self._said = 0, "somebody else has it now"
        elif self._probes == 1:
            self._probes, self._said = 0, ""
            self._keep()
        else:
            self._probes -= 1
            self._next_probe = now() + PROBE_PAUSE
            self._send(probe(self._mac, self._raw))

    def _keep(self) -> None:
        """Take it, or renew its lifetime."""
        fresh = not self._held
        if fresh:
            self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self._lost, self._disputed_until, self._next_announcement = False, now() + QUIET, now()
            self._tell(taken=True)  # first: a crash between here and there must not look like a first time
        seconds = left(self._good, self._conf.lifetime, now())
        if not seconds:
            return
        try:
            times = ("valid_lft", str(seconds), "preferred_lft", str(seconds))
            ip("addr", "replace", f"{self._conf.address}/32", "dev", self._device, *times)
        except Trouble as trouble:
            self._said = str(trouble)
            return
        self._held = True
        if now() >= self._good + self._conf.lifetime:  # we were stopped between looking at the time and renewing
            self._lapse()
        elif fresh:
            _say(f"{self._conf.address} is held on {self._device} (epoch {self._conf.epoch})")

    def _lapse(self) -> None:
        """No check has succeeded for a lifetime. The kernel has dropped it, or is about to."""
        self._held, self._lost, self._since = False, True, ""
        _say(f"{self._conf.address} is let go of: {self._said or 'it was not checked in time'}")
        take_off(self._conf.address)

    def _announce(self) -> None:
        """Tell everybody, and ask whether anybody else answers for it."""
        disputed = now() < self._disputed_until
        if not disputed:
            self._rival = ""
        self._next_announcement = now() + (EAGER if disputed else CALM)
        self._send(*announcements(self._mac, self._raw), probe(self._mac, self._raw))

    def _listen(self) -> None:
        while True:
            try:
                message = heard(self._wire.recv(2048))
            except BlockingIOError:
                return
            except OSError as error:  # the device went down; the next announcement tells whether it is back
                self._said = f"{self._device}: {error}"
                return
            if message is None or message.sender in self._own:
                continue
            if message.sender_ip == self._raw:
                self._rival = ":".join(f"{byte:02x}" for byte in message.sender)
                self._disputed_until = now() + QUIET
                self._next_announcement = min(self._next_announcement, now() + EAGER)
            elif message.target_ip == self._raw and any(message.sender_ip) and self._rival and self._held:
                # Somebody asks while another one answers, too: ours must be the last word.
                self._next_announcement = min(self._next_announcement, now() + 0.05)

    def _send(self, *frames: bytes) -> None:
        for frame in frames:
            try:
                self._wire.send(frame)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ENXIO):  # another device may have its name by now
                    raise
                self._said = f"{self._device}: {error}"

    def _tell(self, *, taken: bool = False) -> None:
        """Write down what an operator wants to know, when it changed."""
        lines = {
            "digest": self._conf.digest,
            "epoch": str(self._conf.epoch),
            "device": self._device,
            "taken": "yes" if taken or self._held or self._lost else "no",
            "holds": "yes" if self._held else "no",
            "since": self._since,
            "undisputed": "yes" if self._held and not self._rival and now() >= self._disputed_until else "no",
            "rival": self._rival,
            "check": self._said,
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        if text == self._written:
            return
        path = HOME / f"{self._conf.address}.state"
        try:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").replace(path)
        except OSError as error:
            if taken:
                raise
            if self._written is not None:  # what is held is kept: that a full /run hides it is no reason to drop it
                _say(f"cannot write {path}: {error}")
            self._written = None
        else:
            self._written = text

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _renew(self, *_: object) -> None:
        self._renewing = True


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for the journal


def _own_macs() -> list[bytes]:
    """Of all our devices: another one of them in the same network may answer, too."""
    words = ip("-o", "link", "show").split()
    pairs = zip(words, words[1:])  # noqa: B905, RUF007 - `strict` and `pairwise` are newer than 3.8
    return [bytes.fromhex(mac.replace(":", "")) for kind, mac in pairs if kind == "link/ether"]


def _read_state(address: str) -> dict[str, str]:
    try:
        lines = (HOME / f"{address}.state").read_text().splitlines()
    except OSError:
        return {}
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _drain(end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        end.recv(4096)


# -- commands ----------------------------------------------------------------------------------------------------------


def unit_of(address: str) -> str:
    """The unit that holds an address."""
    return f"agentmetal-address-{address.replace('.', '-')}.service"


def check() -> None:
    """Raises Problem with what is missing."""
    if os.geteuid() != 0:
        raise Problem("only root can hold an address")
    ip("-V")
    _systemctl("--version")
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP)).close()
    except OSError as error:
        raise Problem(f"this host cannot announce an address: {error}: let it use raw sockets (CAP_NET_RAW)") from error


def hold(address: str) -> None:
    """Let the unit follow the configuration that was written."""
    conf = _conf(address)
    check()
    there = placed(ip("-o", "-4", "addr", "show"))
    if any(each.address == address and not each.ours for each in there):
        raise Problem(f"{address} is an address of this host itself: use another one")
    if conf.device:
        ip("link", "show", conf.device)
    else:
        device_for(address, there)
    program = Path(__file__).resolve()
    UNITS.mkdir(parents=True, exist_ok=True)
    text = UNIT.format(address=address, python=sys.executable, program=program, broken=BROKEN)
    (UNITS / unit_of(address)).write_text(text)
    _systemctl("daemon-reload")
    _systemctl("reload-or-restart", unit_of(address))


def keep(address: str) -> None:
    """Hold the address until stopped. What may pass is tried again by systemd, once a second."""
    try:
        Keeper(_conf(address)).run()
    except Problem:
        raise
    except (Trouble, OSError):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.sigtimedwait({signal.SIGTERM}, EAGER)
        raise


def drop(address: str) -> None:
    """Take the address off, and all that belongs to it; with the last one the program goes, too."""
    with contextlib.suppress(Trouble):  # it is not loaded, or has not failed
        _systemctl("stop", unit_of(address))
        _systemctl("reset-failed", unit_of(address))
    if _runs(address):
        raise Trouble(f"{unit_of(address)} does not stop")
    (UNITS / unit_of(address)).unlink(missing_ok=True)
    _systemctl("daemon-reload")
    take_off(address)
    for suffix in ("state", "new", "conf"):
        (HOME / f"{address}.{suffix}").unlink(missing_ok=True)
    if not list(HOME.glob("*.conf")):
        for directory in (HOME, HOME.parent):
            with contextlib.suppress(OSError):  # it is not there, or others use it
                directory.rmdir()
        Path(__file__).resolve().unlink(missing_ok=True)


def _conf(address: str) -> Conf:
    path = HOME / f"{address}.conf"
    try:
        conf = read_conf(path.read_bytes(), Path(__file__).read_bytes())
    except OSError as error:
        raise Problem(f"cannot read {path}: {error}") from error
    if conf.address != address:
        raise Problem(f"{path} is about {conf.address}")
    return conf


def _runs(address: str) -> bool:
    return subprocess.run(("systemctl", "--quiet", "is-active", unit_of(address)), check=False).returncode == 0


def _systemctl(*argv: str) -> None:
    """Raises Problem where there is none, Trouble when it fails."""
    try:
        done = subprocess.run(("systemctl", *argv), stdout=-1, stderr=-1, check=False)
    except FileNotFoundError as error:
        raise Problem("this host is not run by systemd, which holds an address for us") from error
    if done.returncode:
        raise Trouble(f"`systemctl {' '.join(argv)}` failed: {done.stderr.decode(errors='replace').strip()[:200]}")


def main(argv: list[str]) -> int:
    """Do what the arguments say."""
    commands = {"hold": hold, "keep": keep, "drop": drop}
    try:
        if argv == ["check"]:
            check()
        elif len(argv) == 2 and argv[0] in commands:
            commands[argv[0]](str(ipaddress.IPv4Address(argv[1])))
        else:
            raise Problem("say check, or hold, keep or drop and an IPv4 address")
    except (Trouble, OSError, ipaddress.AddressValueError) as problem:
        print(f"agentmetal-address: {problem}", file=sys.stderr)  # noqa: T201 - read by the operator and by people
        return exit_code(problem)
    return 0


def exit_code(problem: Exception) -> int:
    """1 for what may pass by itself: systemd starts the program again."""
    return BROKEN if isinstance(problem, (Problem, ipaddress.AddressValueError)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
