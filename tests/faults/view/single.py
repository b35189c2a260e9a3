"""One fault at one call: every story of the crash sweep, with each kind of fault at each call to the API server.

`meet` tells a story once, `calls_of` counts the calls there are. A fault may last: then it meets all calls like the
chosen one for so many seconds. Used by `test_api_faults.py` and the proof that its judge can fail.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tests.faults.view.lying import LATE, READ_FAULTS, Fault
from tests.faults.view.worlds import ViewWorld
from tests.sweep.oracles import judge
from tests.sweep.scenarios import Story
from tests.sweep.sweeping import Found
from tests.sweep.virtual import live

from agentmetal.app import Parts
from agentmetal.core.operation import OperationPhase
from agentmetal.process import COMPARE_EVERY

CALLS_ADDED = 120
"""How many more calls than in good times a story may need that met one fault."""
A_SECOND = 2.0
"""And so many more for each second that it lasts: waiting steps look twice, passes come again when a 429 says so."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What goes wrong, and when."""

    fault: Fault
    at: int
    """The number of the call."""
    lasts: float = 0.0
    """Seconds for which calls of that verb and kind meet it, too."""


class _Armed(ViewWorld):
    """Counts calls from where the story says, and lets one of them fail."""

    trouble: Trouble | None = None
    counted: list[str]
    _until = 0.0
    _like = ""

    def begin(self) -> None:
        self.counted = []
        self.lying.choose = self._choose

    def _choose(self, what: str) -> Fault | None:
        self.counted.append(what)
        now, like, trouble = asyncio.get_running_loop().time(), " ".join(what.split(" ")[:2]), self.trouble
        if trouble is None:
            return None
        if len(self.counted) == trouble.at:
            self._until, self._like = now + trouble.lasts, like
            return trouble.fault
        return trouble.fault if like == self._like and now < self._until else None


def meet(story: Story, trouble: Trouble | None = None, parts: Parts = Parts()) -> list[str]:
    """Live through a story with that trouble and judge it; the calls that were made. Raises Found."""

    async def told() -> list[str]:
        world = _Armed(parts=parts)
        world.trouble = trouble
        supervisor = asyncio.create_task(world.live_through(world.one_after_another()))
        await asyncio.sleep(0)
        try:
            end = await story(world)
            # What was under way when all was quiet comes to its end, and what came late arrives.
            await asyncio.sleep(LATE + COMPARE_EVERY if trouble and trouble.fault is Fault.AFTERWARDS else 1.0)
            calls = list(world.counted)
        except (AssertionError, Exception) as error:
            raise Found(_where(story, world, error)) from error
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        try:
            ends = end.phases | ({OperationPhase.FAILED} if trouble else set())
            await judge(world, replace(end, phases=frozenset(ends)))
            assert not world.heard.hot, f"it went round and round: {world.heard.hot}"
            assert all("while it started" in why for why in world.ended), f"it ended itself: {world.ended}"
        except (AssertionError, Exception) as error:
            raise Found(_where(story, world, error)) from error
        return calls

    return live(told)


def _where(story: Story, world: _Armed, error: BaseException) -> str:
    trouble = world.trouble
    met = "no fault"
    if trouble and len(world.counted) >= trouble.at:
        lasting = f" for {trouble.lasts:g} s" if trouble.lasts else ""
        met = f"{trouble.fault.value}{lasting} at {trouble.at}: {world.counted[trouble.at - 1]}"
    hot = f"; hot: {world.heard.hot}" if world.heard.hot else ""
    return f"{story.__name__}, {met}{hot}: {''.join(traceback.format_exception_only(error)).strip()}"


def troubles(story: Story, faults: Iterable[Fault], *, lasts: float = 0.0, every: int = 1) -> list[Trouble]:
    """Each of these faults at each call (or every n-th, another one for each fault)."""
    calls, found = meet(story), []
    for number, fault in enumerate(faults):
        for at in range(1 + number % every, len(calls) + 1, every):
            read = calls[at - 1].startswith(("get ", "list "))
            if not read or fault in READ_FAULTS:
                found.append(Trouble(fault=fault, at=at, lasts=lasts))
    return found


def complaint(story: Story, trouble: Trouble, parts: Parts = Parts(), usual: int = 10_000) -> str:
    """What is wrong then; empty when nothing is. `usual`: the calls of the story in good times."""
    try:
        calls = meet(story, trouble, parts)
    except Found as error:
        return str(error)
    if len(calls) > usual + CALLS_ADDED + A_SECOND * trouble.lasts:
        return f"{story.__name__}, {trouble}: {len(calls)} calls instead of {usual}"
    return ""
