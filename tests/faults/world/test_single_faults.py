"""One thing breaks at one call: a provider, a machine, its disk, its clock, the operator's store.

Of all pairs of a call of a story and something that can break there every second in `make faults` (of clocks every
fourth), each day a few.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.faults.world.judging import Found, cases, tell
from tests.faults.world.stories import STORIES, Story
from tests.faults.world.strikes import CLOCKS, FAULTS, Fault
from tests.support.seeds import ALL
from tests.sweep import scenarios

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # hundreds of whole stories in one test

Record = Callable[[str, object], None]
EVERY = 2 if ALL else 151
"""Of the cases of a story, every n-th is told."""
EVERY_CLOCK = 4 if ALL else 151
LATE = 30.0
"""Seconds that lists are late."""


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_whatever_breaks_the_story_ends_well(story: Story, record_property: Record) -> None:
    _all_well(story, FAULTS, EVERY, record_property)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_whenever_our_clock_is_set_the_story_ends_well(story: Story, record_property: Record) -> None:
    _all_well(story, CLOCKS, EVERY_CLOCK, record_property)


@pytest.mark.parametrize("story", [scenarios.provision, scenarios.delete], ids=lambda story: story.__name__)
def test_lists_that_are_late_hide_no_server_and_invent_none(story: Story, record_property: Record) -> None:
    at_provider = [fault for fault in FAULTS if fault.name in ("reply lost", "request lost", "answers 500")]
    _all_well(story, at_provider, 1 if ALL else 19, record_property, settles_after=LATE)


def _all_well(
    story: Story, faults: tuple[Fault, ...] | list[Fault], every: int, record: Record, **options: float
) -> None:
    found, count = [], 0
    for number, fault in list(cases(story, tuple(faults), **options))[::every]:
        count += 1
        try:
            tell(story, {number: fault}, **options)
        except Found as error:
            found.append(str(error))
    record("points", count)
    assert count, "nothing could break: does the story call world.begin()?"
    assert not found, f"{len(found)} of {count}: " + "\n".join(found[:5])
