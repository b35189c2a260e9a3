"""Tests of two sorts, shared by processes: real ones by the file, the others one at a time, long ones first."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest
from tests.run import Tier, run_tier

TIER = Tier(name="faults", directories=("faults",), budget=60, workers=2, share="sorts")
REAL, LONG = "needs_control_plane", "long"
TESTS = """
from pathlib import Path

import pytest

pytestmark = [{marks}]

@pytest.mark.parametrize("number", range({count}))
def test_it(number, worker_id):
    with Path({told!r}).open("a") as file:
        file.write(f"{{worker_id}} {{Path(__file__).stem}}\\n")
    {meet}
"""
MET = """
    if worker_id == "gw0" and number > 4 and not met:
        met.append(Path({meeting!r}).read_text())

met = []
"""
MEET = """
    if number == 2:
        Path({meeting!r}).write_text("met")
"""
"""A test of gw0 and one of the last real file wait for each other."""


def tell(directory: Path, **files: tuple[tuple[str, ...], int, str]) -> list[tuple[str, str]]:
    """Run these files (marks, tests, how they meet others); process and file of each test, in their order."""
    (directory / "faults").mkdir()
    meeting = directory / "meeting"
    os.mkfifo(meeting)
    for name, (marks, count, meet) in files.items():
        said, met = ", ".join(f"pytest.mark.{mark}" for mark in marks), meet.format(meeting=str(meeting))
        text = TESTS.format(marks=said, count=count, told=str(directory / "told"), meet=met.strip())
        (directory / "faults" / f"test_{name}.py").write_text(text)
    result = run_tier(TIER, 10, directory)
    assert (result.passed, result.counted_failures) == (sum(count for _, count, _ in files.values()), 0)
    lines = (directory / "told").read_text().splitlines()
    return [(worker, file.removeprefix("test_")) for worker, file in (line.split() for line in lines)]


@pytest.mark.timeout(300)  # three processes of pytest
def test_real_tests_go_by_the_file_others_one_at_a_time_and_long_ones_first(tmp_path: Path) -> None:
    told = tell(
        tmp_path,
        a=((REAL,), 3, "pass"),
        memory=((), 40, MET),  # the others come after the last real one
        quick=((REAL,), 3, MEET),
        z=((REAL, LONG), 3, "pass"),
    )
    workers, firsts = defaultdict(set), dict(reversed(told))
    for worker, file in told:
        workers[file].add(worker)
    assert firsts == {"gw0": "memory", "gw1": "z"}
    assert all(len(workers[file]) == 1 for file in ("a", "quick", "z"))
    assert workers["memory"] == {"gw0", "gw1"}, "who has nothing left of its own sort helps"
