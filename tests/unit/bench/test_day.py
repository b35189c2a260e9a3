"""How a simulated day is read: growth from one third to the next, and what a step may become."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from bench.day.diary import Diary
from bench.day.story import Day, Hour, growth


def hour(kept: int) -> Hour:
    return Hour(kept=Counter({"Cache._entries": kept} if kept else {}), objects=Counter(), tasks=1, files=3, rss_mb=1.0)


def told(*kept: int) -> float:
    return growth(Day(before=hour(1), hours=[hour(count) for count in kept]), lambda one: one.kept.total())


def test_growth_is_the_last_third_over_the_second() -> None:
    assert told(1, 1, 10, 10, 15, 15) == pytest.approx(1.5)


def test_the_first_third_warms_up() -> None:
    assert told(1, 10, 10) == pytest.approx(1.0)


def test_an_hour_at_whose_end_nobody_led_says_nothing() -> None:
    assert told(1, 0, 10, 0, 15) == pytest.approx(1.5)


def test_a_day_without_thirds_is_refused() -> None:
    with pytest.raises(ValueError, match="no thirds"):
        told(10, 0, 10)


def operation(state: str, message: str = "") -> dict[str, Any]:
    steps = [{"tool": "power_on", "state": state, "attempt": 1}]
    spec = {"digest": "d", "risk": "Moderate", "resourceRef": {"uid": "u"}, "steps": steps}
    return {"spec": spec, "status": {"phase": "Running", "message": message, "steps": steps}}


@pytest.mark.parametrize(
    ("message", "complaints"),
    [("step 1/1 did not begin: it is asked for again", 0), ("", 1)],
    ids=["the operator says so", "without a word"],
)
def test_a_step_may_be_taken_back_only_in_so_many_words(message: str, complaints: int) -> None:
    diary = Diary(now=lambda: 0.0, leaves_after=lambda tool: True)
    diary.operation("op-1", {**operation("Pending"), "status": {**operation("Pending")["status"], "phase": "Pending"}})
    diary.operation("op-1", operation("Running"))
    diary.operation("op-1", operation("Pending", message))
    assert len(diary.complaints) == complaints
