"""Random walks of five to ten changes, pauses, deletions and new objects, without waiting for one to settle first."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.faults.mutation.living import SUBJECTS, Living, Subject, living
from tests.faults.mutation.values import mutations, written_kinds
from tests.support.seeds import seeded
from tests.sweep.virtual import live

from agentmetal.core.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound

KINDS = written_kinds()


@pytest.mark.timeout(600)
@seeded(daily=6, all=60)
def test_a_walk_ends_in_a_settled_world(seed: int) -> None:
    live(lambda: _walk(random.Random(seed)))  # noqa: S311 - a story, no secret


async def _walk(dice: random.Random) -> None:
    async with living() as world:
        specs = {subject: world.spec(subject) for subject in SUBJECTS}
        told: list[str] = []
        for _ in range(dice.randint(5, 10)):
            subject = dice.choice(SUBJECTS)
            told.append(await _step(world, dice, subject, specs[subject]))
            await _time_passes(world, dice)
        story = "; ".join(told)
        for subject in SUBJECTS:
            await world.pause(subject, paused=False)
        await world.settle(story)
        await world.judge(story, steps=len(told))
        await _all_as_before(world, specs, story)


async def _step(world: Living, dice: random.Random, subject: Subject, original: dict[str, object]) -> str:
    """One thing that people do; what the API refuses is told, too."""
    kind = dice.choice(("change", "change", "change", "undo", "pause", "resume", "delete", "create"))
    told = f"{kind} {subject}"
    try:
        match kind:
            case "change":
                mutation = dice.choice(list(mutations(KINDS[subject.kind], original)))
                told = f"{told} {mutation}"
                await world.write(subject, mutation.spec)
            case "undo":
                await world.write(subject, original)
            case "pause" | "resume":
                await world.pause(subject, paused=kind == "pause")
            case "delete":
                await world.remove(subject)
            case _:  # create
                await world.create(subject, original)
    except (Invalid, Forbidden, NotFound, AlreadyExists, Conflict) as error:
        return f"{told} ({error.reason})"
    return told


async def _time_passes(world: Living, dice: random.Random) -> None:
    for _ in range(dice.choice((0, 1, 5, 40))):
        if dice.random() < 0.7:
            await world.decide()
        await asyncio.sleep(dice.choice((0.01, 0.5, 3.0)))


async def _all_as_before(world: Living, specs: dict[Subject, dict[str, object]], story: str) -> None:
    """Whatever happened, writing what was there in the beginning makes all well again."""
    for subject in sorted(SUBJECTS, key=lambda subject: subject.kind, reverse=True):  # Providers first
        await world.restore(subject, specs[subject])
    await world.settle(f"putting all back after {story}")
    for subject in SUBJECTS:
        assert world.exists(subject), f"{subject} cannot be made again after {story}: {world.told()}"
