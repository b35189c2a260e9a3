"""The core promise: wherever the operator dies, the next one ends the story as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.sweep.scenarios import (
    STORIES,
    Story,
    change_image,
    delete,
    first_boot,
    heal_in_dying_namespace,
    rotate_key,
)
from tests.sweep.sweeping import Crew, Swept, sweep, sweep_twice

Record = Callable[[str, object], None]
STRIDES: dict[Story, int] = {first_boot: 2, heal_in_dying_namespace: 3, rotate_key: 2}
"""Stories that take long die at every n-th point only."""


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_crash_at_any_point_changes_nothing(story: Story, crew: Crew, record_property: Record) -> None:
    _all_well(story, sweep(story, every=STRIDES.get(story, 1), crew=crew), record_property)


@pytest.mark.parametrize("story", [change_image, delete], ids=lambda story: story.__name__)
def test_a_second_crash_changes_nothing_either(story: Story, crew: Crew, record_property: Record) -> None:
    _all_well(story, sweep_twice(story, first=9, second=11, crew=crew), record_property)


def _all_well(story: Story, swept: Swept, record_property: Record) -> None:
    record_property("points", swept.points)
    print(f"{story.__name__}: {swept.points} points")  # noqa: T201 - shown by `pytest -s` and when it fails
    assert swept.points > 10, "the story has no points: does it call world.begin()?"
    assert not swept.found, f"{len(swept.found)} of {swept.points}: " + "\n".join(swept.found[:5])
