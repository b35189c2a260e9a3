"""Bad weather from a seed: which calls fail and what the watch hides, for a while. Used by random stories.

Everything follows from one `Random(seed)`. When it clears up, both tell the truth again.
"""

from __future__ import annotations

import asyncio
from random import Random

from tests.faults.view.lying import READ_FAULTS, Fault
from tests.faults.view.worlds import SeesBadly

ORDINARY = (Fault.CONFLICT, Fault.SLOW_DOWN, Fault.ERROR, Fault.LOST, Fault.HANG, Fault.AFTERWARDS)
LONGEST = 45.0


class Weather:
    """What goes wrong in one story."""

    def __init__(self, random: Random, world: SeesBadly) -> None:
        self._random, self._world = random, world
        self._rate = random.choice((0.0, 0.02, 0.05, 0.15))
        self._lasting = random.choice((0.0, 0.1, 0.5))
        """How many faults meet all calls of that sort for a while."""
        self._lasts: dict[str, tuple[float, Fault]] = {}
        rumours = world.rumours
        rumours.missed, rumours.doubled, rumours.late = (random.choice((0.0, 0.1, 0.4)) for _ in range(3))
        rumours.delay = random.choice((2.0, 30.0, 240.0))
        if random.random() < 0.1:
            rumours.missed = 1.0  # the watch is dead
        rumours.random = random

    def breaks(self) -> None:
        """From now on."""
        self._world.lying.choose = self._choose
        self._world.rumours.armed = True

    def clears_up(self) -> None:
        """Nothing goes wrong any more; what is late still comes."""
        self._world.lying.choose = lambda _what: None
        self._world.rumours.armed = False

    def _choose(self, what: str) -> Fault | None:
        random, now = self._random, asyncio.get_running_loop().time()
        sort = " ".join(what.split(" ")[:2])
        until, fault = self._lasts.get(sort, (0.0, Fault.ERROR))
        if now < until:
            return fault
        if random.random() >= self._rate:
            return None
        fault = random.choice(READ_FAULTS if sort.startswith(("get", "list")) else ORDINARY)
        if random.random() < self._lasting:
            self._lasts[sort] = (now + random.uniform(1.0, LONGEST), fault)
        return fault
