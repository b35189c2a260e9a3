"""100 spec changes a second, among 10,000 objects: how soon each is reconciled, and what that costs.

The load is open: a change is sent when it is due, however late the others are. Each is an editor's PATCH of
`spec.management.retries`: a new generation that needs no plan, so the reconciler observes, compares, and restates
status with all its conditions; one write. Objects are taken in turn, so none is changed again before it is settled.
Lower rates come first (the ladder): they show up to where the budgets hold on a machine that the full rate exceeds.
In the mixed load every tenth change turns the power off or on instead: a plan of Safe and Moderate steps, with an
Operation, its journal and several passes.

Reconciled: from the moment the PATCH is sent until a watch shows status.observedGeneration at the generation that the
PATCH made. For a change with a plan that is when the plan is under way, not when it has ended.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentmetal.core.errors import AgentMetalError
from agentmetal.core.ports import KubeApi
from bench.figures import Figure, percentile
from bench.following import Body, Follow, following
from bench.objects import INSTANCE
from bench.processes import cpu_seconds
from bench.stage import Stage

RECONCILED_BUDGET = 0.1
CORES_BUDGET = 0.35
PATCH_BUDGET = 0.05
SETTLES_WITHIN = 120.0
"""Seconds after the load: who has fallen behind is let catch up, or nobody would know by how much."""
EVERY_TENTH = 10
OPERATOR = "operator"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked for."""

    rate: float
    seconds: float
    with_plans: bool = False
    rung: bool = False
    """One of several lower rates: told in two lines, without a budget."""

    @property
    def count(self) -> int:
        """How many changes."""
        return round(self.rate * self.seconds)

    def __str__(self) -> str:
        return f"{self.rate:g} changes/s" + (", a tenth with plans" if self.with_plans else "")


@dataclass
class Changes:
    """What was sent and what the watch has shown."""

    sent: dict[tuple[str, int], float] = field(default_factory=dict)
    """By object and the generation that the change made."""
    seen: dict[str, dict[int, float]] = field(default_factory=dict)
    """By object and observed generation: when a watch showed it first."""
    patches: list[float] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)
    """Objects with a plan, or a spec that status does not speak of yet."""
    failed: int = 0
    """PATCHes that were not answered, or refused."""
    late: list[float] = field(default_factory=list)
    """How much later than due each was sent: whether the measurement itself kept up."""

    def see(self, body: Body) -> None:
        """A state of an object."""
        status = body.get("status") or {}
        generation = status.get("observedGeneration", 0)
        under_way = bool(status.get("plan")) or generation != body["metadata"].get("generation", generation)
        (self.under_way.add if under_way else self.under_way.discard)(body["metadata"]["name"])
        self.seen.setdefault(body["metadata"]["name"], {}).setdefault(generation, time.monotonic())

    def taken(self) -> list[float]:
        """Seconds from sending a change until it was seen reconciled; changes that never were are missing."""
        return [at - sent for (name, made), sent in self.sent.items() if (at := self._reconciled(name, made))]

    def missing(self) -> int:
        """Changes that no status speaks of yet."""
        return sum(self._reconciled(name, made) is None for name, made in self.sent)

    def _reconciled(self, name: str, made: int) -> float | None:
        return min((at for generation, at in self.seen.get(name, {}).items() if generation >= made), default=None)


async def measure(stage: Stage, who: str, pid: int, namespace: str, load: Load) -> tuple[Figure, ...]:
    """Whoever reconciles the namespace's objects runs with that pid; the budgets are the operator's."""
    stage.say(f"{load} for {load.seconds:g} s: {who}")
    admin, editor, changes = stage.client("admin"), stage.client("editor"), Changes()
    bodies = (await admin.list(INSTANCE, namespace)).items
    async with following(admin, INSTANCE, namespace, changes.see) as follow:
        cpu, api_cpu, began = cpu_seconds(pid), stage.api_server_cpu(), time.monotonic()
        await _send(editor, bodies, load, changes)
        took = time.monotonic() - began
        cpu, api_cpu = cpu_seconds(pid) - cpu, stage.api_server_cpu() - api_cpu
        await _all_reconciled(follow, changes)
    return figures(who, load, changes, cores=cpu / took, api_cores=api_cpu / took)


