"""What long work tells about itself, as a protocol: the command line draws it, tests collect it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Row:
    """How one object goes."""

    name: str
    phase: str
    step: str
    """What is done right now."""
    seconds: float
    """Since the waiting began."""
    done: bool = False


class Reporter(Protocol):
    """Takes news; never fails, never waits."""

    def say(self, line: str) -> None:
        """One thing that happened."""

    def show(self, rows: Sequence[Row]) -> None:
        """How several things go, again at each change. An empty sequence: that is over."""


class Quiet:
    """Tells nobody."""

    def say(self, line: str) -> None:
        """Nobody listens."""

    def show(self, rows: Sequence[Row]) -> None:
        """Nobody looks."""
