"""How things look: one console for answers, one for news, and the live table of long work. Used by all commands.

Answers go to stdout, news and complaints to stderr, so that `--output json | jq` works. Without a terminal nothing is
ever redrawn: one line for each change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from agentmetal.dev.report import Row

PLAIN_WIDTH = 1000
"""Columns of a log or a pipe: nothing is wrapped there, so that lines can be copied and searched."""

SINCE = re.compile(r", since [0-9][^,]*")
"""How long a step runs. It would make every second a change; a line has its own time."""


class Format(StrEnum):
    """How an answer is printed."""

    TEXT = "text"
    JSON = "json"


def answers() -> Console:
    """For what was asked."""
    return _console(stderr=False)


def news() -> Console:
    """For what goes on, and for what went wrong."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return (
        console if console.is_terminal else Console(stderr=stderr, highlight=False, soft_wrap=True, width=PLAIN_WIDTH)
    )


def print_json(value: Any) -> None:
    """Exactly this JSON, with no colours and no wrapping."""
    answers().print(json.dumps(value, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)


def table(*columns: str, title: str = "") -> Table:
    """A table without boxes, as kubectl's."""
    made = Table(box=None, pad_edge=False, title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


class ConsoleReporter:
    """`dev.report.Reporter` on a console: a live table on a terminal, lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._shown: dict[str, str] = {}

    def say(self, line: str) -> None:
        """One thing that happened."""
        self._console.print(line, markup=False)

    def show(self, rows: Sequence[Row]) -> None:
        """How several things go."""
        if not self._console.is_terminal:
            self._lines(rows)
        elif rows:
            self._draw(rows)
        elif self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, rows: Sequence[Row]) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(_progress(rows), refresh=True)

    def _lines(self, rows: Sequence[Row]) -> None:
        if not rows:
            self._shown.clear()
        for row in rows:
            text = SINCE.sub("", f"{row.name}: {row.phase}, {row.step}")
            if self._shown.get(row.name) != text:
                self._shown[row.name] = text
                self.say(f"{row.seconds:5.1f} s  {text}")


def _progress(rows: Sequence[Row]) -> Table:
    made = table("NAME", "PHASE", "STEP", "SECONDS")
    for row in rows:
        made.add_row(row.name, row.phase, row.step, f"{row.seconds:.0f}", style="green" if row.done else "")
    return made