async def _send(editor: KubeApi, bodies: Sequence[Body], load: Load, changes: Changes) -> None:
    """Each change when it is due, whatever became of the ones before."""
    order = random.Random(1).sample(list(bodies), len(bodies))  # noqa: S311 - the same order in every run
    turns = zip(range(load.count), itertools.cycle(order), strict=False)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, body in turns:
            due = began + number / load.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            changes.late.append(time.monotonic() - due)
            group.create_task(_change(editor, body, number, load, changes))


async def _change(editor: KubeApi, body: Body, number: int, load: Load, changes: Changes) -> None:
    meta, sent = body["metadata"], time.monotonic()
    spec = _power(body) if load.with_plans and number % EVERY_TENTH == 0 else _retries(body)
    try:
        answer = await editor.patch(INSTANCE, meta["namespace"], meta["name"], {"spec": spec})
        changes.sent[meta["name"], answer["metadata"]["generation"]] = sent
        body["spec"] = answer["spec"]
    except AgentMetalError:  # an API server that does not keep up is a result, too
        changes.failed += 1
    changes.patches.append(time.monotonic() - sent)


def _retries(body: Body) -> dict[str, Any]:
    return {"management": {"retries": (body["spec"]["management"]["retries"] + 1) % 100}}


def _power(body: Body) -> dict[str, Any]:
    return {"powerState": "Off" if body["spec"].get("powerState", "On") == "On" else "On"}


async def _all_reconciled(follow: Follow, changes: Changes) -> None:
    await follow.until(
        lambda: changes.missing() == 0,
        within=SETTLES_WITHIN,
        what=lambda: f"{changes.missing()} of {len(changes.sent)} changes are not reconciled",
    )
    await follow.until(  # whoever comes next finds them settled
        lambda: not changes.under_way,
        within=SETTLES_WITHIN,
        what=lambda: f"plans of {len(changes.under_way)} objects have not ended",
    )


def figures(who: str, load: Load, changes: Changes, *, cores: float, api_cores: float) -> tuple[Figure, ...]:
    """Budgets hold for the operator's plain load only: the others stand beside it."""
    name, budgeted = f"{load}, {who}", who == OPERATOR and not load.with_plans
    held: Callable[[float], float | None] = lambda budget: budget if budgeted else None  # noqa: E731 - asked thrice
    taken = changes.taken()
    if load.rung:
        return _rung(name, taken, changes, cores, api_cores)
    late = f"the load itself was late by {percentile(changes.late, 0.95) * 1000:.0f} ms at p95"
    return (
        Figure(name=f"{name}: reconciled, p50", value=percentile(taken, 0.5), unit="s"),
        Figure(name=f"{name}: reconciled, p95", value=percentile(taken, 0.95), unit="s",
               budget=held(RECONCILED_BUDGET), note=f"{len(taken)} changes, from sending the PATCH; {late}"),
        Figure(name=f"{name}: CPU", value=cores, unit="cores", budget=held(CORES_BUDGET),
               note=f"API server and etcd: {api_cores:.2f} cores"),
        Figure(name=f"{name}: API PATCH, p95", value=percentile(changes.patches, 0.95), unit="s",
               budget=held(PATCH_BUDGET), note=f"the editor's own; {changes.failed} of {len(changes.patches)} failed"),
    )  # fmt: skip


def _rung(name: str, taken: list[float], changes: Changes, cores: float, api_cores: float) -> tuple[Figure, ...]:
    """The two lines of one step of the ladder."""
    return (
        Figure(name=f"{name}: reconciled, p95", value=percentile(taken, 0.95), unit="s",
               note=f"{len(taken)} changes; {cores:.2f} cores, API server and etcd {api_cores:.2f}"),
        Figure(name=f"{name}: API PATCH, p95", value=percentile(changes.patches, 0.95), unit="s",
               note=f"{changes.failed} of {len(changes.patches)} failed"),
    )  # fmt: skip
