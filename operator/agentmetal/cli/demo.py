"""`agentmetal demo`: plays the demonstration and prints what happened and how long it took."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from agentmetal.cli.output import ConsoleReporter, answers, table
from agentmetal.dev import requirements
from agentmetal.dev.controlplane.build import ensure
from agentmetal.dev.demo import Chapter, play
from agentmetal.dev.report import Reporter
from agentmetal.dev.system import DevSystem

TERMINATED = 143


def demo(
    state: Annotated[Path, typer.Option("--state", help="A directory of its own.")] = Path(".agentmetal/demo"),
) -> None:
    """Show on real machines what AgentMetal does: about a minute, after the first set-up. Leaves nothing behind."""
    requirements.check()
    reporter = ConsoleReporter(answers())
    system = DevSystem(state, ensure(progress=reporter.say))
    try:
        chapters = asyncio.run(_played(system, reporter))
    except asyncio.CancelledError:
        raise typer.Exit(TERMINATED) from None
    shown = table("CHAPTER", "WHAT HAPPENED", "SECONDS")
    for chapter in chapters:
        shown.add_row(chapter.title, chapter.outcome, f"{chapter.seconds:.1f}")
    shown.add_row("all", "every chapter came to its good end", f"{sum(each.seconds for each in chapters):.1f}")
    answers().print()
    answers().print(shown)


async def _played(system: DevSystem, reporter: Reporter) -> Sequence[Chapter]:
    """Ctrl-C cancels by itself; whoever ends us otherwise finds everything cleaned up, too."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in a coroutine
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await play(system, reporter)
