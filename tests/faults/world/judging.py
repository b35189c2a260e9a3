"""Tells a story in which something breaks and judges it; and finds the calls at which something can break.

The judge reads the world and its diary only: journal and trail by the sweeps' oracles, machines by what was done to
them. `Found` says what is wrong, at which call of which story.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from tests.faults.world.stories import Story
from tests.faults.world.strikes import Fault
from tests.faults.world.weather import Fate, FatefulWorld, fateful
from tests.support.inventories import trace
from tests.support.system import story as told_by
from tests.sweep import oracles
from tests.sweep.scenarios import End
from tests.sweep.virtual import live

from agentmetal.core.machine import UnitPhase
from agentmetal.core.operation import OperationPhase as P
from agentmetal.core.risk import Risk
from agentmetal.kube.memory.cluster import WRITES
from agentmetal.providers.fake_server import loop_time

MOST_WRITES = 400
"""Requests that change objects, by everybody, in one story."""
MOST_PASSES = 1500
ENDS = frozenset({P.SUCCEEDED, P.SUPERSEDED, P.WITHDRAWN, P.FAILED, P.CANCELLED, P.EXPIRED})
NEXT_STEP = re.compile(
    r"must act|kubectl|annotat|put |remove |free |look at|set |wait|ask |choose|correct|delete |planned|asked again"
)
"""What a human reads in a condition that asks for him: who is meant, or what to do."""


Company = Callable[[FatefulWorld], Coroutine[Any, Any, None]]
"""What people do beside the story."""


class Found(AssertionError):
    """A story that does not end as it must, and what broke in it."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A story that went well."""

    points: tuple[str, ...]
    said: frozenset[tuple[str, str]]
    writes: int
    passes: int


def tell(
    story: Story,
    breaks: Mapping[int, Fault] = MappingProxyType({}),
    **options: Any,
) -> Told:
    """Live through a story in which these faults strike at these calls, and judge it. Raises Found."""

    fate = Fate(strikes={number: fault.strike for number, fault in breaks.items()})
    where = ", ".join(f"{fault.name} at {number}" for number, fault in breaks.items())
    return suffered(story, fate, where, **options)


def suffered(story: Story, fate: Fate, where: str, *, company: Company | None = None, **options: Any) -> Told:
    """The same with any fate, and with people who do something meanwhile."""

    async def told() -> Told:
        try:
            async with fateful(fate, **options) as world:
                meddling = asyncio.create_task(company(world)) if company else None
                end = await story(world)
                if meddling:
                    await meddling
                await world.fair()
                for name in list(world.names()):
                    await world.annotate(name, as_=world.erin, reconcile_at="when all is well")
                await asyncio.sleep(60.0)  # what was under way when all was quiet comes to its end
                if end.exists:
                    await world.quiet()
                await judge(world, end)
                return Told(
                    points=tuple(fate.points), said=frozenset(world.said), writes=_writes(world), passes=world.passes
                )
        except Exception as error:
            why = "".join(traceback.format_exception_only(error)).strip()
            struck = "; ".join(fate.struck)
            raise Found(f"{story.__name__}, {where or 'nothing broke'} ({struck}): {why}") from error

    return live(told)


def cases(story: Story, faults: Sequence[Fault], **options: Any) -> Iterator[tuple[int, Fault]]:
    """Every fault at every call where it makes sense."""
    for number, label in enumerate(tell(story, **options).points, start=1):
        for fault in faults:
            if fault.at(label):
                yield number, fault


async def judge(world: FatefulWorld, end: End) -> None:
    """Raises AssertionError with the first thing that is not as it must be."""
    await oracles.journal_moved_legally(world, replace(end, phases=end.phases | ENDS))
    await oracles.servers_are_as_promised(world, end)
    assert world.cloud._made <= 1, f"{world.cloud._made} servers were bought"
    commands_had_one_effect(world)
    strangers_were_left_alone(world)
    decided = {op.metadata.name for one in world.diary.acted for op in one.running if op.spec.risk is Risk.DANGEROUS}
    assert len(decided) >= end.decided, "something was destroyed by nobody's plan"
    oracles.destruction_was_decided(world, replace(end, decided=len(decided)))
    oracles.digests_were_used_once(world)
    await oracles.trail_is_whole(world)
    oracles.objects_are_at_their_end(world, end)
    oracles.nothing_is_left_over(world, end)
    people_were_told_what_to_do(world)
    assert _writes(world) <= MOST_WRITES, f"{_writes(world)} writes"
    assert world.passes <= MOST_PASSES, f"{world.passes} passes"


def commands_had_one_effect(world: FatefulWorld) -> None:
    """No unit was started twice, and another attempt only after the one before it is known to have come to nothing."""
    names = Counter(run.name for run in world.hosts.journal)
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, f"these units ran twice: {twice}"
    attempts: dict[tuple[str, int, int], list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        operation, step, attempt = name.rsplit("-", 2)
        number, part = (int(attempt[:-3]), int(attempt[-3:])) if len(attempt) > 3 else (int(attempt), 0)
        attempts[operation, int(step), part].append((number, name))
    for tried in attempts.values():
        for _, name in sorted(tried)[:-1]:
            state = world.units[name].state(loop_time())
            failed = state.phase is UnitPhase.INTERRUPTED or (state.phase is UnitPhase.ENDED and state.exit_code != 0)
            assert failed, f"unit {name} was followed by another attempt although it is {state.phase}"


def strangers_were_left_alone(world: FatefulWorld) -> None:
    """Nothing was written to a machine with another identity, and nothing ran there."""
    for stranger in world.strangers:
        now = trace(stranger.host)
        assert now.files == stranger.came_with.files, "a stranger's files were changed"
        assert (now.installed, now.units) == (False, ()), "something of ours is on a stranger"


def people_were_told_what_to_do(world: FatefulWorld) -> None:
    """Whatever asked for a human said what to do."""
    for type, message in world.said:
        assert NEXT_STEP.search(message), f"{type} does not say what to do: {message!r}; {told_by(world.see())}"


def _writes(world: FatefulWorld) -> int:
    return sum(request.verb in WRITES for request in world.cluster.requests)
