"""Wherever the leader dies, whoever stood by ends the story, with what its watch had told it by then."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.seeds import ALL
from tests.sweep.scenarios import STORIES, Story
from tests.sweep.standby import Late, Prompt
from tests.sweep.sweeping import Crew, sweep

Record = Callable[[str, object], None]
EVERY = 1 if ALL else 9
"""The sweep beside this one dies at each point; a standby differs from a new process by what it knows, so fewer do."""


@pytest.mark.parametrize("world", [Prompt, Late], ids=lambda world: world.__name__.lower())
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_whoever_stood_by_ends_the_story(
    story: Story, world: type[Prompt], crew: Crew, record_property: Record
) -> None:
    swept = sweep(story, every=EVERY, crew=crew, world_is=world)
    record_property("points", swept.points)
    assert swept.points > 2, "the story has no points: does it call world.begin()?"
    assert not swept.found, f"{len(swept.found)} of {swept.points}: " + "\n".join(swept.found[:5])
