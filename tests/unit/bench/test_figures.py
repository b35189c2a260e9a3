"""Percentiles, verdicts and comparisons of the benchmark."""

from __future__ import annotations

import json

import pytest
from bench.figures import Figure, compare, from_json, percentile, spread, to_json


@pytest.mark.parametrize(
    ("samples", "share", "expected", "why"),
    [
        ([7.0], 0.5, 7.0, "one sample is every percentile"),
        ([3.0, 1.0, 2.0], 0.5, 2.0, "the order of the samples does not matter"),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0, "a measured value, never one in between"),
        ([float(n) for n in range(1, 101)], 0.99, 99.0, "one of a hundred may be slower"),
        ([float(n) for n in range(1, 51)], 0.99, 50.0, "of fewer than a hundred the slowest counts"),
        ([1.0, 2.0], 1.0, 2.0, "all of them: the slowest"),
    ],
)
def test_percentile_is_the_smallest_sample_that_covers_the_share(
    samples: list[float], share: float, expected: float, why: str
) -> None:
    assert percentile(samples, share) == expected, why


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample was taken"):
        percentile([], 0.5)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, 99.0])
def test_percentile_refuses_what_is_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        percentile([1.0], share)


@pytest.mark.parametrize(
    ("value", "budget", "expected"), [(1.0, None, ""), (1.0, 1.0, "ok"), (1.01, 1.0, "MISSED"), (0.0, 0, "ok")]
)
def test_verdict_is_missed_only_above_the_budget(value: float, budget: float | None, expected: str) -> None:
    assert Figure(name="x", value=value, unit="s", budget=budget).verdict == expected


def test_spread_holds_the_budget_against_p99_only() -> None:
    p50, p99 = spread("approve", [0.1] * 98 + [2.0, 3.0], budget=1.0)

    assert (p50.value, p50.verdict) == (0.1, "")
    assert (p99.value, p99.verdict, p99.note) == (2.0, "MISSED", "100 samples")


def test_figures_survive_their_file() -> None:
    figures = (Figure(name="a", value=1.5, unit="x", budget=1.0, note="n"), Figure(name="b", value=2.0, unit="s"))

    assert from_json(json.loads(json.dumps(to_json(figures)))) == figures


def test_comparison_leaves_out_what_only_one_run_has_or_counts_otherwise() -> None:
    old = [Figure(name="a", value=2.0, unit="s"), Figure(name="gone", value=1.0, unit="s"),
           Figure(name="b", value=1.0, unit="s")]  # fmt: skip
    new = [Figure(name="new", value=1.0, unit="s"), Figure(name="b", value=1.0, unit="ms"),
           Figure(name="a", value=3.0, unit="s")]  # fmt: skip

    (only,) = compare(old, new)

    assert (only.name, only.old, only.new, only.ratio) == ("a", 2.0, 3.0, 1.5)


def test_comparison_with_nothing_has_no_ratio() -> None:
    (zero,) = compare([Figure(name="w", value=0, unit="")], [Figure(name="w", value=3, unit="")])

    assert zero.ratio is None


@pytest.mark.parametrize(
    ("old", "new", "unit", "expected", "why"),
    [
        (1.0, 1.2, "x", "same", "within what two runs differ by"),
        (1.0, 1.3, "x", "worse", "beyond it"),
        (1.0, 0.7, "x", "better", "smaller is better"),
        (0.0, 0.015, "s", "same", "a few milliseconds mean nothing"),
        (0.0, 0.05, "s", "worse", "out of nothing"),
        (6.0, 6.2, "", "worse", "a count does not depend on the machine"),
        (6.0, 6.0, "", "same", "the same count"),
    ],
)
def test_a_change_is_told_from_what_two_runs_differ_by(
    old: float, new: float, unit: str, expected: str, why: str
) -> None:
    (one,) = compare([Figure(name="a", value=old, unit=unit)], [Figure(name="a", value=new, unit=unit)])
    assert one.change == expected, why
