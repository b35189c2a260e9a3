"""`agentmetal demo`: plays the demonstration and prints what happened and how long it took."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from agentmetal.cli.output import ConsoleReporter, answers, table
from agentmetal.dev import requirements
from agentmetal.dev.controlplane.build import ensure
from agentmetal.dev.demo import Tell, play, tell_machines
from agentmetal.dev.demo_fleet import tell_fleet
from agentmetal.dev.report import Reporter
from agentmetal.dev.story import Chapter
from agentmetal.dev.system import DevSystem

IMPATIENT = 2.0
"""Seconds: whoever interrupts a clean-up twice within them means it."""


class Part(StrEnum):
    """Which story."""

    MACHINES = "machines"
    FLEET = "fleet"


STORIES: Mapping[Part, Tell] = {Part.MACHINES: tell_machines, Part.FLEET: tell_fleet}


def demo(
    part: Annotated[
        Part, typer.Argument(help="machines: ordered, lost, changed, deleted. fleet: machines that exist already.")
    ] = Part.MACHINES,
    state: Annotated[Path, typer.Option("--state", help="A directory of its own.")] = Path(".agentmetal/demo"),
) -> None:
    """Show what AgentMetal does, on real machines: about half a minute once everything is built. Nothing is left."""
    requirements.check()
    reporter = ConsoleReporter(answers())
    system = DevSystem(state, ensure(progress=reporter.say))
    interruptions = Interruptions(reporter)
    try:
        chapters = asyncio.run(_played(system, reporter, STORIES[part], interruptions))
    except asyncio.CancelledError:
        if interruptions.abandoned:
            reporter.say(f"The clean-up was abandoned; to finish it: agentmetal dev down --state {state}")
        raise typer.Exit(128 + interruptions.number) from None
    shown = table("CHAPTER", "WHAT HAPPENED", "SECONDS")
    for chapter in chapters:
        shown.add_row(chapter.title, chapter.outcome, f"{chapter.seconds:.1f}")
    shown.add_row("all", "every chapter came to its good end", f"{sum(each.seconds for each in chapters):.1f}")
    answers().print()
    answers().print(shown)


async def _played(system: DevSystem, reporter: Reporter, tell: Tell, interruptions: Interruptions) -> Sequence[Chapter]:
    """Whoever ends us, by Ctrl-C or otherwise, finds everything cleaned up."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in a coroutine
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, partial(interruptions.happened, number, loop.time, task.cancel))
    return await play(system, reporter, tell, on_cleaning=interruptions.cleaning_begins)


class Interruptions:
    """The first ends the story, others wait for the clean-up, and two of them in a hurry abandon it."""

    def __init__(self, reporter: Reporter) -> None:
        self.number = signal.SIGINT
        """The signal that came first."""
        self.abandoned = False
        self._reporter = reporter
        self._ending = False
        self._last = float("-inf")

    def cleaning_begins(self) -> None:
        """From now on an interruption ends nothing."""
        self._ending = True

    def happened(self, number: signal.Signals, now: Callable[[], float], cancel: Callable[[], object]) -> None:
        """A signal came."""
        if not self._ending:
            self._ending, self.number = True, number
            cancel()
        elif now() - self._last <= IMPATIENT:
            self.abandoned = True
            cancel()
        else:
            self._last = now()
            self._reporter.say(f"still cleaning up (again within {IMPATIENT:g} s abandons it)")
