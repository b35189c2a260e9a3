"""`make faults`: the sweeps and the faults in full, then a table of what was broken and how it went.

`make test` runs the bounded part of the same tests. The table has a line for each file of tests, described by the first
sentence of the file; docs/reliability.md shows the last one. Exit code 1 when a test failed.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.run import ROOT, Result, Tier, run_tier, summary

TIERS = (
    Tier(name="sweep", directories=("sweep",), budget=360, workers=2, share="worksteal"),
    Tier(name="faults", directories=("faults",), budget=1800, workers=3, share="sorts"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What became of one file of tests."""

    what: str
    file: str
    cases: int
    """Tests; a test that tells many stories counts each, by its property `points`."""
    failed: int
    seconds: float


def lines(report: Path, root: Path = ROOT) -> Iterator[Line]:
    """A line for each file in a report of pytest."""
    if not report.exists():
        return
    by_file: dict[str, list[ElementTree.Element]] = defaultdict(list)
    # Our own pytest wrote the file a moment ago.
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 - not from strangers
        by_file[_file(case, root)].append(case)
    for file, cases in sorted(by_file.items()):
        ran = [case for case in cases if case.find("skipped") is None]
        yield Line(
            what=_first_sentence(root / file),
            file=file,
            cases=sum(map(_points, ran)),
            failed=sum(case.find("failure") is not None or case.find("error") is not None for case in ran),
            seconds=sum(float(case.get("time", 0)) for case in ran),
        )


def tables(report: Path) -> Iterator[str]:
    """What tests measured and want shown: their properties `table`, Markdown each."""
    if report.exists():
        for kept in ElementTree.parse(report).getroot().iter("property"):  # noqa: S314 - not from strangers
            if kept.get("name") == "table":
                yield kept.get("value", "")


def table(found: Iterable[Line]) -> str:
    """Markdown, for people and for docs/reliability.md."""
    rows = [
        f"| {line.what} | `{line.file}` | {line.cases:,} | {line.failed or 'none'} | {line.seconds:.0f} |"
        for line in found
    ]
    return "\n".join(["| what was broken | where | cases | failed | seconds |", "|---|---|---|---|---|", *rows])


def _file(case: ElementTree.Element, root: Path) -> str:
    """`tests.faults.test_crashes` as the file that it is; a class in it belongs to the file."""
    parts = (case.get("classname") or "").split(".")
    while parts and not root.joinpath(*parts).with_suffix(".py").is_file():
        parts.pop()
    return str(Path(*parts).with_suffix(".py")) if parts else str(case.get("name"))


def _first_sentence(file: Path) -> str:
    if not file.is_file():
        return file.name
    text = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or file.stem).split("\n\n")[0]
    return " ".join(text.split()).removesuffix(".").replace("|", "/")


def _points(case: ElementTree.Element) -> int:
    points = [p.get("value", "1") for p in case.iter("property") if p.get("name") == "points"]
    return sum(map(int, points)) or 1


def main(tiers: Sequence[Tier] = TIERS) -> int:
    """Break everything; the exit code says whether all went well."""
    os.environ["FAULTS"] = "all"
    scale = float(os.environ.get("TEST_BUDGET_SCALE", "1"))
    results: list[Result] = []
    found, measured = list[Line](), list[str]()
    with tempfile.TemporaryDirectory(prefix="agentmetal-faults-") as scratch:
        for tier in tiers:
            report = Path(scratch, f"{tier.name}.xml")
            sys.stdout.write(f"\n== {tier.name}, all of it\n")
            sys.stdout.flush()
            results.append(run_tier(tier, scale, keep=report))
            found += lines(report)
            measured += tables(report)
    sys.stdout.write("\n" + "\n\n".join([table(found), *measured, summary(results)]) + "\n")
    return 1 if any(result.counted_failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
