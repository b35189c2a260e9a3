"""Figures, budgets, percentiles, and how two runs compare. Pure; used by all measurements and by `report`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["", "ok", "MISSED"]
Change = Literal["same", "better", "worse"]

TOLERANCE = 0.25
"""Part of a figure by which two runs of the same code differ here."""
LEAST = {"s": 0.02, "ms": 1.0, "cores": 0.02, "MiB": 5.0}
"""Differences that mean nothing, however large a part they are."""
COUNTED = 0.01
"""The same for counts: per object, so a single write more among hundreds of objects is within it."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number. Smaller is better."""

    name: str
    """Unique in a run; what `--compare` matches by."""
    value: float
    unit: str
    budget: float | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Within its budget? Empty when it has none."""
        if self.budget is None:
            return ""
        return "ok" if self.value <= self.budget else "MISSED"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A figure then and now."""

    name: str
    unit: str
    old: float
    new: float

    @property
    def ratio(self) -> float | None:
        """New over old; None when the old one was nothing."""
        return self.new / self.old if self.old else None

    @property
    def change(self) -> Change:
        """Beyond what differs between two runs of the same code on the same machine."""
        least = max(TOLERANCE * self.old, LEAST.get(self.unit, 0.0))
        if self.unit == "":  # counts: they do not depend on the machine
            least = COUNTED
        if abs(self.new - self.old) <= least:
            return "same"
        return "worse" if self.new > self.old else "better"


def percentile(samples: Iterable[float], share: float) -> float:
    """The smallest sample that is not below that share of all of them (nearest rank): p99 is `share=0.99`."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("there is no percentile of nothing: no sample was taken")
    if not 0 < share <= 1:
        raise ValueError(f"share {share!r} must be above 0 and at most 1")
    return ordered[math.ceil(share * len(ordered)) - 1]


def spread(name: str, samples: Sequence[float], *, budget: float | None = None, note: str = "") -> tuple[Figure, ...]:
    """p50 and p99 of durations in seconds; the budget is that of p99."""
    counted = f"{len(samples)} samples" + (f"; {note}" if note else "")
    return (
        Figure(name=f"{name}, p50", value=percentile(samples, 0.5), unit="s"),
        Figure(name=f"{name}, p99", value=percentile(samples, 0.99), unit="s", budget=budget, note=counted),
    )


def compare(old: Iterable[Figure], new: Iterable[Figure]) -> tuple[Comparison, ...]:
    """The figures that both runs have, in the order of the new one."""
    before = {figure.name: figure for figure in old}
    return tuple(
        Comparison(name=figure.name, unit=figure.unit, old=before[figure.name].value, new=figure.value)
        for figure in new
        if figure.name in before and before[figure.name].unit == figure.unit
    )


def to_json(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """As stored in `bench-<date>.json`."""
    return [{**asdict(figure), "verdict": figure.verdict} for figure in figures]


def from_json(stored: Iterable[Mapping[str, Any]]) -> tuple[Figure, ...]:
    """What `to_json` made."""
    return tuple(Figure(**{name: value for name, value in one.items() if name != "verdict"}) for one in stored)
