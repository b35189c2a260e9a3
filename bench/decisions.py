"""What people wait for: approve until the first step, pause until no further step. 1,000 other plans wait, 50 run.

The plans are rebuilds (Dangerous, so each waits for a human), on simulated servers that are up at once; the running
ones order servers that never finish to boot. These plans have one step each; `stopping` has plans of several.

* pause against start: a plan is approved, and paused a random moment later (0 s up to twice the median of approve ->
  step). Its step begins before the pause, after it, or never. Measured: how long after the pause was sent the last
  step-begin was seen; 0 when none came after it.
* pause of a running plan: its tool is called again and again while the server boots, each time through the same gate as
  a step. Measured: from the pause being sent until status says that the plan is held there (Reconciling, reason
  Paused), which it says only when the gate has answered so.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agentmetal.core.operation import Operation
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import Annotation
from bench import stopping
from bench.figures import Figure, percentile, spread
from bench.following import Body, Follow, condition, following, holds, step_begun
from bench.objects import INSTANCE, create_cloud, in_parallel, instance, names
from bench.stage import Stage

OPERATION = Operation.info.type
DECIDED, BOOTING = "decided", "booting"
WAITING, TRIALS, RUNNING = 1000, 100, 50
BUDGET = 1.0
WITHIN = 300.0
TRIAL_WITHIN = 30.0
QUIET = 2.0
"""Seconds in which a step that the last pause did not stop would have to show up."""


@dataclass
class Seen:
    """What the watches have shown of one namespace, and when it was seen first."""

    instances: dict[str, Body] = field(default_factory=dict)
    paused_at: dict[str, float] = field(default_factory=dict)
    held_at: dict[str, float] = field(default_factory=dict)
    begun_at: dict[tuple[str, str], float] = field(default_factory=dict)
    """By object and operation: when a step of it was seen begun."""

    def instance(self, body: Body) -> None:
        """A state of an object."""
        name = body["metadata"]["name"]
        self.instances[name] = body
        if holds(body, "Paused"):
            self.paused_at.setdefault(name, time.monotonic())
            if condition(body, "Reconciling").get("reason") == "Paused":
                self.held_at.setdefault(name, time.monotonic())

    def operation(self, body: Body) -> None:
        """A state of an operation; that of the Provider's key is none of ours."""
        if body["spec"]["resourceRef"]["kind"] == INSTANCE.kind and step_begun(body):
            place = (body["spec"]["resourceRef"]["name"], body["metadata"]["name"])
            self.begun_at.setdefault(place, time.monotonic())

    def digest(self, name: str) -> str:
        """Of the plan that waits; empty when none does."""
        body = self.instances.get(name)
        return str(body["status"]["plan"]["digest"]) if body and holds(body, "AwaitingApproval") else ""

    def last_begin(self, name: str) -> float:
        """When a step of it, of whatever operation, was last seen to begin; its server was ordered once."""
        return max(at for (owner, _), at in self.begun_at.items() if owner == name)

    def begun(self, name: str, operation: str) -> bool:
        """Has a step of that operation begun?"""
        return (name, operation) in self.begun_at

    def ready(self) -> int:
        """How many are Ready."""
        return sum(holds(body, "Ready") for body in self.instances.values())


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One namespace with its watches."""

    namespace: str
    seen: Seen
    instances: Follow
    operations: Follow
    approver: KubeApi

    async def annotate(self, name: str, annotation: str, value: str) -> float:
        """As the approver; when it was sent."""
        sent = time.monotonic()
        patch = {"metadata": {"annotations": {annotation: value}}}
        await self.approver.patch(INSTANCE, self.namespace, name, patch)
        return sent


async def measure(
    stage: Stage, only: frozenset[str], *, waiting: int = WAITING, trials: int = TRIALS
) -> tuple[Figure, ...]:
    """The operator is started unless it runs, and left running."""
    note = f"{waiting} other plans wait, {RUNNING} run"
    await stage.start_operator()
    admin, approver = stage.client("admin"), stage.client("approver")
    decided, booting = Seen(), Seen()
    async with (
        following(admin, INSTANCE, DECIDED, decided.instance) as instances,
        following(admin, OPERATION, DECIDED, decided.operation) as operations,
        following(admin, INSTANCE, BOOTING, booting.instance) as booting_instances,
        following(admin, OPERATION, BOOTING, booting.operation) as booting_operations,
    ):
        first = Scene(namespace=DECIDED, seen=decided, instances=instances, operations=operations, approver=approver)
        second = Scene(namespace=BOOTING, seen=booting, instances=booting_instances, operations=booting_operations,
                       approver=approver)  # fmt: skip
        await _set_up(stage, first, second, waiting, trials)
        approvals = await _approve(stage, first, names("a", trials))
        figures: list[Figure] = []
        if "approve" in only:
            figures += spread("approve -> first step", approvals, budget=BUDGET, note=note)
        if "pause" in only:
            figures += await _pause_against_start(stage, first, names("p", trials), percentile(approvals, 0.5), note)
        if "stop" in only:
            figures += await stopping.measure(stage, note, trials)
        if "pause" in only:
            figures += await _pause_running(stage, second, names("r", RUNNING), f"{waiting} other plans wait")
    return tuple(figures)


async def _set_up(stage: Stage, decided: Scene, booting: Scene, waiting: int, trials: int) -> None:
    """Plans that wait for approval, and plans that run."""
    stage.say(f"{waiting + 2 * trials} plans that wait for approval, {RUNNING} that run")
    admin, editor = stage.client("admin"), stage.client("editor")
    await create_cloud(admin, DECIDED)
    await create_cloud(admin, BOOTING, boot_seconds=3600)
    everybody = [*names("a", trials), *names("p", trials), *names("w", waiting)]

    async def order(place: tuple[str, str]) -> None:
        await editor.create(INSTANCE, instance(*place))

    async def edit(name: str) -> None:
        await editor.patch(INSTANCE, DECIDED, name, {"spec": {"image": "bookworm-20"}})

    seen = decided.seen
    await in_parallel(order, [(DECIDED, name) for name in everybody])
    await _all(decided.instances, seen.ready, len(everybody), "servers run")
    await in_parallel(edit, everybody)
    await _all(decided.instances, lambda: sum(bool(seen.digest(n)) for n in everybody), len(everybody), "plans wait")
    await in_parallel(order, [(BOOTING, name) for name in names("r", RUNNING)])
    await _all(booting.operations, lambda: len(booting.seen.begun_at), RUNNING, "plans run")


async def _all(follow: Follow, counted: Callable[[], int], wanted: int, what: str) -> None:
    await follow.until(lambda: counted() == wanted, within=WITHIN, what=lambda: f"{counted()} of {wanted} {what}")


async def _approve(stage: Stage, scene: Scene, objects: list[str]) -> list[float]:
    """One after another: from the PATCH until the journal shows that a step runs."""
    stage.say(f"approving {len(objects)} plans")
    seen, taken = scene.seen, []
    for name in objects:
        operation = seen.instances[name]["status"]["plan"]["operation"]
        sent = await scene.annotate(name, Annotation.APPROVE, seen.digest(name))
        place = (name, operation)
        await scene.operations.until(
            lambda place=place: seen.begun(*place),  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
            within=TRIAL_WITHIN,
            what=lambda name=name: f"a step of {name!r} begun after its approval",  # type: ignore[misc]  # as above
        )
        taken.append(seen.begun_at[place] - sent)
    return taken


async def _pause_against_start(
    stage: Stage, scene: Scene, objects: list[str], typical: float, meanwhile: str
) -> list[Figure]:
    """Approve, and pause a random moment later."""
    stage.say(f"pausing {len(objects)} plans that are about to begin")
    dice, seen = random.Random(1), scene.seen  # noqa: S311 - the same moments in every run
    plans = {name: seen.instances[name]["status"]["plan"]["operation"] for name in objects}
    sent_at: dict[str, float] = {}
    for name in objects:
        await scene.annotate(name, Annotation.APPROVE, seen.digest(name))
        await asyncio.sleep(dice.uniform(0, 2 * typical))
        sent_at[name] = await scene.annotate(name, Annotation.PAUSED, "true")
        await _shown(scene, seen.paused_at, name, "Paused")
    await asyncio.sleep(QUIET)
    after = [max(0.0, seen.last_begin(name) - sent_at[name]) for name in objects]
    never = sum(not seen.begun(name, plans[name]) for name in objects)
    note = f"{sum(late > 0 for late in after)} begun after it, {never} never; {meanwhile}"
    shown = [seen.paused_at[name] - sent_at[name] for name in objects]
    return [
        *spread("pause -> last step-begin", after, budget=BUDGET, note=note),
        *spread("pause -> status shows Paused", shown, note=meanwhile),
    ]


async def _pause_running(stage: Stage, scene: Scene, objects: list[str], meanwhile: str) -> list[Figure]:
    """Pause plans in the middle of a step that may be left."""
    stage.say(f"pausing {len(objects)} plans that run")
    taken = []
    for name in objects:
        sent = await scene.annotate(name, Annotation.PAUSED, "true")
        await _shown(scene, scene.seen.held_at, name, "held")
        taken.append(scene.seen.held_at[name] - sent)
    return list(spread("pause of a running plan -> held", taken, budget=BUDGET, note=meanwhile))


async def _shown(scene: Scene, where: dict[str, float], name: str, what: str) -> None:
    message = f"{name!r} is shown {what}"
    await scene.instances.until(lambda: name in where, within=TRIAL_WITHIN, what=lambda: message)
