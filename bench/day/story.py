"""The day: people and weather for so many hours, up to four hours of peace, then all is deleted. Judges at the end.

    figures = tell(hours=24, population=1000, seed=1)

Used by `python -m bench --only day` and by `tests/faults/test_day.py`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from tests.sweep.virtual import live

from agentmetal.agents.provider.api import Provider
from agentmetal.app import Core
from bench.day import census
from bench.day.people import People, settled
from bench.day.world import WORKERS, DayWorld
from bench.processes import rss_mb

HOUR = 3600.0
PEACE = 4 * HOUR
"""Within so long after the last fault everything must be as it should be."""
LOOK = 60.0
ALLOWED = {
    "Cache._gone": 512,  # the newest few hundred uids that are gone, so that no late answer brings one back
    "Cache._newest": 4,  # one for each kind
    "Siblings._learnt": 1,  # one for each Provider
    "agentmetal.core.resource.Key": WORKERS,  # each worker holds its last one until the next
    "agentmetal.core.ports.WatchEvent": 4,  # each watch its last event
}
"""What may be more than there was before the first object was made."""


@dataclass(frozen=True, kw_only=True)
class Hour:
    """What there was at the end of an hour, after garbage was collected."""

    kept: Counter[str]
    """Entries in the operator's containers; empty when nobody led."""
    objects: Counter[str]
    tasks: int
    files: int
    rss_mb: float


@dataclass(kw_only=True)
class Day:
    """What became of it."""

    before: Hour
    hours: list[Hour] = field(default_factory=list)
    peace: Hour | None = None
    after: Hour | None = None
    complaints: list[str] = field(default_factory=list)
    told: dict[str, Counter[str]] = field(default_factory=dict)
    cpu: float = 0.0
    passes: int = 0


def tell(*, hours: float, population: int, seed: int, resync: str = "10m", say: Callable[[str], None] = print) -> Day:
    """Live through it."""
    return live(lambda: _day(hours=hours, population=population, dice=Random(seed), resync=resync, say=say))  # noqa: S311 - a story, told again by its seed


