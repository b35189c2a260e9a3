"""Where the PostgreSQL store is: its URL, what is refused of it, and what its errors mean. Used by `store.postgres`.

The URL's password is in no message, log line or repr. Every exception of psycopg and of its pool ends in `translated`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
import psycopg_pool
from psycopg import AsyncConnection, conninfo

from agentmetal.core.errors import AgentMetalError, Invalid, Unavailable
from agentmetal.core.lines import one_line

EXAMPLE = "postgresql://agentmetal:PASSWORD@db.example.com/agentmetal?sslmode=verify-full"
_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "application_name": "agentmetal",
}
"""For what the URL does not say: a server that is silent is noticed in seconds, not in hours."""
_ENCRYPTED = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A database that was named and may be used."""

    conninfo: str = field(repr=False)
    shown: str
    """`host/database`, for people."""
    hosts: tuple[str, ...]
    """Names and addresses of its servers; empty for a socket in the file system."""
    secret: str = field(default="", repr=False)


def target(url: str) -> Target:
    """What a store URL names. Raises Invalid, without repeating any of it."""
    if not url.startswith(("postgresql://", "postgres://")):
        raise Invalid(f"the store URL is not one of PostgreSQL: write it as {EXAMPLE}")
    try:
        given = {key: str(value) for key, value in conninfo.conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        # Its message quotes the URL, and with it, perhaps, the password.
        raise Invalid(f"the store URL cannot be read: write it as {EXAMPLE}, special characters as %xx") from None
    hosts = _hosts(given)
    _refuse(given, hosts)
    shown = f"{','.join(hosts) or given['host']}/{given.get('dbname', '')}"
    wanted = {**_DEFAULTS, **given}
    return Target(
        conninfo=conninfo.make_conninfo("", **wanted),
        shown=shown,
        hosts=hosts,
        secret=given.get("password", ""),
    )


def _hosts(given: dict[str, str]) -> tuple[str, ...]:
    """Every name and address that is dialled, sockets in the file system left out."""
    named = [part for key in ("hostaddr", "host") for part in given.get(key, "").split(",")]
    return tuple(dict.fromkeys(host for host in named if host and not host.startswith(("/", "@"))))


def _refuse(given: dict[str, str], hosts: Iterable[str]) -> None:
    if "service" in given or not (given.get("host") or given.get("hostaddr")):
        raise Invalid(f"the store URL names no host (service files are not read): write it as {EXAMPLE}")
    mode = given.get("sslmode", "")
    if mode in _ENCRYPTED or mode == "disable":  # said is said
        return
    if far := [host for host in hosts if not _loopback(host)]:
        raise Invalid(
            f"the store URL lets libpq talk to {far[0]!r} without encryption: add sslmode=verify-full (and"
            " sslrootcert), or sslmode=disable if nobody else is on that network"
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def within(connection: AsyncConnection[tuple[object, ...]], seconds: float) -> AsyncIterator[None]:
    """A deadline that also a frozen server cannot outlast: the socket is shut down, never asked to cancel.

    Cancelling would end the wait for synchronous standbys and call the commit a success.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _shut, connection.fileno())
    try:
        yield
    finally:
        timer.cancel()


def _shut(descriptor: int) -> None:
    with socket.socket(fileno=socket.dup(descriptor)) as doubled:
        doubled.shutdown(socket.SHUT_RDWR)


_SERVER = "no connection: look whether its server runs, can be reached and lets us in; the store goes on by itself"
_BUG = "it answers what our statements never lead to: somebody changed its tables, or this is a bug; please report it"
_OURS = "our role lacks a right or a table: see docs/how-to/postgresql.md, and whether somebody changed its tables"
_CAPACITY = "it has no memory, connections or locks left: look at its log, the store goes on by itself"
_DISK = "its disk or its files fail: look at the server's log"
_STATES = {
    "25P03": "this process was too busy to end its transaction in time: the store goes on by itself",
    "53100": "its disk is full: free space there, the store goes on by itself",
    "55000": "it cannot do that now: look at the server's log",
    "57014": "it did not finish in time: look at its load and at sessions that hold locks (pg_stat_activity)",
}
_CLASSES = {
    "08": _SERVER,
    "53": _CAPACITY,
    "57": "its server is starting or ending: the store goes on by itself",
    "28": "it refuses our password or certificate: compare the Secret with the role, and look at pg_hba.conf",
    "3D": "the database does not exist: create it as docs/how-to/postgresql.md says",
    "3F": "the schema does not exist: create it as docs/how-to/postgresql.md says",
    "42": _OURS,
    "25": "it is read-only: name the primary, a standby takes no records",
    "40": "another transaction was in the way: it is tried again",
    "55": "another session holds its lock: look into pg_stat_activity",
    "58": _DISK,
    "F0": _DISK,
    "XX": _DISK,
    **dict.fromkeys(("54", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "24"), _BUG),
    **dict.fromkeys(("26", "27", "2B", "2D", "2F", "34", "38", "39", "3B", "44", "72", "HV", "P0"), _BUG),
}
_REFUSED = ("22", "23")
"""The caller's mistake: a value that cannot be stored, or a record that does not follow the newest."""
_PLAIN: dict[type[Exception], str] = {
    psycopg_pool.TooManyRequests: _CAPACITY,
    psycopg_pool.PoolTimeout: _SERVER,
    psycopg_pool.PoolClosed: "it is closed: open it again",
    psycopg.errors.ConnectionTimeout: _SERVER,
    psycopg.OperationalError: _SERVER,
    psycopg.InterfaceError: _SERVER,
    psycopg.InternalError: _DISK,
    psycopg.ProgrammingError: _BUG,
    psycopg.NotSupportedError: _BUG,
    psycopg.DatabaseError: _BUG,
    psycopg.Error: _BUG,
}
"""Those without a code, raised by the client itself; the first that fits."""


def translated(error: psycopg.Error, place: Target) -> AgentMetalError:
    """The one place where psycopg's errors become ours. Refused by a constraint or trigger = Invalid."""
    said = one_line(str(error) or type(error).__name__, 512)
    if len(place.secret) > 3:  # libpq never says it; this is so for whatever comes between
        said = said.replace(place.secret, "***")
    state = error.sqlstate or ""
    if state[:2] in _REFUSED or (not state and isinstance(error, (psycopg.DataError, psycopg.IntegrityError))):
        return Invalid(f"the audit store {place.shown!r} refuses it: {said}")
    return Unavailable(f"the audit store {place.shown!r} cannot be used: {_what_to_do(error, state)} ({said})")


def _what_to_do(error: psycopg.Error, state: str) -> str:
    if state:
        return _STATES.get(state) or _CLASSES[state[:2]] if state[:2] in _CLASSES else _BUG
    return next(todo for kind, todo in _PLAIN.items() if isinstance(error, kind))
