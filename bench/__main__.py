"""`python -m bench`: run the measurements, most of them on one fresh control plane; print the table, write the JSON.

Exit code 0 when every budget was kept, 1 when one was missed, 130 when it was interrupted. Nothing it started is left.
The JSON is written as each part ends, so an interrupted run keeps what it has measured.
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
from bench import decisions, leaks, machines, report, scale, simulated
from bench.figures import compare
from bench.scale import Sizes
from bench.sheet import Sheet
from bench.stage import Stage, stage

PARTS = ("burst", "changes", "restart", "approve", "pause", "stop", "leaks", "machines", "day")
WITHOUT_CONTROL_PLANE = frozenset({"machines", "day"})
INTERRUPTED = 130


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the operator against its budgets.")
    size = Sizes()
    parser.add_argument(
        "--objects", type=int, default=size.objects, metavar="N", help="size of the burst (%(default)s)"
    )
    parser.add_argument(
        "--settled",
        type=int,
        default=size.settled,
        metavar="N",
        help="objects when changed and restarted (%(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=size.seconds, metavar="S", help="how long it is changed (%(default)s)"
    )
    parser.add_argument("--only", type=_parts, default=frozenset(PARTS), metavar="A,B", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write the figures (bench-<date>.json)")
    parser.add_argument(
        "--compare",
        type=Path,
        default=report.BASELINE,
        metavar="OLD.json",
        help="show an earlier run beside this one (bench/baseline.json)",
    )
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument(
        "--write-baseline", action="store_true", help="make this run the one that later ones compare to"
    )
    return parser.parse_args(given)


def _parts(text: str) -> frozenset[str]:
    chosen = frozenset(text.split(","))
    if unknown := chosen.difference(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    return chosen


def say(line: str) -> None:
    """Progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


async def measure(scene: Stage, only: frozenset[str], sizes: Sizes, sheet: Sheet) -> None:
    """Each part needs only the stage and makes what it needs."""
    if only & scale.PARTS:
        await sheet.attempt("scale", scale.measure(scene, only, sizes, sheet))
    if only & {"approve", "pause", "stop"}:
        await sheet.attempt("decisions", decisions.measure(scene, only))
    if "leaks" in only:
        await sheet.attempt("leaks", leaks.measure(scene))


async def on_stage(only: frozenset[str], sizes: Sizes, sheet: Sheet) -> None:
    """What needs a control plane."""
    binaries = find()
    if binaries is None:
        raise SystemExit("There is no control plane on this machine yet: `make install` builds it (8 minutes, once).")
    async with stage(binaries, say) as scene:
        await measure(scene, only, sizes, sheet)


async def run(only: frozenset[str], sizes: Sizes, sheet: Sheet) -> bool:
    """Fill the sheet; False when it was interrupted. A second Ctrl-C does not disturb the tidying up."""
    loop, task, interrupted = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None

    def interrupt() -> None:
        if not interrupted.is_set():
            interrupted.set()
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    try:
        if only - WITHOUT_CONTROL_PLANE:
            await on_stage(only, sizes, sheet)
        if "machines" in only:
            await sheet.attempt("machines", machines.measure(say))
        if "day" in only:
            await sheet.attempt("day", simulated.measure())
    except asyncio.CancelledError:
        if not interrupted.is_set():
            raise
    return not interrupted.is_set()


def main() -> int:
    """The whole run."""
    options, now = arguments(sys.argv[1:]), datetime.now(UTC)
    sizes = Sizes(objects=options.objects, settled=options.settled, seconds=options.seconds)
    old = report.load(options.compare) if options.compare.exists() else None  # before it may be overwritten
    sheet = Sheet(path=options.json or Path(f"bench-{now:%Y-%m-%d}.json"), at=now, objects=options.objects, say=say)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        whole = runner.run(run(options.only, sizes, sheet))
    figures = sheet.figures
    report.show(figures)
    if old is not None:
        report.show_comparison(compare(old, figures), options.compare)
    if not whole:
        print(f"interrupted; what was measured is in {str(sheet.path)!r}" if figures else "interrupted")
        return INTERRUPTED
    if options.write_baseline:
        report.save(report.BASELINE, sheet.document())
    if options.write_docs:
        report.write_docs(figures, sheet.document())
    print(f"written to {str(sheet.path)!r}; it took {(datetime.now(UTC) - now).total_seconds() / 60:.1f} minutes")
    return int(any(figure.verdict == "MISSED" for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
