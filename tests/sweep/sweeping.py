"""Runs a story with processes that die at given points, and counts the points there are. Used by the tests here."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.sweep.mortal import Life
from tests.sweep.oracles import judge
from tests.sweep.scenarios import Story
from tests.sweep.virtual import live
from tests.sweep.world import SweepWorld, inhabited

from agentmetal.app import Parts


class Found(AssertionError):
    """A story that does not end as it must, and where the processes died in it."""


def tell(
    story: Story, deaths: Sequence[int] = (), parts: Parts = Parts(), world_is: type[SweepWorld] = SweepWorld
) -> list[list[str]]:
    """Live through a story and judge it; the points that each process passed. Raises Found."""

    async def told() -> list[list[str]]:
        # The first process counts from where the story says; its successors from their start.
        lives = [Life(death, armed=number > 0) for number, death in enumerate((*deaths, 0))]
        try:
            async with inhabited(lives, world_is, parts=parts) as world:
                end = await story(world)
                await asyncio.sleep(1.0)  # what was under way when all was quiet comes to its end
            await judge(world, end)
        except (AssertionError, Exception) as error:
            raise Found(_where(story, lives, error)) from error
        return [life.points for life in lives]

    return live(told)


def _where(story: Story, lives: Sequence[Life], error: BaseException) -> str:
    deaths = [f"{len(life.points)}: {life.points[-1]}" for life in lives if life.died.is_set() and life.points]
    return (
        f"{story.__name__}, died at {deaths or 'no point'}: {''.join(traceback.format_exception_only(error)).strip()}"
    )


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep came to."""

    points: int
    found: tuple[str, ...]


Crew = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""Does the same work for each order, like `map`."""


def sweep(
    story: Story,
    parts: Parts = Parts(),
    *,
    every: int = 1,
    stop_at_first: bool = False,
    crew: Crew = map,
    world_is: type[SweepWorld] = SweepWorld,
) -> Swept:
    """Die once at every point of the story (or at every n-th)."""
    try:
        points = len(tell(story, (), parts, world_is)[0])
    except Found as error:
        return Swept(points=1, found=(str(error),))
    died, found = range(1, points + 1, every), []
    for one in crew(partial(complaint, story, parts, world_is=world_is), [(point,) for point in died]):
        found += [one] if one else []
        if found and stop_at_first:
            break
    return Swept(points=len(died), found=tuple(found))


def sweep_twice(story: Story, *, first: int, second: int, crew: Crew = map) -> Swept:
    """Die at every `first`-th point, and the successor again at every `second`-th of its own, from its very start."""
    points, died = len(tell(story)[0]), []
    for one in range(1, points + 1, first):
        died += [(one, two) for two in range(1 + one % second, len(tell(story, (one,))[1]) + 1, second)]
    complaints = crew(partial(complaint, story, Parts()), died)
    return Swept(points=len(died), found=tuple(one for one in complaints if one))


def complaint(story: Story, parts: Parts, deaths: Sequence[int], world_is: type[SweepWorld] = SweepWorld) -> str:
    """What is wrong when processes die at these points; empty when nothing is."""
    try:
        tell(story, deaths, parts, world_is)
    except Found as error:
        return str(error)
    return ""
