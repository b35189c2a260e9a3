"""The figures of a run are on disk as soon as a part has ended, in the order in which the table shows them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from bench import report
from bench.figures import Figure
from bench.sheet import Sheet

FIRST, SECOND = Figure(name="first", value=1.0, unit="s"), Figure(name="second", value=2.0, unit="s")


def sheet(tmp_path: Path) -> Sheet:
    return Sheet(path=tmp_path / "run.json", at=datetime(2026, 11, 21, tzinfo=UTC), objects=10, say=lambda line: None)


async def gives(*figures: Figure) -> Iterable[Figure]:
    return figures


async def fails() -> Iterable[Figure]:
    raise RuntimeError("the API server has ended")


async def test_a_part_is_on_disk_when_it_has_ended(tmp_path: Path) -> None:
    made = sheet(tmp_path)
    await made.attempt("burst", gives(FIRST))
    assert report.load(made.path) == (FIRST,)

    await made.attempt("day", gives(SECOND))
    assert report.load(made.path) == (FIRST, SECOND)


async def test_a_part_that_fails_is_a_missed_line_and_leaves_the_others(tmp_path: Path) -> None:
    made = sheet(tmp_path)
    await made.attempt("burst", gives(FIRST))
    await made.attempt("leaks", fails())
    await made.attempt("changes", fails(), what="10 changes/s, operator")
    await made.attempt("day", gives(SECOND))

    first, leaks, changes, second = report.load(made.path)
    assert (first, second) == (FIRST, SECOND)
    assert (leaks.name, leaks.verdict) == ("leaks: not measured", "MISSED")
    assert "the API server has ended" in leaks.note
    assert changes.name == "10 changes/s, operator: not measured"


def test_the_table_is_in_the_order_that_was_expected(tmp_path: Path) -> None:
    made = sheet(tmp_path)
    made.expect("burst", "changes")
    made.add("changes", [SECOND])
    made.add("burst", [FIRST])
    assert made.figures == (FIRST, SECOND)
