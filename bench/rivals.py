"""Who is measured beside the operator: the bare asyncio loop and a client-go controller, each a process of its own.

Started and ended by `burst` and `scale`; both say a line when they have listed everything and watch.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.stage import Stage

ROOT = Path(__file__).parent.parent
GO = Path(__file__).parent / "go"
BUILDS_WITHIN = 600.0
STARTS_WITHIN = 120.0


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A running one."""

    process: Process
    said: str
    """Its first line."""


@asynccontextmanager
async def running(*arguments: str | Path) -> AsyncIterator[Rival]:
    """It has said its first line, and is ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=ROOT,
        stdout=PIPE,
        env={"PATH": os.environ["PATH"]},
        start_new_session=True,  # Ctrl-C is for us; we end it
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(STARTS_WITHIN):
            said = (await process.stdout.readline()).decode().strip()
        if not said:
            raise RuntimeError(f"{arguments[0]!s} did not start; its complaint stands above")
        yield Rival(process=process, said=said)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def bare_burst(stage: Stage, namespace: str, template: Path) -> tuple[str | Path, ...]:
    """The command of the bare loop that makes the writes of a burst."""
    return sys.executable, "-m", "bench.bare", stage.kubeconfig("operator"), namespace, template


def bare_changes(stage: Stage) -> tuple[str | Path, ...]:
    """The command of the bare loop that restates status."""
    return sys.executable, "-m", "bench.bare_changes", stage.kubeconfig("operator")


async def build_go(directory: Path, say: Callable[[str], None]) -> Path | None:
    """The client-go controller, built; None, with a sentence, where it cannot be."""
    go = shutil.which("go")
    if go is None:
        say("no comparison with client-go: 'go' is not on PATH")
        return None
    say("building the client-go controller (a minute or two the first time)")
    target = directory / "controller"
    process = await asyncio.create_subprocess_exec(
        *(go, "build", "-trimpath", "-o", target, "."), cwd=GO, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(BUILDS_WITHIN):
            output, _ = await process.communicate()
    except TimeoutError:
        output = f"not built within {BUILDS_WITHIN:g} s".encode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return target
    say(f"no comparison with client-go: {(output.decode().strip().splitlines() or ['it cannot be built'])[-1]}")
    return None
