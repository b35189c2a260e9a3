"""`python -m bench`: run the measurements, most of them on one fresh control plane; print the table, write the JSON.

Exit code 0 when every budget was kept, 1 when one was missed, 130 when it was interrupted. Nothing it started is left.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from agentmetal.dev.controlplane import find
from bench import burst, decisions, machines, report, restart
from bench.figures import Figure, compare
from bench.stage import Stage, stage

PARTS = ("burst", "restart", "approve", "pause", "machines")
WITHOUT_CONTROL_PLANE = frozenset({"machines"})
INTERRUPTED = 130


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the operator against its budgets.")
    parser.add_argument("--objects", type=int, default=1000, metavar="N", help="size of the burst (1000)")
    parser.add_argument("--only", type=_parts, default=frozenset(PARTS), metavar="A,B", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write the figures (bench-<date>.json)")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="show an earlier run beside this one")
    return parser.parse_args(given)


def _parts(text: str) -> frozenset[str]:
    chosen = frozenset(text.split(","))
    if unknown := chosen.difference(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    return chosen


def say(line: str) -> None:
    """Progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


async def measure(scene: Stage, only: frozenset[str], objects: int) -> list[Figure]:
    """Each part needs only the stage; a restart without a burst finds no objects but those it makes."""
    figures: list[Figure] = []
    if "burst" in only:
        figures += await burst.measure(scene, objects)
    elif "restart" in only:
        await burst.operator_burst(scene, objects)
    if "restart" in only:
        figures += await restart.measure(scene)
    if only & {"approve", "pause"}:
        figures += await decisions.measure(scene, only)
    return figures


async def on_stage(only: frozenset[str], objects: int) -> list[Figure]:
    """What needs a control plane."""
    binaries = find()
    if binaries is None:
        raise SystemExit("There is no control plane on this machine yet: `make install` builds it (8 minutes, once).")
    async with stage(binaries, say) as scene:
        return await measure(scene, only, objects)


async def run(only: frozenset[str], objects: int) -> list[Figure] | None:
    """The figures; None when it was interrupted. A second Ctrl-C does not disturb the tidying up."""
    loop, task, interrupted = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None

    def interrupt() -> None:
        if not interrupted.is_set():
            interrupted.set()
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    try:
        figures = await on_stage(only, objects) if only - WITHOUT_CONTROL_PLANE else []
        if "machines" in only:
            figures += await machines.measure(say)
        return figures
    except asyncio.CancelledError:
        if interrupted.is_set():
            return None
        raise


def main() -> int:
    """The whole run."""
    options, now = arguments(sys.argv[1:]), datetime.now(UTC)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(run(options.only, options.objects))
    if figures is None:
        return INTERRUPTED
    path = options.json or Path(f"bench-{now:%Y-%m-%d}.json")
    old = report.load(options.compare) if options.compare else None  # before it may be overwritten
    report.save(path, figures, at=now, objects=options.objects)
    report.show(figures)
    if old is not None:
        report.show_comparison(compare(old, figures), options.compare)
    print(f"written to {str(path)!r}")
    return int(any(figure.verdict == "MISSED" for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
