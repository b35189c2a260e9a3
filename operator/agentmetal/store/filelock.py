"""One process per file: an advisory lock beside it. Used by the SQLite store; the kernel frees it when we die.

The lock is on a file of its own, because closing any descriptor of SQLite's own file would drop SQLite's locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from agentmetal.core.errors import Unavailable


class FileLock:
    """Held from `acquire` to `release`, or to the end of the process. Not inherited by programs we start."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> FileLock:
        """Lock `<path>.lock` and make its directory. Raises Unavailable when another process has the lock."""
        lock = path.with_name(f"{path.name}.lock")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            todo = "check that its directory is writable and has space"
            raise Unavailable(f"the lock file {str(lock)!r} cannot be made: {todo} ({error})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise Unavailable(
                f"{str(path)!r} is in use by process {holder}: end that operator, or set another store path"
            ) from error
        with contextlib.suppress(OSError):  # the number is for people; the lock is what counts, also on a full disk
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._descriptor)
