"""The fleet's network: one namespace with a bridge and no way out, one namespace and cable for each machine.

Nothing of it is in the root namespace, so no retry can ever leave for a private address by the default route. Called by
the supervisor (which makes networks), the fleet (cut, heal, remove) and `dial` (which makes sockets inside).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agentmetal.core.errors import Unavailable
from agentmetal.providers.nspawn.commands import run
from agentmetal.providers.nspawn.record import NETWORK, Record

NAMESPACES = Path("/run/netns")
BRIDGE = "br0"
MASK = NETWORK.prefixlen

_CLONE_NEWNET = 0x40000000
_MNT_DETACH = 2
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def namespace_of(fleet: str, record: Record) -> str:
    """The machine's own namespace."""
    return f"{fleet}-{record.number}"


def ensure_fleet(fleet: str) -> None:
    """Make the fleet's namespace and bridge, or finish what a crash left. Called under the fleet's network lock."""
    _ensure_namespace(fleet)
    if f" {BRIDGE}:" not in run("ip", "-n", fleet, "-o", "link", "show"):
        run("ip", "-n", fleet, "link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0")
    batch = f"link set lo up\naddr replace {NETWORK[1]}/{MASK} dev {BRIDGE}\nlink set {BRIDGE} up\n"
    run("ip", "-n", fleet, "-batch", "-", stdin=batch)


def renew_machine(fleet: str, record: Record, *, up: bool) -> None:
    """Give a machine that is about to boot a network without memory: firewall rules do not survive a real reboot."""
    namespace = namespace_of(fleet, record)
    remove_machine(fleet, record)
    _ensure_namespace(namespace)
    state = "up" if up else "down"
    cable = f"link add {record.link} type veth peer name eth0 address {record.mac} netns {namespace}\n"
    run("ip", "-n", fleet, "-batch", "-", stdin=f"{cable}link set {record.link} master {BRIDGE} {state}\n")
    inside = f"link set lo up\naddr add {record.address}/{MASK} dev eth0\nlink set eth0 up\n"
    run("ip", "-n", namespace, "-batch", "-", stdin=inside)


def remove_machine(fleet: str, record: Record) -> None:
    """Remove a machine's cable and namespace; nothing happens when they are gone."""
    if _is_namespace(fleet) and f" {record.link}@" in run("ip", "-n", fleet, "-o", "link", "show"):
        run("ip", "-n", fleet, "link", "del", record.link)
    remove_namespace(namespace_of(fleet, record))


def remove_namespace(name: str) -> None:
    """Forget a namespace; the kernel frees it with its last process and socket."""
    path = NAMESPACES / name
    if _is_namespace(name) and _libc.umount2(os.fsencode(path), _MNT_DETACH):
        raise Unavailable(f"cannot unmount {str(path)!r}: {os.strerror(ctypes.get_errno())}")
    path.unlink(missing_ok=True)


def namespaces(fleet: str) -> tuple[str, ...]:
    """Every namespace of a fleet that exists, its own last."""
    found = {path.name for path in NAMESPACES.glob(f"{fleet}*")} if NAMESPACES.exists() else set()
    machines = sorted(name for name in found if name.startswith(f"{fleet}-"))
    return (*machines, *(name for name in (fleet,) if name in found))


def plug(fleet: str, record: Record, *, up: bool) -> None:
    """Plug or pull a machine's cable. Raises Unavailable when it has none (it is off)."""
    try:
        inside(fleet, lambda: _set_link(record.link, up))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise Unavailable(f"machine {record.name!r} has no cable now: start it first") from error


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Do something inside a namespace and return to the caller, who stays where it is.

    The thread that enters ends here: a pooled one would carry the namespace to the next task.
    """
    outcome: list[T | BaseException] = []

    def enter() -> None:
        try:
            _join(namespace)
            outcome.append(work())
        except BaseException as error:  # carried over to the caller, who raises it
            outcome.append(error)

    thread = threading.Thread(target=enter, name=f"inside {namespace}")
    thread.start()
    thread.join()
    if isinstance(result := outcome[0], BaseException):
        raise result
    return result


def new_socket(fleet: str) -> socket.socket:
    """A TCP socket that lives in the fleet's network, for a caller that does not."""
    return inside(fleet, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))


def _set_link(name: str, up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        wanted = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), wanted))


def _join(namespace: str) -> None:
    try:
        descriptor = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Unavailable(f"network {namespace!r} does not exist: no machine of its fleet was started") from error
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            raise Unavailable(f"cannot enter network {namespace!r}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def _ensure_namespace(name: str) -> None:
    if _is_namespace(name):
        return
    with contextlib.suppress(FileNotFoundError):  # the mark of a process that died between making and mounting it
        (NAMESPACES / name).unlink()
    run("ip", "netns", "add", name)


def _is_namespace(name: str) -> bool:
    return os.path.ismount(NAMESPACES / name)
