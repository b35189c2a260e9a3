"""How long work is told where nothing can be redrawn."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from agentmetal.cli.output import ConsoleReporter
from agentmetal.dev.report import Row


def row(step: str, seconds: float) -> Row:
    return Row(name="web", phase="Creating", step=step, seconds=seconds, done=False)


def test_a_step_that_goes_on_is_one_line_until_it_is_tried_again() -> None:
    file = StringIO()
    reporter = ConsoleReporter(Console(file=file, width=200))
    for seconds in (0, 1, 62):
        reporter.show(
            [row(f"step 1 of 2, order it, since {'1 min 02 s' if seconds > 60 else f'{seconds} s'}", seconds)]
        )
    reporter.show([row("step 1 of 2, order it, since 0 s, attempt 2", 63)])
    assert file.getvalue().splitlines() == [
        "  0.0 s  web: Creating, step 1 of 2, order it",
        " 63.0 s  web: Creating, step 1 of 2, order it, attempt 2",
    ]
