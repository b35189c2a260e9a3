"""The figures of a simulated day; part `day` of `python -m bench`. Needs no control plane."""

from __future__ import annotations

from collections.abc import Callable

from bench.day.story import Day, growth, leaks, tell
from bench.figures import Figure

HOURS, OBJECTS, SEED = 24, 1000, 1
RESYNC = "30m"
"""Six times the default: with 5 minutes, looking around alone would take three quarters of the CPU time."""
FLAT = 1.1


def measure(
    say: Callable[[str], None], *, hours: int = HOURS, objects: int = OBJECTS, seed: int = SEED
) -> tuple[Figure, ...]:
    """One day."""
    say(f"{hours} hours in virtual time with {objects} objects")
    day = tell(hours=hours, population=objects, seed=seed, resync=RESYNC, say=say)
    left = leaks(day)
    for what in (*day.complaints, *left):
        say(what)
    return (
        Figure(name="what must not happen and did", value=len(day.complaints), unit="", budget=0, note=_told(day)),
        Figure(name="entries in the operator's containers, last third of the day / second third",
               value=growth(day, lambda hour: hour.kept.total()), unit="x", budget=FLAT),
        Figure(name="Python objects of the operator, last third / second third",
               value=growth(day, lambda hour: hour.objects.total()), unit="x", budget=FLAT),
        Figure(name="RSS with its world, last third / second third", value=growth(day, lambda hour: hour.rss_mb),
               unit="x", budget=FLAT, note=f"{day.hours[-1].rss_mb:.0f} MiB in the end"),
        Figure(name="kinds of things left of objects that are gone", value=len(left), unit="", budget=0,
               note="; ".join(left)[:200]),
        Figure(name=f"CPU for {hours} hours of {objects} objects", value=day.cpu, unit="s",
               note=f"resync every {RESYNC}, the world included"),
    )  # fmt: skip


def _told(day: Day) -> str:
    did, met, ended = (day.told[name].total() for name in ("did", "met", "ended"))
    restarts = ", ".join(f"{count} {how}" for how, count in sorted(day.told["restarts"].items()))
    steps = day.told["steps"].total()
    return f"{did} things done, {met} faults, restarts: {restarts}; {ended} operations, {steps} steps begun"
