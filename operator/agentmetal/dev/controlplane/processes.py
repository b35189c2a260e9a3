"""A detached process with a pid file and a log: started once, found again, never mistaken for another. Used by `plane`.

A pid alone names nothing: it is recycled. The pid file therefore also holds the boot, the start time and the
arguments, and signals go through a pidfd that was checked after it was opened: a stranger is never touched, not even
in a race. The process outlives the one that started it (own session); nothing here restarts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes a process this one and no other."""

    pid: int
    boot: str
    started: int
    """Clock ticks after boot, from /proc/<pid>/stat."""
    arguments: tuple[str, ...]
    """All but the program's own name: that changes when the program is a script that hands over to another."""

    @classmethod
    def of(cls, pid: int, arguments: Sequence[str]) -> Identity | None:
        """Of who has that pid now, said to have been started with those arguments."""
        try:
            # The program's name stands in parentheses and may hold anything, also spaces and parentheses.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(pid=pid, boot=boot, started=int(fields[19]), arguments=tuple(arguments))

    def has_its_pid(self) -> bool:
        """Whether the pid still means this process, be it alive, on its way out, or an unread exit status."""
        return Identity.of(self.pid, self.arguments) == self and self._command_fits()

    def _command_fits(self) -> bool:
        """An empty one fits too: so it is just after the start (seen 53 of 60 times), and just before the end."""
        try:
            command = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return not command or command.endswith(b"".join(os.fsencode(argument) + b"\0" for argument in self.arguments))


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """One process of a directory: `<name>.pid`, `<name>.log`, and the log of the run before as `<name>.log.1`."""

    name: str
    directory: Path

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.directory / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def pid(self) -> int | None:
        """The pid, while it runs."""
        with self._handle() as handle:
            recorded = self._recorded()
            return recorded.pid if handle is not None and recorded is not None else None

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start it in a session of its own. Must not run already."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        pid = os.posix_spawn(
            arguments[0],
            tuple(arguments),
            environment,
            setsid=True,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them, and what is ignored is inherited
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ),
        )
        identity = Identity.of(pid, arguments[1:])
        assert identity is not None, "a child stays in the process table until its parent asks"  # noqa: S101 - narrows
        temporary = self._pid_file.with_suffix(".pid.new")
        temporary.write_text(json.dumps(asdict(identity)))
        temporary.replace(self._pid_file)
        return pid

    async def ended(self, within: float) -> bool:
        """Wait for its end, at most so many seconds; True when it does not run (any more)."""
        with self._handle() as handle:
            return handle is None or await _readable(handle, within)

    async def stop(self, *, grace: float) -> None:
        """End it: politely, then by force. When this returns it does not run."""
        with self._handle() as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                if not await _readable(handle, grace):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    await _readable(handle, None)
        self.pid()  # takes the exit status if it was our child
        self._pid_file.unlink(missing_ok=True)

    def last_words(self, lines: int = 12) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(nothing)"

    def _recorded(self) -> Identity | None:
        try:
            recorded = json.loads(self._pid_file.read_text())
            return Identity(**{**recorded, "arguments": tuple(recorded["arguments"])})
        except (
            FileNotFoundError,
            ValueError,
            TypeError,
            KeyError,
        ):  # never started, or a file that is not ours: names nobody
            return None

    @contextmanager
    def _handle(self) -> Iterator[int | None]:
        """A pidfd of exactly the recorded process; None when it does not run.

        A process runs until its last thread has ended: only then its ports are free, and only then a pidfd is readable.
        Its state and command line in /proc say so earlier.
        """
        recorded = self._recorded()
        try:
            handle = os.pidfd_open(recorded.pid) if recorded is not None else None
        except ProcessLookupError:
            handle = None
        if recorded is None or handle is None:
            yield None
            return
        try:
            if not recorded.has_its_pid():  # asked after opening: the handle pins whom it names
                yield None
            elif _has_ended(handle):
                _reap(recorded.pid)
                yield None
            else:
                yield handle
        finally:
            os.close(handle)


def _has_ended(handle: int) -> bool:
    return bool(select.select([handle], [], [], 0)[0])


def _reap(pid: int) -> None:
    """Take the exit status, if it was our child: else it stays in the process table as long as we live."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # another process started it; its parent, or init, takes it
        return


async def _readable(handle: int, within: float | None) -> bool:
    """A pidfd becomes readable when its process ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), within)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(handle)
    return True
