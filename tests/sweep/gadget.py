"""The smallest domain in which everything can be decided: a box with a content, changed in two Dangerous steps.

Used by the exploration of decisions, which needs many short lives. Each step takes ten seconds, so that whatever
people do can fall into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field

from agentmetal.core.condition import Condition, ConditionType, Reason
from agentmetal.core.plan import Change, Issue, Plan, Step
from agentmetal.core.resource import ApiModel, KindInfo, ManagedResource, ManagedSpec, ManagedStatus, ObjectMeta
from agentmetal.core.risk import Risk
from agentmetal.core.tool import AnyTool, NotYet, Result, StepEnd, ToolContext, tool
from agentmetal.engine.agent import Agent, Report

STEP_SECONDS = 10.0


class GadgetSpec(ManagedSpec):
    """What one wants in the box."""

    content: str = Field(min_length=1, max_length=64, description="What the box holds.")


class Gadget(ManagedResource[GadgetSpec, ManagedStatus]):
    """A box."""

    info: ClassVar[KindInfo] = KindInfo(kind="Gadget", plural="gadgets", description="A box with a content.")
    kind: str = "Gadget"
    metadata: ObjectMeta
    spec: GadgetSpec
    status: ManagedStatus = ManagedStatus()


@dataclass
class Box:
    """The world behind one Gadget."""

    exists: bool = False
    on: bool = True
    content: str = ""
    doing: str = ""
    """What is under way."""
    until: float = 0.0


@dataclass
class Shelf:
    """All there is behind Gadgets. Tools reach it as `ctx.machines`."""

    box: Box = field(default_factory=Box)
    acted: Callable[[str, ToolContext], None] = lambda doing, ctx: None
    """Told of every Dangerous step that begins to act, at that moment."""

    def carry_on(self, ctx: ToolContext, doing: str, done: bool, finish: Callable[[], None]) -> StepEnd:
        """Begin, wait or end; what is under way goes on when the operator dies."""
        now, box = asyncio.get_running_loop().time(), self.box
        if box.doing and now >= box.until:
            box.doing = ""
        if box.doing:
            return NotYet(again_in=box.until - now, message=box.doing)
        if done:
            return Result(message=f"{doing}: done")
        self.acted(doing, ctx)
        box.doing, box.until = doing, now + STEP_SECONDS
        finish()
        return NotYet(again_in=STEP_SECONDS, message=doing)


class BoxParams(ApiModel):
    """Which box."""

    box: str = Field(description="Its name.")


class FillParams(BoxParams):
    """What goes into it."""

    content: str = Field(description="What the box is to hold.")


async def _facts(ctx: ToolContext, params: Any) -> str:
    return ""


def _dangerous(params: Any, facts: str) -> Risk:
    return Risk.DANGEROUS


def _moderate(params: Any, facts: str) -> Risk:
    return Risk.MODERATE


def _holds(params: Any, facts: str) -> None:
    """Nothing forbids it."""


def _named(verb: str) -> Callable[[Any], str]:
    return lambda params: f"{verb} {params.box}"


def _shelf(ctx: ToolContext) -> Shelf:
    shelf: Any = ctx.machines
    return shelf.shelf  # type: ignore[no-any-return] # the port is a protocol; the shelf is ours


def _set(box: Box, **values: Any) -> Callable[[], None]:
    return lambda: vars(box).update(values)


@tool(read=_facts, risk=_moderate, holds=_holds, render=_named("Make"), idempotent=True)
async def make_box(ctx: ToolContext, params: FillParams) -> StepEnd:
    """Make the box."""
    box = _shelf(ctx).box
    if not box.exists:
        vars(box).update(exists=True, on=True, content=params.content)
    return Result(message="made")


@tool(read=_facts, risk=_moderate, holds=_holds, render=_named("Switch on"), idempotent=True)
async def switch_on(ctx: ToolContext, params: BoxParams) -> StepEnd:
    """Switch the box on."""
    _shelf(ctx).box.on = True
    return Result(message="on")


@tool(read=_facts, risk=_dangerous, holds=_holds, render=_named("Empty"), idempotent=True)
async def empty_box(ctx: ToolContext, params: BoxParams) -> StepEnd:
    """Throw away what is in the box."""
    shelf = _shelf(ctx)
    return shelf.carry_on(ctx, "empty_box", not shelf.box.content, _set(shelf.box, content=""))


@tool(read=_facts, risk=_dangerous, holds=_holds, render=_named("Fill"), idempotent=True)
async def fill_box(ctx: ToolContext, params: FillParams) -> StepEnd:
    """Put something into the box, whatever it holds."""
    shelf = _shelf(ctx)
    return shelf.carry_on(ctx, "fill_box", shelf.box.content == params.content, _set(shelf.box, content=params.content))


@tool(read=_facts, risk=_dangerous, holds=_holds, render=_named("Scrap"), idempotent=True)
async def scrap_box(ctx: ToolContext, params: BoxParams) -> StepEnd:
    """Destroy the box."""
    shelf = _shelf(ctx)
    return shelf.carry_on(ctx, "scrap_box", not shelf.box.exists, _set(shelf.box, exists=False, content=""))


@dataclass(frozen=True, kw_only=True)
class GadgetSeen:
    """One look at the box."""

    at: datetime
    exists: bool
    on: bool
    content: str

    @property
    def targets(self) -> Mapping[str, str]:
        """It is always the same box."""
        return {"box": "box-1"}


class GadgetAgent(Agent[Gadget, GadgetSeen]):
    """Keeps the box as wanted. Emptying and filling are two steps, both Dangerous."""

    name: ClassVar[str] = "gadget"
    kind: ClassVar[type[Gadget]] = Gadget

    async def observe(self, resource: Gadget) -> GadgetSeen:
        machines: Any = self.ports.machines
        box: Box = machines.shelf.box
        return GadgetSeen(at=self.ports.clock.now(), exists=box.exists, on=box.on, content=box.content)

    def diff(self, resource: Gadget, observed: GadgetSeen) -> tuple[Change, ...]:
        if observed.exists and observed.content == resource.spec.content:
            return ()
        return (Change(field="content", desired=resource.spec.content, actual=observed.content),)

    def issues(self, resource: Gadget, observed: GadgetSeen) -> tuple[Issue, ...]:
        off = observed.exists and not observed.on
        return (Issue(type=Reason.POWERED_OFF, urgent=False, evidence="it is off"),) if off else ()

    def plan(self, resource: Gadget, observed: GadgetSeen, changes: tuple[Change, ...]) -> Plan:
        params = FillParams(box=resource.metadata.name, content=resource.spec.content)
        steps: tuple[Step, ...] = (make_box.step(params, ""),)
        if observed.exists:
            steps = (empty_box.step(BoxParams(box=resource.metadata.name), ""), fill_box.step(params, ""))
        return Plan(steps=steps, reasoning="another content is wanted")

    def heal(self, resource: Gadget, observed: GadgetSeen, issue: Issue) -> Plan:
        return Plan(steps=(switch_on.step(BoxParams(box=resource.metadata.name), ""),), reasoning="it is off")

    def teardown(self, resource: Gadget, observed: GadgetSeen) -> Plan:
        if not observed.exists:
            return Plan()
        return Plan(steps=(scrap_box.step(BoxParams(box=resource.metadata.name), ""),), reasoning="it was deleted")

    def report(self, resource: Gadget, observed: GadgetSeen) -> Report:
        if observed.exists and observed.on and observed.content == resource.spec.content:
            return Report(conditions=(Condition.true(ConditionType.READY, Reason.AS_SPECIFIED, "as wanted"),))
        return Report(conditions=(Condition.false(ConditionType.READY, Reason.PLAN_PENDING, "not yet"),))

    @classmethod
    def tools(cls) -> tuple[AnyTool, ...]:
        return (make_box, switch_on, empty_box, fill_box, scrap_box)