async def _day(*, hours: float, population: int, dice: Random, resync: str, say: Callable[[str], None]) -> Day:
    world, began = DayWorld(dice), time.process_time()
    # Something is done to one object in ten each hour, and sixty times at least.
    every = HOUR / max(60, population // 10)
    people = People(world=world, dice=dice, population=population, resync=resync, every=every)
    leading = asyncio.create_task(world.keep_led())
    try:
        with _bugs_heard(world):
            day = await _lived(world, people, hours, say)
    finally:
        for task in (leading, *people.mending):
            task.cancel()
        await asyncio.gather(leading, *people.mending, return_exceptions=True)
    day.complaints, day.cpu = world.diary.complaints, time.process_time() - began
    day.told = {
        "did": people.did, "met": world.weather.met, "restarts": world.restarts, "ended": world.diary.ended,
        "steps": Counter(begun=world.diary.begun),
    }  # fmt: skip
    return day


async def _lived(world: DayWorld, people: People, hours: float, say: Callable[[str], None]) -> Day:
    """All of it, in its order."""
    await world.until(lambda: world.process is not None)
    await world.provider()
    await world.ready("cloud", kind=Provider)
    day = Day(before=_look(world))
    await people.settle()
    await _until(people, settled, "settle at first")
    say(f"{people.population} objects have settled")
    troubles = [world.weather.change(world.audit), people.live(), people.decide(), _restarts(world, people.dice)]
    await _for_hours(hours, [asyncio.create_task(one) for one in troubles], world, day, say)
    world.weather.calm()
    await asyncio.gather(*people.mending)
    await _until(people, settled, "be as it should be in the end", decide=True)
    world.judge_and_forget()
    day.peace = _look(world)
    await _delete_all(people)
    await asyncio.sleep(HOUR)  # timers that nobody needs any more
    world.judge_and_forget()
    day.after = _look(world)
    _judge_end(world)
    return day


class _Bugs(logging.Handler):
    """What the operator logs with a traceback is a bug; the rest of its log is not for us."""

    def __init__(self, world: DayWorld) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._world.diary.complain(self.format(record))


@contextmanager
def _bugs_heard(world: DayWorld) -> Iterator[None]:
    log, handler = logging.getLogger("agentmetal"), _Bugs(world)
    propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagated


async def _for_hours(
    hours: float, troubles: list[asyncio.Task[None]], world: DayWorld, day: Day, say: Callable[[str], None]
) -> None:
    """The day itself; a trouble that ends is a mistake of ours."""
    until = asyncio.get_running_loop().time() + hours * HOUR
    try:
        while (left := until - asyncio.get_running_loop().time()) > 0:
            done, _ = await asyncio.wait(troubles, timeout=min(HOUR, left), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            world.judge_and_forget()
            day.hours.append(_look(world))
            say(f"hour {len(day.hours)}: {len(world.diary.complaints)} complaints, {day.hours[-1].rss_mb:.0f} MiB")
    finally:
        for task in troubles:
            task.cancel()
        await asyncio.gather(*troubles, return_exceptions=True)


async def _restarts(world: DayWorld, dice: Random) -> None:
    while True:
        await asyncio.sleep(dice.uniform(1 * HOUR, 5 * HOUR))
        await world.end_process(orderly=dice.random() < 0.5)


async def _until(people: People, fine: Callable[[dict[str, object]], bool], what: str, *, decide: bool = False) -> None:
    """Wait until all objects are fine; what is not in time is complained about, each by itself."""
    late = asyncio.get_running_loop().time() + PEACE
    while left := [body for body in people.bodies() if not fine(body)]:
        if asyncio.get_running_loop().time() > late:
            for body in left[:20]:
                people.world.diary.complain(f"{body['metadata']['name']} does not {what}: {_told(body)}")
            return
        await asyncio.sleep(LOOK)
        for body in left if decide else ():
            await people.look_at(body, finally_=True)


async def _delete_all(people: People) -> None:
    for body in list(people.bodies()):
        if "deletionTimestamp" not in body["metadata"]:
            await people.world.delete(body["metadata"]["name"])
    await _until(people, lambda body: False, "go", decide=True)


def _judge_end(world: DayWorld) -> None:
    if world.cloud._servers:
        world.diary.complain(f"servers are left: {sorted(world.cloud._servers)}")
    left = [place.name for place in world.cluster.contents("default") if "web-" in place.name]
    if left:
        world.diary.complain(f"objects are left: {left}")


def _look(world: DayWorld) -> Hour:
    gc.collect()
    core = world.process.core if world.process else None
    return Hour(
        kept=_kept(world, core) if core else Counter(),
        objects=census.kept_objects(),
        tasks=census.tasks(),
        files=census.open_files(),
        rss_mb=rss_mb(os.getpid()),
    )


def _kept(world: DayWorld, core: Core) -> Counter[str]:
    return census.census(core) + Counter({"connections to hosts": len(world.hosts._kept)})


def leaks(day: Day) -> list[str]:
    """What is kept of objects that are gone: more than when there were none yet. Needs a day that went to its end."""
    if day.after is None:
        return ["the day did not come to its end"]
    before, after = day.before, day.after
    if not (before.kept and after.kept):
        return ["nobody led when it was counted"]
    more = {name: count - before.kept[name] for name, count in after.kept.items()}
    more |= {name: count - before.objects[name] for name, count in after.objects.items()}
    more |= {"tasks": after.tasks - before.tasks, "open files": after.files - before.files}
    return [f"{count} more in {name}" for name, count in sorted(more.items()) if count > ALLOWED.get(name, 0)]


def growth(day: Day, of: Callable[[Hour], float]) -> float:
    """The last third of the day over its second third, in the mean: 1 is flat. The first third warms up.

    Hours at whose end nobody led say nothing. Raises ValueError when the day was too short to have thirds.
    """
    hours = [hour for hour in day.hours if hour.kept]
    third = len(hours) // 3
    if not third:
        raise ValueError(f"{len(hours)} hours in which somebody led have no thirds: let the day be longer")
    middle, end = hours[third : 2 * third], hours[2 * third :]
    return (sum(map(of, end)) / len(end)) / (sum(map(of, middle)) / len(middle))


def _told(body: dict[str, object]) -> str:
    status = body.get("status") or {}
    conditions: Iterable[dict[str, str]] = status.get("conditions", ())  # type: ignore[attr-defined]  # JSON
    return "; ".join(f"{c['type']}={c['status']} {c['reason']} {c.get('message', '')!r}" for c in conditions)
