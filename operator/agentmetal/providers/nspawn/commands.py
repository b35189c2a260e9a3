"""Programs of the operating system. Called by the supervisor and the image builder, which are processes of their own;
the operator's event loop never waits here."""

from __future__ import annotations

import ctypes
import signal
import subprocess

from agentmetal.core.errors import Unavailable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def tied(argv: list[str]) -> list[str]:
    """The command as first process of a pid namespace: when it dies, everything below it dies, by the kernel's rules.

    Start it with `die_with_parent`: then kill -9 of the caller leaves nothing running either.
    """
    return ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", *argv]


def die_with_parent() -> None:
    """For `preexec_fn`."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run(*argv: str, stdin: str = "", timeout: float = 30.0) -> str:
    """Run a program and return what it prints. Raises Unavailable with its complaint."""
    try:
        ended = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise Unavailable(f"{argv[0]!r} is not installed: install it with the system's package manager") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(argv)!r} did not end in {timeout:g} s") from error
    if ended.returncode:
        complaint = (ended.stderr or ended.stdout).strip()[-2000:]
        raise Unavailable(f"{' '.join(argv)!r} ended with {ended.returncode}: {complaint}")
    return ended.stdout
