"""Tests of two sorts, shared by processes: real ones by the file, the others one at a time, long ones first."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from tests.run import Tier, run_tier

TIER = Tier(name="faults", directories=("faults",), budget=60, workers=2, share="sorts")
REAL, LONG = "needs_control_plane", "long"
TESTS = """
import time
from pathlib import Path

import pytest

pytestmark = [{marks}]

@pytest.mark.parametrize("number", range({count}))
def test_it(number, worker_id):
    with Path({told!r}).open("a") as file:
        file.write(f"{{worker_id}} {{Path(__file__).stem}}\\n")
    time.sleep({seconds})
"""


def tell(directory: Path, **files: tuple[tuple[str, ...], int, float]) -> list[tuple[str, str]]:
    """Run these files (marks, tests, seconds of each); process and file of each test, in their order."""
    (directory / "faults").mkdir()
    for name, (marks, count, seconds) in files.items():
        said = ", ".join(f"pytest.mark.{mark}" for mark in marks)
        text = TESTS.format(marks=said, count=count, told=str(directory / "told"), seconds=seconds)
        (directory / "faults" / f"test_{name}.py").write_text(text)
    result = run_tier(TIER, 10, directory)
    assert (result.passed, result.counted_failures) == (sum(count for _, count, _ in files.values()), 0)
    lines = (directory / "told").read_text().splitlines()
    return [(worker, file.removeprefix("test_")) for worker, file in (line.split() for line in lines)]


@pytest.mark.timeout(300)  # three processes of pytest
def test_real_tests_go_by_the_file_others_one_at_a_time_and_long_ones_first(tmp_path: Path) -> None:
    told = tell(
        tmp_path,
        a=((REAL,), 3, 0.02),
        memory=((), 40, 0.05),
        quick=((REAL,), 3, 0.02),
        z=((REAL, LONG), 3, 0.02),
    )
    workers, firsts = defaultdict(set), dict(reversed(told))
    for worker, file in told:
        workers[file].add(worker)
    assert firsts == {"gw0": "memory", "gw1": "z"}
    assert all(len(workers[file]) == 1 for file in ("a", "quick", "z"))
    assert workers["memory"] == {"gw0", "gw1"}, "who has nothing left of its own sort helps"
