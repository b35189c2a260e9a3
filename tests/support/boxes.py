"""A system of boxes (`tests.sweep.gadget`) whose emptying, one Dangerous step, behaves as a test says.

For tests of the executor: what a step reads, how long it takes, whether it answers, whether it may be repeated.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.system import System
from tests.sweep.gadget import Box, Gadget, GadgetAgent, Shelf, empty_box

from agentmetal.app import World
from agentmetal.core.operation import Operation
from agentmetal.core.tool import AnyTool, Result, StepEnd, ToolContext

GRACE, DRAIN = 0.75, 20.0


@dataclasses.dataclass
class Shelves:
    """Stands where machines stand."""

    shelf: Shelf = dataclasses.field(default_factory=Shelf)


class Emptying:
    """Emptying takes one call of some seconds."""

    def __init__(self, seconds: float, *, idempotent: bool) -> None:
        self.seconds = seconds
        self.idempotent = idempotent
        self.calls = 0
        self.ended = 0
        self.looked = 0
        """How often its facts were read."""
        self.look_seconds = 0.0
        self.unseen: list[Exception] = []
        """What the next looks raise."""
        self.unanswered: list[Exception] = []
        """What the next calls raise at their end, before anything was done."""

    async def read(self, ctx: ToolContext, params: Any) -> str:
        """Count, and take the time."""
        self.looked += 1
        await asyncio.sleep(self.look_seconds)
        if self.unseen:
            raise self.unseen.pop(0)
        return ""

    async def run(self, ctx: ToolContext, params: Any) -> StepEnd:
        """Count, and take the time."""
        self.calls += 1
        await asyncio.sleep(self.seconds)
        if self.unanswered:
            raise self.unanswered.pop(0)
        self.ended += 1
        machines: Any = ctx.machines
        machines.shelf.box.content = ""
        return Result(message="emptied")

    def agent(self) -> type[GadgetAgent]:
        """The agent with that tool."""
        slow = dataclasses.replace(empty_box, read=self.read, run=self.run, idempotent=self.idempotent)

        class Slow(GadgetAgent):
            @classmethod
            def tools(cls) -> tuple[AnyTool, ...]:
                return tuple(slow if tool.name == slow.name else tool for tool in GadgetAgent.tools())

        return Slow


class Table(System):
    """A system of boxes."""

    def __init__(self, agent: type[GadgetAgent]) -> None:
        super().__init__(hosts=False, agents=(agent,))
        self.shelves: Any = Shelves(Shelf(box=Box(exists=True, content="old")))

    def stand_on(self, *arguments: Any) -> World:
        return dataclasses.replace(super().stand_on(*arguments), machines=self.shelves)

    def the_operation(self) -> Operation:
        """There is one."""
        (operation,) = self.operations()
        return operation

    async def say(self, **said: Any) -> None:
        """Annotate the box, as the approver."""
        await self.annotate("box-1", kind=Gadget, **said)


@asynccontextmanager
async def waiting(emptying: Emptying, system: type[Table] = Table) -> AsyncIterator[tuple[Table, str]]:
    """A plan that waits for approval, and its digest."""
    table = system(emptying.agent())
    try:
        await table.start()
        await table.apply("Gadget", "box-1", {"content": "new"})
        yield table, await table.awaiting("box-1", kind=Gadget)
    finally:
        await table.close()


@asynccontextmanager
async def at_emptying(emptying: Emptying, system: type[Table] = Table) -> AsyncIterator[Table]:
    """An approved plan whose first step is under way."""
    async with waiting(emptying, system) as (table, digest):
        await table.say(approve=digest)
        await table.until(lambda: emptying.calls)
        yield table


async def drained(table: Table) -> float:
    """End the process in order; how long its executor took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await table.processes[-1].core.executor.drain(DRAIN, grace=GRACE)
    took = loop.time() - began
    await table.processes[-1].crash()
    return took
