"""One request to the API server fails, is lost, hangs, is done late, or meets a foreign writer: each, in every story.

Every day a few of the calls, another one for each kind of fault; in `make faults` all of them. Faults that last begin
at every second or third call there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.faults.view.lying import Fault
from tests.faults.view.single import complaint, meet, troubles
from tests.support.seeds import ALL, everything
from tests.sweep.scenarios import STORIES, Story, change_image, delete, heal, heal_in_dying_namespace, provision

pytestmark = pytest.mark.long

Record = Callable[[str, object], None]
TOLD = tuple(story for story in STORIES if story not in (heal, heal_in_dying_namespace))
"""Those two want to see in status what passes within a second: a fault may hide it, rightly."""
DAILY = (provision, change_image, delete)
LASTS = 30.0


def _sweep(story: Story, every: int, lasts: float, record_property: Record) -> None:
    usual = len(meet(story))
    assert usual > 5, "the story makes no calls: does it call world.begin()?"
    met = troubles(story, Fault, every=every, lasts=lasts)
    record_property("points", len(met))
    assert met, "nothing could fail"
    found = [one for trouble in met if (one := complaint(story, trouble, usual=usual))]
    assert not found, f"{len(found)} of {len(met)}: " + "\n".join(found[:5])


@pytest.mark.parametrize("story", TOLD if ALL else DAILY, ids=lambda story: story.__name__)
def test_one_fault_at_any_call_changes_nothing(story: Story, record_property: Record) -> None:
    _sweep(story, 1 if ALL else 9, 0.0, record_property)


@pytest.mark.parametrize("story", TOLD if ALL else DAILY, ids=lambda story: story.__name__)
def test_a_fault_that_lasts_is_outlasted_without_haste(story: Story, record_property: Record) -> None:
    _sweep(story, 2 if ALL else 12, LASTS, record_property)


@everything
@pytest.mark.parametrize("story", DAILY, ids=lambda story: story.__name__)
def test_nor_does_a_fault_of_two_minutes(story: Story, record_property: Record) -> None:
    _sweep(story, 3, 120.0, record_property)
