"""What a run looks like: a table for people, JSON for the next run to compare with. Decides nothing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Comparison, Figure, from_json, to_json


def number(value: float, unit: str) -> str:
    """Three digits that count, and the unit."""
    if unit == "":
        text = f"{value:.2f}".rstrip("0").rstrip(".")
    elif unit == "s":
        text = f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
    else:
        text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return f"{text} {unit}".strip()


def show(figures: Iterable[Figure]) -> None:
    """The table."""
    table = Table("what", "measured", "budget", "", "remarks")
    for figure in figures:
        budget = "" if figure.budget is None else f"≤ {number(figure.budget, figure.unit)}"
        style = "red" if figure.verdict == "MISSED" else ""
        measured = number(figure.value, figure.unit)
        table.add_row(figure.name, measured, budget, figure.verdict, figure.note, style=style)
    Console(width=None if os.isatty(1) else 160).print(table)


def show_comparison(comparisons: Iterable[Comparison], old: Path) -> None:
    """Then and now."""
    table = Table("what", f"in {old.name}", "now", "now / then")
    for one in comparisons:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        table.add_row(one.name, number(one.old, one.unit), number(one.new, one.unit), ratio)
    Console(width=None if os.isatty(1) else 160).print(table)


def save(path: Path, figures: Iterable[Figure], *, at: datetime, objects: int) -> None:
    """One run."""
    document = {"at": at.isoformat(), "objects": objects, "machine": machine(), "figures": to_json(figures)}
    path.write_text(json.dumps(document, indent=2) + "\n")


def load(path: Path) -> tuple[Figure, ...]:
    """The figures of an earlier run."""
    document: dict[str, Any] = json.loads(path.read_text())
    return from_json(document["figures"])


def machine() -> dict[str, Any]:
    """What it ran on, and what else that machine was doing."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memoryGiB": round(memory / 2**30, 1),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
