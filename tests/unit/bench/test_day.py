"""How a simulated day is read: growth from one third to the next, in the hours that can be counted."""

from __future__ import annotations

from collections import Counter

import pytest
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
