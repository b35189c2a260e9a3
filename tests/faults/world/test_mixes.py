"""Several things break one after the other, by chance, while people pause and the operator dies.

Whole stories as with a single fault; which faults strike where is a function of the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from random import Random

from tests.faults.world.judging import suffered
from tests.faults.world.stories import STORIES
from tests.faults.world.strikes import CLOCKS, FAULTS
from tests.faults.world.weather import Fate, FatefulWorld, Strike
from tests.support.seeds import seeded

from agentmetal.core.errors import NotFound

MOST = 4
"""Faults in one story."""
OFTEN = 0.05
"""Of all calls, so many have one."""


@dataclass(kw_only=True)
class Chance(Fate):
    """Faults strike by chance."""

    dice: Random
    left: int = MOST
    names: list[str] = field(default_factory=list)

    def chosen(self, number: int, label: str) -> Strike | None:
        """The fault for that call."""
        if self.left == 0 or self.dice.random() > OFTEN:
            return None
        self.left -= 1
        fault = self.dice.choice([fault for fault in (*FAULTS, *CLOCKS) if fault.at(label)])
        self.names.append(fault.name)
        return fault.strike


@seeded(daily=8, all=500)
def test_whatever_comes_together_the_story_ends_well(seed: int) -> None:
    dice = Random(seed)  # noqa: S311 - a story by its number
    story = dice.choice(STORIES)
    fate = Chance(dice=Random(seed + 1_000_000))  # noqa: S311 - the same

    async def people(world: FatefulWorld) -> None:
        """The operator dies, somebody pauses for a while, somebody wants it looked at."""
        for _ in range(dice.randint(0, 3)):
            await asyncio.sleep(dice.uniform(0.1, 90.0))
            what = dice.choice(("die", "pause", "look"))
            fate.names.append(what)
            if what == "die":
                world.life.die()
                continue
            with contextlib.suppress(NotFound):
                if what == "look":
                    await world.annotate("web-1", as_=world.erin, reconcile_at=str(dice.random()))
                else:
                    await world.annotate("web-1", as_=world.erin, paused="true")
                    await asyncio.sleep(dice.uniform(1.0, 60.0))
                    await world.annotate("web-1", as_=world.erin, paused=None)

    try:
        suffered(story, fate, f"seed {seed}", company=people)
    except AssertionError as error:
        raise AssertionError(f"{fate.names}: {error}") from error
