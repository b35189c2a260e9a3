"""What every tool and observation that reaches a host shares: who the host is, whose it is, how a command on it ended.

Used by the tools beside it and by agents' `observe`. Reads only; what changes a host stands in the tools.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentmetal.core.errors import CommandFailed, Invalid, Unavailable
from agentmetal.core.lines import one_line
from agentmetal.core.machine import MachineIdentity, SecretKey, Server, Ssh, UnitPhase, UnitState
from agentmetal.core.resource import Key
from agentmetal.core.tool import InDoubt, NotYet, Result, Secrets, StepEnd

CLIENT_PRIVATE = "ssh-privatekey"
"""Key in a Provider's Secret: the private key that logs in, OpenSSH form."""
CLIENT_PUBLIC = "ssh-publickey"
"""Key in a Provider's Secret: its public half, one OpenSSH line."""
HOST_PRIVATE = "ssh_host_ed25519_key"
"""Key in an Instance's Secret: the private host key, OpenSSH form."""
HOST_PUBLIC = "ssh_host_ed25519_key.pub"
"""Key in an Instance's Secret: the pinned public host key, one OpenSSH line."""
HOST_SERVER = "server-id"
"""Key in an Instance's Secret: the id of the server whose host is pinned, where we did not make that server."""
HOST_USER_DATA = "user-data"
"""Key in an Instance's Secret: which user data its disk was ordered with, until it is known how that ended."""
USER_DATA_LOG = "/var/lib/agentmetal/user-data.log"
"""On the host: what the command of the user data that failed said last. Only root may read it."""

_UPTIME = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")

POLL = 0.5
"""Seconds between two looks at something that is under way."""
READ_TIMEOUT = 5.0
BOOT_FILES = ("/proc/sys/kernel/random/boot_id", "/proc/1/stat", "/proc/uptime")
"""Read together, in this order, they tell one boot from another; see `read_boot`."""
TICKS = 100
"""Per second, in everything that /proc says (USER_HZ)."""


def host_key_secret_name(instance: str) -> str:
    """The Secret with the host key of an Instance."""
    return f"{instance}-host-key"


@dataclass(frozen=True, kw_only=True)
class Boot:
    """One boot of a host."""

    id: str = ""
    """Another one after each boot, also in a container; empty when the host did not tell."""
    up_seconds: float = 0.0
    """For how long its pid 1 has run. Needs no right clock there."""


async def identify(
    secrets: Secrets, owner: Key, server: Server, *, host_key_secret: str, client_key_secret: str
) -> MachineIdentity:
    """How to reach an Instance's host and how to know it. The pin comes from our Secret, never from the network."""
    held = await secrets.read(owner.namespace, host_key_secret)
    if not held.get(HOST_PUBLIC):
        raise Invalid(f"Secret {host_key_secret!r} lacks {HOST_PUBLIC!r}: put the host's public key back")
    return pinned(server, owner, held[HOST_PUBLIC].decode("ascii", "replace").strip(), client_key_secret)


def pinned(server: Server, owner: Key, host_key: str, client_key_secret: str) -> MachineIdentity:
    """The identity of a server whose host key is known."""
    if not server.addresses:
        raise Unavailable(f"server {server.name!r} has no address yet")
    return MachineIdentity(
        owner=owner,
        server_id=server.id,
        address=server.addresses[0],
        port=server.port,
        user=server.user,
        host_key=host_key,
        client_key=SecretKey(namespace=owner.namespace, name=client_key_secret, key=CLIENT_PRIVATE),
    )


async def boot_of(host: Ssh) -> Boot:
    """Which boot answers, and for how long it has run."""
    return read_boot(await _read(host, "cat", *BOOT_FILES))


def read_boot(text: str) -> Boot:
    """The boot that BOOT_FILES tell of. A container shares boot id and uptime with its host: pid 1 makes it its own."""
    lines = text.splitlines()
    fields = lines[1].rpartition(")")[2].split() if len(lines) == len(BOOT_FILES) else []
    started, uptime = (fields[19], lines[2].split()[0]) if len(fields) > 19 and lines[2].strip() else ("", "")
    if not (started.isascii() and started.isdigit() and len(started) <= 19 and _UPTIME.fullmatch(uptime)):
        return Boot()
    age = float(uptime) - int(started) / TICKS
    up_seconds = age if age >= 0 else float(uptime)  # of a container that is shown an uptime of its own
    return Boot(id=clean(f"{lines[0]}-{started}", 64), up_seconds=up_seconds)


def end_of(state: UnitState, *, doing: str, done: str) -> StepEnd:
    """What the state of a unit means for its step. Raises CommandFailed after a known failure: then it may run anew."""
    match state.phase:
        case UnitPhase.NEVER | UnitPhase.RUNNING:
            return NotYet(again_in=POLL, message=doing)
        case UnitPhase.ENDED if state.exit_code == 0:
            return Result(message=done)
        case UnitPhase.ENDED:
            how = f"killed by {state.killed_by}" if state.killed_by else f"exit code {state.exit_code}"
            raise CommandFailed(f"{doing}: failed ({how}): {clean(state.output, 400)}")
        case UnitPhase.INTERRUPTED:
            raise CommandFailed(f"{doing}: the machine went down while it ran")
        case UnitPhase.UNKNOWN:
            return InDoubt(message=f"{doing}: it ran, and how it ended was not recorded: look at the host")


async def _read(host: Ssh, *argv: str) -> str:
    """What a reading command prints; nothing when it fails (a file that is not there)."""
    completed = await host.run(argv, timeout=READ_TIMEOUT)
    return completed.stdout if completed.exit_code == 0 else ""


def clean(text: str, limit: int) -> str:
    """What a host said, for people."""
    return one_line(text, limit)
