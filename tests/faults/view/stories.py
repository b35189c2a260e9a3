"""Stories by chance: people decide about a box, in bad weather, and each Dangerous step is judged as it begins.

A story is a pure function of its seed. When it clears up everything must settle within bounds, and be silent.
Used by `test_random_views.py` and by the proof that the judge can fail.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from tests.faults.view.weather import Weather
from tests.faults.view.worlds import NAMESPACE, ViewGadgets
from tests.support.system import story as described
from tests.sweep.decisions import ACTIONS, NAME, TTL
from tests.sweep.gadget import Gadget
from tests.sweep.virtual import live

from agentmetal.app import Parts
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.operation import ApprovalPolicy
from agentmetal.core.resource import FINALIZER, Annotation
from agentmetal.kube.memory import WRITES
from agentmetal.process import COMPARE_EVERY

CLEARED = 2 * COMPARE_EVERY
"""Seconds after which nothing of the bad weather is left: one comparison at most, and what that wakes."""
SILENCE = 1000.0
ACTS = 12


async def _require(world: ViewGadgets) -> None:
    """A policy that demands approval for everything comes or goes."""
    if world.cluster.peek(ApprovalPolicy.info.type, NAMESPACE, "strict"):
        await world.ann.delete(ApprovalPolicy.info.type, NAMESPACE, "strict")
    else:
        spec = {"resources": ["gadgets"], "maxRisk": "Dangerous", "require": True}
        await world.apply("ApprovalPolicy", "strict", spec, api=world.ann)


async def _replan(world: ViewGadgets) -> None:
    await world.annotate(NAME, kind=Gadget, as_=world.erin, replan=f"t{asyncio.get_running_loop().time()}")


async def _another(world: ViewGadgets) -> None:
    """It is given up and made anew under the same name, in one moment.

    Not while a step is under way: that ends by its nature, and a Gadget's box bears no mark that tells whose it is.
    """
    if any(not op.phase.closed and not op.phase.waiting for op in world.operations()):
        return
    await world.ann.patch(Gadget.info.type, NAMESPACE, NAME, {"metadata": {"finalizers": None}})
    with contextlib.suppress(AgentMetalError):
        await world.erin.delete(Gadget.info.type, NAMESPACE, NAME)
    await make(world)


async def _create(world: ViewGadgets) -> None:
    if world.box is None:
        await make(world)


async def make(world: ViewGadgets) -> None:
    """The box."""
    await world.apply("Gadget", NAME, {"content": "a", "management": {"approvalTTL": f"{TTL:.0f}s"}})


Act = Callable[[Any], Awaitable[None]]
SAID: dict[str, Act] = {
    **{name: ACTIONS[name] for name in ("approve", "approve-paused", "approve-old", "reject", "edit", "edit-back")},
    **{name: ACTIONS[name] for name in ("drift", "pause", "policy", "delete")},
    "require": _require,
    "replan": _replan,
    "another": _another,
    "create": _create,
}
OFTEN = (
    "approve",
    "approve",
    "approve",
    "edit",
    "edit-back",
    "pause",
    "create",
    "old list",
    "old list",
    "restart",
    "410",
)


def tell(seed: int, parts: Parts = Parts()) -> tuple[list[str], list[str]]:
    """What happened, and what of it broke the law."""

    async def told() -> tuple[list[str], list[str]]:
        world = ViewGadgets(parts)
        supervisor = asyncio.create_task(world.live_through(world.one_after_another()))
        try:
            return await _Story(world, Random(seed)).told()  # noqa: S311 - a story, no secret
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)

    return live(told)


class _Story:
    def __init__(self, world: ViewGadgets, random: Random) -> None:
        self._world, self._random = world, random
        self._weather = Weather(random, world)
        self._past: list[Any] = []
        self._told: list[str] = []

    async def told(self) -> tuple[list[str], list[str]]:
        world = self._world
        await asyncio.sleep(1.0)
        await make(world)
        await world.settle()
        self._weather.breaks()
        for _ in range(ACTS):
            await self._act(self._random.choice((*SAID, *OFTEN)))
        self._weather.clears_up()
        await asyncio.sleep(CLEARED)
        try:
            await self._end()
        except AssertionError as error:
            world.law.broken.append(str(error))
        await world.judge_the_end()
        if world.heard.hot:
            world.law.broken.append(f"it went round and round: {world.heard.hot}")
        return self._told, world.law.broken

    async def _act(self, name: str) -> None:
        world, random = self._world, self._random
        self._told.append(f"{asyncio.get_running_loop().time():.0f} s {name}")
        self._past.append(world.cluster.backup(NAMESPACE))
        if name == "old list":
            world.tell_of_the_past(random.choice(self._past[-4:]))
        elif name == "restart":
            world.life.die()
        elif name == "410":
            world.cluster.compact()
            world.cluster.end_watches()
        else:
            with contextlib.suppress(AgentMetalError):  # the box is gone, or there already
                await SAID[name](world)
        await world.settle(random.choice((0.0, 0.3, 1.5, 8.0, 12.0, 30.0, 120.0)))

    # ---- the end: everything settles, and is silent

    async def _end(self) -> None:
        world = self._world
        self._judge_calm()
        for policy in ("all", "strict"):
            with contextlib.suppress(AgentMetalError):
                await world.ann.delete(ApprovalPolicy.info.type, NAMESPACE, policy)
        if world.box is None:
            await make(world)
        if world.box is not None and not world.box.deleting:
            await world.annotate(NAME, as_=world.erin, kind=Gadget, paused=None)
            await world.edit(NAME, kind=Gadget, content="the end")
            await self._approve_until(lambda: _quiet(world) and world.shelf.box.content == "the end")
            await self._judge_silence()
            await world.delete(NAME, kind=Gadget)
        elif world.box is not None:
            await world.annotate(NAME, as_=world.erin, kind=Gadget, paused=None, replan="the end")
        await self._approve_until(lambda: world.box is None)
        await asyncio.sleep(1.0)
        assert not world.shelf.box.exists, "the box outlives its object"
        left = [place for place in world.cluster.contents(NAMESPACE) if _held(world.cluster.peek(*place))]
        assert not left, f"left over for ever: {left}"
        await self._judge_silence()

    async def _approve_until(self, what: Callable[[], Any]) -> None:
        world = self._world
        try:
            async with asyncio.timeout(7200):
                while not what():
                    digest, box = world.waits(), world.box
                    if digest and box and not box.annotation(Annotation.DECISION).startswith(f"approve {digest} "):
                        with contextlib.suppress(AgentMetalError):
                            await ACTIONS["approve"](world)
                    await asyncio.sleep(5.0)
        except TimeoutError:
            raise AssertionError(f"it never settled: {described(world.box)}") from None

    def _judge_calm(self) -> None:
        """Once the weather is over, status says what is, and nothing is open that nobody knows."""
        box = self._world.box
        if box is not None:
            seen, wanted = box.status.observed_generation, box.metadata.generation
            assert seen == wanted, f"status is about generation {seen}, not {wanted}"
        opened = [op for op in self._world.operations() if not op.phase.closed]
        strangers = [op.metadata.name for op in opened if box is None or op.spec.resource_ref.uid != box.uid]
        assert not strangers, f"{strangers} are about objects that are gone"

    async def _judge_silence(self) -> None:
        """Nothing to do: nothing is written."""
        requests = self._world.cluster.requests
        await asyncio.sleep(5.0)
        before = len(requests)
        await asyncio.sleep(SILENCE)
        writes = [request for request in requests[before:] if request.verb in WRITES]
        assert not writes, f"{len(writes)} writes with nothing to do: {writes[:5]}"
        reads = len(requests) - before
        assert reads < 100, f"{reads} calls with nothing to do"


def _quiet(world: ViewGadgets) -> bool:
    box = world.box
    conditions = {str(c.type): c.status for c in box.status.conditions} if box else {}
    fine = box is not None and box.status.observed_generation == box.metadata.generation and box.status.plan is None
    return fine and conditions.get("Ready") == "True" and conditions.get("Reconciling") != "True"


def _held(body: Any) -> bool:
    return bool(body) and FINALIZER in (body["metadata"].get("finalizers") or ())
