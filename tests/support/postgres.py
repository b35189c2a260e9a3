"""A real PostgreSQL server for tests: in a directory of its own, on a socket there, ended by its pid.

initdb and postgres refuse root, so both run as the user postgres. What it needs is said by `.ci/prepare packages`.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

USER = "postgres"
PASSWORD = "canary-of-the-store"
START_SECONDS = 30.0
POLL = 0.02


def programs() -> Path:
    """Where initdb and postgres are. Without them a test fails and says what to do."""
    if found := sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3])):
        return found[-1].parent
    pytest.fail("there is no PostgreSQL server on this machine: run `.ci/prepare packages` as root", pytrace=False)


@dataclass
class Server:
    """One server and its data."""

    directory: Path
    durable: bool = False
    """fsync: only where durability itself is the claim."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    def url(self, database: str = "postgres") -> str:
        """How it is reached."""
        return f"postgresql://{USER}:{PASSWORD}@/{database}?host={self.directory}"

    def make(self) -> None:
        """An empty cluster."""
        secret = self.directory / "secret"
        secret.write_text(PASSWORD)
        _own(self.directory)
        _run(
            programs() / "initdb",
            f"--pgdata={self.data}",
            f"--username={USER}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )

    def start(self) -> None:
        """Run it; returns when it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "on" if self.durable else "off",
            "max_connections": "40",
            "shared_buffers": "16MB",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", self.data, *flags], stdout=log, stderr=log, **_user()
            )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        for _ in range(int(START_SECONDS / POLL)):
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert self.process is not None
                try:
                    self.process.wait(POLL)
                except subprocess.TimeoutExpired:
                    continue
                break
        raise AssertionError(f"PostgreSQL did not start: {(self.directory / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """kill -9 of the postmaster and, as a lost machine does, of all that it started."""
        assert self.process is not None
        children = _children(self.process.pid)
        for pid in (self.process.pid, *children):
            _signal(pid, signal.SIGKILL)
        self.process.wait()
        for pid in children:
            _wait_gone(pid)
        self.process = None

    def freeze(self, *, frozen: bool) -> None:
        """Stop or continue every process of it."""
        assert self.process is not None
        for pid in (self.process.pid, *_children(self.process.pid)):
            _signal(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """The fast end: sessions are cut, everything is written. SIGQUIT: at once, recovery follows at the next start.

        Never SIGKILL at the very end: its shared memory would stay behind.
        """
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(START_SECONDS)
            self.process = None

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """As its administrator."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def keep(self, name: str) -> None:
        """A copy of the data as they are, while it is stopped: what a standby that lags would have."""
        shutil.copytree(self.data, self.directory / name)
        _own(self.directory / name)

    def fail_over(self, name: str) -> None:
        """Go on with a kept copy, while it is stopped."""
        shutil.rmtree(self.data)
        shutil.copytree(self.directory / name, self.data)
        _own(self.data)


@contextmanager
def server(*, durable: bool = False) -> Iterator[Server]:
    """A server that runs, and is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="agentmetal-pg-") as directory:
        made = Server(Path(directory), durable=durable)
        made.make()
        made.start()
        try:
            yield made
        finally:
            made.stop(signal.SIGQUIT)


def _user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _run(*command: Path | str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", **_user())
    assert done.returncode == 0, done.stderr


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam(USER)
        for place in (path, *path.rglob("*")):
            os.chown(place, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_gone(pid: int) -> None:
    descriptor = _pidfd(pid)
    if descriptor is not None:
        select.select([descriptor], [], [], START_SECONDS)
        os.close(descriptor)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
