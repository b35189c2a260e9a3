"""No order of what people do, and no crash or restore in it, lets a Dangerous step run that must not."""

from __future__ import annotations

import pytest
from tests.sweep.decisions import ACTIONS, explore, go
from tests.sweep.sweeping import Crew

DEPTH = 3
"""Actions after the box was made and changed: with those two, sequences of five."""


def test_no_order_of_decisions_lets_a_forbidden_step_run(crew: Crew) -> None:
    gone, broken = explore(DEPTH, crew=crew)
    print(f"{gone} sequences of {len(ACTIONS)} actions")  # noqa: T201 - shown by `pytest -s` and when it fails
    assert gone > 500, "situations look equal that are not"
    assert not broken, "\n".join(f"{what} <- {where}" for what, where in broken.items())


@pytest.mark.parametrize("beginning", [("approve-paused",), ("approve", "blind")], ids=" ".join)
def test_nor_from_situations_that_lie_deeper(beginning: tuple[str, ...], crew: Crew) -> None:
    gone, broken = explore(2, beginning=beginning, crew=crew)
    assert gone > 50, "situations look equal that are not"
    assert not broken, "\n".join(f"{what} <- {where}" for what, where in broken.items())


def test_the_exploration_sees_plans_run() -> None:
    assert go(()).acted == ()
    assert go(("approve", "wait")).acted == (
        "empty_box",
        "fill_box",
    )
    assert go(("delete", "approve", "wait")).acted == ("scrap_box",)
    assert go(("policy", "wait")).acted == (
        "empty_box",
        "fill_box",
    )
