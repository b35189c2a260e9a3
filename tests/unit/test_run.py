"""The runner of all tests: it counts what ran, and time is part of the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.run import Result, Tier, complaint_about, run_tier, summary

TIER = Tier(name="unit", directories=("unit",), budget=60)
TESTS = """
import pytest

def test_a():
    assert 1 + 1 == 2

def test_b():
    assert 1 + 1 == 3

@pytest.mark.skip(reason="no")
def test_c():
    raise AssertionError

@pytest.fixture
def leaves_a_mess():
    yield
    raise AssertionError

def test_d(leaves_a_mess):
    assert True is not False
"""


def test_passed_failed_and_skipped_tests_are_counted(tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "test_it.py").write_text(TESTS)
    (tmp_path / "unit" / "test_other.py").write_text("def test_e():\n    assert 1 + 1 == 2\n")
    result = run_tier(TIER, 10, tmp_path)
    assert (result.passed, result.failed, result.skipped, result.complaint) == (2, 2, 1, "")


def test_file_that_cannot_be_imported_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "test_it.py").write_text("import nothing_of_that_name\n")
    result = run_tier(TIER, 10, tmp_path)
    assert (result.passed, result.counted_failures) == (0, 1)


def test_tier_over_its_budget_fails_though_its_tests_pass() -> None:
    assert "took 61 s; its budget is 60 s" in complaint_about(TIER, 0, 0, 61, 60)


def test_tier_in_time_has_no_complaint_whatever_its_tests_say() -> None:
    assert complaint_about(TIER, 0, 0, 59, 60) == ""
    assert complaint_about(TIER, 1, 7, 59, 60) == ""


def test_tier_that_had_to_be_stopped_fails() -> None:
    assert "something hangs" in complaint_about(TIER, None, 0, 120, 60)


def test_pytest_that_breaks_without_a_failing_test_fails() -> None:
    assert "exit code 3" in complaint_about(TIER, 3, 0, 1, 60)


def test_tier_without_tests_is_shown_as_such(tmp_path: Path) -> None:
    result = run_tier(TIER, 1, tmp_path)
    assert (result.passed, result.counted_failures) == (0, 0)
    assert "unit                 0       0" in summary([result])


@pytest.mark.parametrize(("complaint", "last"), [("", "3 passed, 2 failed"), ("It hangs.", "3 passed, 3 failed")])
def test_last_line_is_for_machines(complaint: str, last: str) -> None:
    result = Result(tier=TIER, passed=3, failed=2, skipped=0, seconds=1, budget=60, complaint=complaint)
    assert summary([result]).splitlines()[-1] == last
