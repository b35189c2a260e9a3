"""What a run looks like: a table for people, JSON for the next run to compare with. Decides nothing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Comparison, Figure, from_json, to_json

BASELINE = Path(__file__).parent / "baseline.json"
DOCS = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- table: python -m bench --write-docs -->", "<!-- end of table -->"


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
    table = Table("what", f"in {old.name}", "now", "now / then", "")
    colours = {"worse": "red", "better": "green", "same": ""}
    for one in comparisons:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        table.add_row(
            one.name, number(one.old, one.unit), number(one.new, one.unit), ratio, one.change, style=colours[one.change]
        )
    Console(width=None if os.isatty(1) else 160).print(table)


def document(figures: Iterable[Figure], *, at: datetime, objects: int) -> dict[str, Any]:
    """One run, as it is kept."""
    return {"at": at.isoformat(), "objects": objects, "machine": machine(), "figures": to_json(figures)}


def save(path: Path, run: Mapping[str, Any]) -> None:
    """Keep one run."""
    path.write_text(json.dumps(run, indent=2) + "\n")


def markdown(figures: Iterable[Figure], run: Mapping[str, Any]) -> str:
    """The table of docs/performance.md, with when and on what it was measured."""
    machine = run["machine"]
    rows = [
        f"{run['at'][:10]}, {machine['cpus']} CPUs, {machine['memoryGiB']:g} GiB, Linux {machine['kernel']},"
        f" Python {machine['python']}; load {machine['load'][0]:g} at the end,"
        f" {machine['stolen']:.0%} of the CPU time taken by other tenants of the host since it booted.",
        "",
        "| what | measured | budget | | remarks |",
        "|---|---|---|---|---|",
    ]
    for figure in figures:
        budget = "" if figure.budget is None else f"≤ {number(figure.budget, figure.unit)}"
        measured = number(figure.value, figure.unit)
        rows.append(f"| {figure.name} | {measured} | {budget} | {figure.verdict} | {figure.note} |")
    return "\n".join(rows)


def write_docs(figures: Iterable[Figure], run: Mapping[str, Any], page: Path = DOCS) -> None:
    """Put the table between the marks of the page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{markdown(figures, run)}\n{END}{after}")


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
        "stolen": round(stolen(), 3),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def stolen() -> float:
    """Part of the CPU time since boot that went to other tenants of the host."""
    times = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return times[7] / sum(times)
