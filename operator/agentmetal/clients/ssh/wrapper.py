"""What the operator says to `agentmetal-run` on a host, and how its answers are read. Called by `host.py`; pure.

The host is not trusted: an answer that is not exactly one of the program's is an error, and never means "not started".
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import IntEnum
from importlib.resources import files
from pathlib import PurePosixPath

from agentmetal.clients.ssh.errors import write_error
from agentmetal.core.errors import Forbidden, Invalid, LimitReached, NotFound, StaleLeader, Unavailable
from agentmetal.core.machine import Completed, UnitPhase, UnitState

PATH = "/usr/local/lib/agentmetal/agentmetal-run"
STATE = "/var/lib/agentmetal"
"""Below it, in a directory for each cluster, is what the program remembers."""
OUTPUT_LIMIT = 1024

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_ANSWER = re.compile(r"agentmetal-run 1 ([^\n]{1,200})\n(.*)", re.DOTALL)
_ENDED = re.compile(r"ended ([a-z-]{1,32}) (?:exited ([0-9]{1,3})|(?:killed|dumped) ([A-Z0-9+-]{1,16}))")
_STALE = re.compile(r"stale ([0-9]{1,16})")
_WORDS = frozenset({"never", "running", "interrupted", "unknown"})
_OWN_WORDS = frozenset({"success", "exit-code"})
"""What systemd calls an end that the command chose itself."""


class ExitCode(IntEnum):
    """What the program's exit codes mean; each but OK certainly left the command unstarted."""

    OK = 0
    MISSING = 69
    FULL = 73
    STALE = 75


def program() -> bytes:
    """The program itself, as it is installed on hosts."""
    return files(__package__).joinpath("agentmetal-run").read_bytes()


def start_argv(cluster: str, name: str, argv: Sequence[str], *, epoch: int, timeout: float) -> list[str]:
    """Start the command once, or ask for its state."""
    seconds = str(max(1, math.ceil(timeout)))
    return [PATH, name_of(cluster), "start", str(epoch), name_of(name), seconds, "--", *argv]


def state_argv(cluster: str, name: str) -> list[str]:
    """Ask for the state of a command."""
    return [PATH, name_of(cluster), "state", name_of(name)]


def forget_argv(cluster: str, operation: str) -> list[str]:
    """Drop what is kept about an operation's commands."""
    return [PATH, name_of(cluster), "forget", name_of(operation)]


def leave_argv(cluster: str, *, epoch: int) -> list[str]:
    """Remove the program and what it remembers for a cluster."""
    return [PATH, name_of(cluster), "leave", str(epoch)]


def own_place(cluster: str) -> str:
    """What the program remembers for a cluster."""
    return f"{STATE}/{name_of(cluster)}"


def epoch_file(cluster: str) -> str:
    """The highest epoch that the host has seen: there before the program is, so that no late command comes first."""
    return f"{own_place(cluster)}/epoch"


def shared_places() -> tuple[str, str]:
    """The directories that are ours only while nothing else is in them."""
    return str(PurePosixPath(PATH).parent), STATE


def name_of(text: str) -> str:
    """The text, if it can be a unit's name. Raises Invalid."""
    if not _NAME.fullmatch(text):
        raise Invalid(f"{text!r} cannot name a unit: use a-z, 0-9 and '-', at most 128")
    return text


def read_start(answer: Completed, name: str) -> UnitState:
    """The state after starting.

    Raises StaleLeader, LimitReached, Forbidden, NotFound (each: not started), Unavailable (ask again).
    """
    word, _ = _word(answer)
    match answer.exit_code:
        case ExitCode.STALE if stale := _STALE.fullmatch(word):
            raise StaleLeader(
                f"the host has seen epoch {stale[1]}: unit {name!r} was not started, another process leads"
            )
        case ExitCode.FULL if word == "full":
            raise LimitReached(f"the host has no room to note unit {name!r} below /var/lib/agentmetal: free disk space")
        case ExitCode.FULL if word == "read-only":
            raise Forbidden(
                f"the host cannot note unit {name!r} below {STATE}, it is mounted read-only: look at the disk"
            )
        case ExitCode.MISSING if word == "missing":
            raise NotFound(f"the host has no such program: unit {name!r} was not started")
        case _:
            pass
    state = read_state(answer, name)
    if state.phase is UnitPhase.NEVER:
        raise _not_understood(answer, name)
    return state


def read_state(answer: Completed, name: str) -> UnitState:
    """The state that the host tells. Raises Unavailable for anything else."""
    word, output = _word(answer)
    if answer.exit_code != ExitCode.OK:
        raise _not_understood(answer, name)
    output = output[-OUTPUT_LIMIT:]
    if word in _WORDS:
        return UnitState(phase=UnitPhase(word), output=output)
    ended = _ENDED.fullmatch(word)
    if ended is None or int(ended[2] or 0) > 255:
        raise _not_understood(answer, name)
    return _ended(ended[1], ended[2], ended[3], output)


def read_forgotten(answer: Completed, operation: str) -> None:
    """Raises Unavailable when it was not done."""
    if answer.exit_code != ExitCode.OK or _word(answer)[0] != "forgotten":
        raise _not_understood(answer, operation)


def read_left(answer: Completed) -> None:
    """Raises StaleLeader when another process leads, or why the program could not be removed."""
    word, _ = _word(answer)
    if answer.exit_code == ExitCode.STALE and (stale := _STALE.fullmatch(word)):
        raise StaleLeader(f"the host has seen epoch {stale[1]}: nothing was removed, another process leads")
    if answer.exit_code != ExitCode.OK or word != "left":
        raise write_error(PATH, answer)


def _ended(result: str, status: str | None, signal: str | None, output: str) -> UnitState:
    """Who chose the end: the command, then its exit code counts; or somebody else, which systemd may call a success."""
    if status is not None and result in _OWN_WORDS:
        return UnitState(phase=UnitPhase.ENDED, exit_code=int(status), output=output)
    killed_by = signal if signal is not None and result in {*_OWN_WORDS, "signal", "core-dump"} else result
    return UnitState(phase=UnitPhase.ENDED, killed_by=killed_by, output=output)


def _word(answer: Completed) -> tuple[str, str]:
    match = _ANSWER.fullmatch(answer.stdout)
    return (match[1], match[2]) if match else ("", "")


def _not_understood(answer: Completed, name: str) -> Unavailable:
    said = (answer.stderr.strip() or answer.stdout.strip())[:200]
    return Unavailable(
        f"agentmetal-run gave no usable answer about {name!r}, is it installed? (exit {answer.exit_code}, {said!r})"
    )
