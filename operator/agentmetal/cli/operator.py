"""`agentmetal run`: the operator itself; `agentmetal version`. Settings come from the environment and from flags."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvloop

from agentmetal import process
from agentmetal.cli.output import answers, news
from agentmetal.core import logs
from agentmetal.core.errors import Forbidden, OutcomeUnknown, Transient
from agentmetal.settings import PREFIX, Settings

LOST_LEADERSHIP = 3
"""Exit code: another operator leads, or may. Whoever supervises us starts us again, and we wait for our turn."""

PAUSE = "RESTART_PAUSE_OF_AGENTMETAL"
"""Variable that tells our next life how long we paused before it. Not among the settings: nobody sets it."""
SHORTEST, LONGEST = 1.0, 60.0
"""Seconds of pause before another life."""
LONG_LIFE = 60.0
"""Seconds: whoever lived so long did not fail at the start, and pauses shortly again."""


def run(
    kubeconfig: Annotated[Path | None, typer.Option(help="The cluster to work in. Unset: the one we run in.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Where the operator's own Lease is.")] = None,
    identity: Annotated[str | None, typer.Option(help="What we are called in the Lease.")] = None,
    state_directory: Annotated[Path | None, typer.Option(help="Everything that we keep.")] = None,
    store_path: Annotated[Path | None, typer.Option(help="The audit trail, one file.")] = None,
    development: Annotated[bool | None, typer.Option("--development", help="Allow local machines.")] = None,
    provider_types: Annotated[str | None, typer.Option(help="Provider types that may be used, such as SSH.")] = None,
    workers: Annotated[int | None, typer.Option(help="Passes at once.")] = None,
    metrics_address: Annotated[str | None, typer.Option(help="Where metrics and health are served.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="0: any free one.")] = None,
    log_format: Annotated[str | None, typer.Option(help="json for machines, text for people.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Start anew instead of ending when the API server is away for long.")
    ] = False,
) -> None:
    """Run the operator. Every setting is also a variable, such as AGENTMETAL_STORE_PATH; flags win."""
    flags = {
        "kubeconfig": kubeconfig,
        "namespace": namespace,
        "identity": identity,
        "state_directory": state_directory,
        "store_path": store_path,
        "development": development,
        "provider_types": provider_types,
        "workers": workers,
        "metrics_address": metrics_address,
        "metrics_port": metrics_port,
        "log_format": log_format,
        "log_level": log_level,
    }
    given = {PREFIX + name.upper(): str(value) for name, value in flags.items() if value is not None}
    settings = Settings.from_environment({**os.environ, **given})
    logs.configure(stream=sys.stderr, format=settings.log_format, level=settings.log_level)
    began = time.monotonic()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(process.run(settings))
    except (process.LostLeadership, Transient, OutcomeUnknown, Forbidden) as lost:
        if again:
            _start_anew(lost, pause_after(time.monotonic() - began, os.environ))
        if not isinstance(lost, process.LostLeadership):
            raise
        news().print(f"another operator may lead now, so this one ends: {lost}", markup=False)
        raise typer.Exit(LOST_LEADERSHIP) from None


def pause_after(lived: float, environment: Mapping[str, str]) -> float:
    """Seconds of pause after a life of that length: twice the one before it, as long as lives are short."""
    try:
        before = float(environment.get(PAUSE, "0"))
    except ValueError:  # somebody else's word: as if there was none
        before = 0.0
    if lived >= LONG_LIFE or not SHORTEST <= before <= LONGEST:
        return SHORTEST
    return min(2 * before, LONGEST)


def _start_anew(why: Exception, pause: float) -> NoReturn:
    """What a supervisor would do, where there is none (a development system): the same pid, nothing remembered.

    A young API server refuses what it does not know yet, so being forbidden is no reason to stay away either.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # uvloop leaves its own behind, which nobody listens to any more
    logging.getLogger("agentmetal").warning("starting anew in %g s: %s", pause, why)
    threading.Event().wait(pause)  # nobody sets it: only a signal ends the pause sooner
    os.execve(sys.executable, sys.orig_argv, {**os.environ, PAUSE: f"{pause:g}"})  # noqa: S606 - our own arguments


def version() -> None:
    """Print the version."""
    answers().print(f"agentmetal {importlib.metadata.version('agentmetal')}", markup=False)
