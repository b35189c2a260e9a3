"""What people wait for who stop a plan between its steps: pause, reject, delete until no further step. Used by
`decisions`, while its plans wait and run.

The plan rotates the client key of a Provider: make_next_key, spread_key, switch_key, revoke_old_key; the plan may be
left after each of them. Nobody uses these Providers, so the first three take some tens of milliseconds, and the fourth
waits for five minutes. Each plan begins when the rotation is asked for, and is stopped a random moment later; who
rejects must name its digest and can do so once status shows it. Measured: how long after the stop was sent another step
was seen to begin; 0 when none was. All but the fourth step would be over long before the measurement ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentmetal.core.operation import Operation
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import Annotation
from bench.figures import Figure, percentile, spread
from bench.following import Body, Follow, following, holds
from bench.objects import NEVER_BY_ITSELF, PROVIDER, create_namespace, in_parallel, names
from bench.stage import Stage

OPERATION = Operation.info.type
ROTATING = "rotating"
PROBES = 10
STEPS = 4
BUDGET = 1.0
WITHIN = 300.0
TRIAL_WITHIN = 30.0
QUIET = 2.0
"""Seconds in which a step that the last stop did not stop would have to show up."""
Stop = Callable[[str], Awaitable[None]]


@dataclass
class Seen:
    """What the watches have shown."""

    providers: dict[str, Body] = field(default_factory=dict)
    begun_at: dict[str, dict[int, float]] = field(default_factory=dict)
    """By Provider: when each step of its rotation was first seen begun."""

    def provider(self, body: Body) -> None:
        """A state of a Provider."""
        self.providers[body["metadata"]["name"]] = body

    def operation(self, body: Body) -> None:
        """A state of an operation; that which made the first key has one step."""
        steps = (body.get("status") or {}).get("steps") or ()
        if len(steps) != STEPS:
            return
        begun = self.begun_at.setdefault(body["spec"]["resourceRef"]["name"], {})
        for number, step in enumerate(steps, start=1):
            if step["state"] != "Pending":
                begun.setdefault(number, time.monotonic())

    def ready(self) -> int:
        """How many are Ready."""
        return sum(holds(body, "Ready") for body in self.providers.values())

    def digest(self, name: str) -> str:
        """Of the plan that status shows; empty when it shows none."""
        return str(((self.providers[name].get("status") or {}).get("plan") or {}).get("digest") or "")

    def last_begin(self, name: str) -> float:
        """When its last step was seen to begin; before everything when none was."""
        return max(self.begun_at.get(name, {}).values(), default=float("-inf"))


async def measure(stage: Stage, note: str, count: int) -> list[Figure]:
    """Three ways to stop; the operator runs."""
    admin, editor, approver = (stage.client(user) for user in ("admin", "editor", "approver"))
    seen, dice = Seen(), random.Random(2)  # noqa: S311 - the same moments in every run
    ways = {"pause": _pause(approver), "reject": _reject(approver, seen), "delete": _delete(editor)}
    probes, trials = names("probe", PROBES), {way: names(way, count) for way in ways}
    await create_namespace(admin, ROTATING)
    async with (
        following(admin, PROVIDER, ROTATING, seen.provider) as providers,
        following(admin, OPERATION, ROTATING, seen.operation) as operations,
    ):
        await _set_up(stage, editor, seen, providers, [*probes, *(name for one in trials.values() for name in one)])
        typical = percentile([await _rotate(editor, seen, operations, name) for name in probes], 0.5)
        figures: list[Figure] = []
        for way, stop in ways.items():
            stage.say(f"{way}: {count} plans of {STEPS} steps, of which three take {typical * 1000:.0f} ms")
            figures += await _stop_all(editor, seen, providers, trials[way], way, stop, dice, typical, note)
    return figures


async def _set_up(stage: Stage, editor: KubeApi, seen: Seen, follow: Follow, everybody: list[str]) -> None:
    """Providers with a key each."""
    stage.say(f"{len(everybody)} Providers whose keys are to be rotated")

    async def create(name: str) -> None:
        spec = {"type": "Fake", "fake": {}, "management": {"resyncInterval": NEVER_BY_ITSELF}}
        await editor.create(PROVIDER, {"metadata": {"name": name, "namespace": ROTATING}, "spec": spec})

    await in_parallel(create, everybody)
    count = len(everybody)
    await follow.until(lambda: seen.ready() == count, within=WITHIN, what=lambda: f"{seen.ready()} of {count} Ready")


async def _rotate(editor: KubeApi, seen: Seen, follow: Follow, name: str) -> float:
    """Seconds from asking for it until its last step was seen to begin."""
    sent = time.monotonic()
    await _annotate(editor, name, Annotation.ROTATE, "now")
    await follow.until(
        lambda: STEPS in seen.begun_at.get(name, {}), within=TRIAL_WITHIN, what=lambda: f"the last step of {name!r}"
    )
    return seen.begun_at[name][STEPS] - sent


async def _stop_all(
    editor: KubeApi,
    seen: Seen,
    follow: Follow,
    objects: list[str],
    way: str,
    stop: Stop,
    dice: random.Random,
    typical: float,
    note: str,
) -> list[Figure]:
    sent_at: dict[str, float] = {}
    for name in objects:
        await _annotate(editor, name, Annotation.ROTATE, "now")
        if way == "reject":
            await follow.until(lambda name=name: bool(seen.digest(name)), within=TRIAL_WITHIN, what=lambda: "a digest")  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
        await asyncio.sleep(dice.uniform(0, typical))
        sent_at[name] = time.monotonic()
        await stop(name)
    await asyncio.sleep(QUIET)
    after = [max(0.0, seen.last_begin(name) - sent_at[name]) for name in objects]
    reached = Counter(len(seen.begun_at.get(name, {})) for name in objects)
    told = ", ".join(f"{count} after {steps}" for steps, count in sorted(reached.items()))
    late = sum(one > 0 for one in after)
    return list(
        spread(f"{way} -> last step-begin, plans of {STEPS} steps", after, budget=BUDGET,
               note=f"{late} saw one after it; steps begun at the end: {told}; {note}")
    )  # fmt: skip


def _pause(approver: KubeApi) -> Stop:
    async def stop(name: str) -> None:
        await _annotate(approver, name, Annotation.PAUSED, "true")

    return stop


def _reject(approver: KubeApi, seen: Seen) -> Stop:
    async def stop(name: str) -> None:
        await _annotate(approver, name, Annotation.REJECT, seen.digest(name))

    return stop


def _delete(editor: KubeApi) -> Stop:
    async def stop(name: str) -> None:
        await editor.delete(PROVIDER, ROTATING, name)

    return stop


async def _annotate(api: KubeApi, name: str, what: str, value: str) -> None:
    await api.patch(PROVIDER, ROTATING, name, {"metadata": {"annotations": {what: value}}})
