"""A day of people, storms and dying machines over the whole operator: nothing is forgotten, and nothing stays behind.

In virtual time, on the API in memory. `python -m bench --only day` tells the long one, 24 hours with 1,000 objects.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bench.day.story import growth, leaks, tell
from tests.support.seeds import ALL, seeded

HOURS, OBJECTS = (12, 60) if ALL else (1, 30)


@pytest.mark.long
@pytest.mark.timeout(600)
@seeded(daily=1, all=5)
def test_after_a_day_all_is_as_it_should_be_and_nothing_is_left_of_what_is_gone(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    day = tell(hours=HOURS, population=OBJECTS, seed=seed, resync="10m")
    record_property("points", day.told["met"].total() + day.told["did"].total())
    assert not day.complaints, "\n".join(day.complaints)
    assert not leaks(day)
    if len(day.hours) >= 12:
        assert growth(day, lambda hour: hour.kept.total()) < 1.25
