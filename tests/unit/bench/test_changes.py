"""What counts as reconciled, and what the pieces of a burst say."""

from __future__ import annotations

from typing import Any

import pytest
from bench.burst import Burst
from bench.changes import Changes, Load, figures
from bench.processes import parse_passes
from bench.scale import LADDER, Sizes, loads


def state(name: str, observed: int) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"observedGeneration": observed}}


def test_a_change_is_reconciled_when_status_speaks_of_its_generation_or_a_later_one() -> None:
    changes = Changes(sent={("a", 2): 10.0, ("a", 3): 11.0, ("b", 2): 12.0})
    changes.see(state("a", 1))
    changes.see(state("b", 1))
    assert (changes.missing(), changes.taken()) == (3, [])

    changes.see(state("a", 3))

    assert changes.missing() == 1
    early, late = changes.taken()
    assert early - late == pytest.approx(1.0)


def test_an_object_without_status_is_not_reconciled() -> None:
    changes = Changes(sent={("a", 1): 10.0})
    changes.see({"metadata": {"name": "a"}})
    assert changes.missing() == 1


def test_the_ladder_ends_with_what_the_budget_is_for() -> None:
    *lower, full = loads(Sizes(rate=100.0, seconds=30.0))

    assert [load.rate for load in lower] == list(LADDER)
    assert all(load.rung and load.seconds == 15.0 for load in lower)
    assert full == Load(rate=100.0, seconds=30.0)


def test_a_rung_above_the_full_rate_is_left_out() -> None:
    assert [load.rate for load in loads(Sizes(rate=25.0, seconds=30.0))] == [10.0, 25.0]


@pytest.mark.parametrize(
    ("load", "who", "verdicts"),
    [
        (Load(rate=100, seconds=1), "operator", {"MISSED"}),
        (Load(rate=100, seconds=1), "client-go", set()),
        (Load(rate=100, seconds=1, with_plans=True), "operator", set()),
        (Load(rate=10, seconds=1, rung=True), "operator", set()),
    ],
    ids=["the operator's plain load", "a rival's", "with plans", "a rung"],
)
def test_budgets_hold_for_the_operators_plain_load_only(load: Load, who: str, verdicts: set[str]) -> None:
    changes = Changes(sent={("a", 2): 10.0}, seen={"a": {2: 20.0}}, patches=[9.0], late=[0.0])
    found = figures(who, load, changes, cores=1.0, api_cores=1.0)
    assert {figure.verdict for figure in found} - {""} == verdicts
    assert all(figure.name.startswith(f"{load}, {who}: ") for figure in found)


def test_pieces_of_a_burst_are_milliseconds_per_object_of_each_fifth() -> None:
    steady = Burst(finals=[0.5 * number for number in range(1, 11)], cpu=0, api_cpu=0)
    assert steady.pieces() == pytest.approx([500.0] * 5)

    slowing = Burst(finals=[1.0, 2.0, 3.0, 4.0, 8.0], cpu=0, api_cpu=0)
    assert slowing.pieces() == pytest.approx([1000.0] * 4 + [4000.0])


def test_passes_are_those_over_instances_since_then() -> None:
    def text(fast: int, all: int) -> str:
        name = "controller_runtime_reconcile_time_seconds"
        return (
            f"# TYPE {name} histogram\n"
            f'{name}_bucket{{controller="Instance",le="0.01"}} {fast}\n'
            f'{name}_bucket{{controller="Instance",le="+Inf"}} {all}\n'
            f'{name}_bucket{{controller="Provider",le="0.01"}} 0\n'
            f'{name}_bucket{{controller="Provider",le="+Inf"}} 99\n'
        )

    passes = parse_passes(text(100, 110)).since(parse_passes(text(0, 10)))

    assert passes.percentile(0.95) == 0.01
    with pytest.raises(ValueError, match="no pass was made"):
        parse_passes(text(1, 1)).since(parse_passes(text(1, 1))).percentile(0.5)
