"""The measurements that share one crowd of objects: burst, changes, restart, in the order that makes it only once.

The bare loop's burst and the operator's leave settled objects behind; when those are fewer than `settled` the rest is
written the short way. Only the operator's own are changed: they have servers, which live in its memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import burst, changes, restart, rivals
from bench.attempts import attempt
from bench.changes import Load
from bench.figures import Figure
from bench.objects import INSTANCE, create_namespace, settle
from bench.recording import writes_in
from bench.stage import Stage

PARTS = frozenset({"burst", "changes", "restart"})
RIVALS_SHARE = 0.5
"""The others beside the operator are measured for half as long."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything; the defaults are the budgets'."""

    objects: int = 5000
    """Size of the burst."""
    settled: int = 10_000
    """Objects in the cluster while it is changed and restarted, at least."""
    rate: float = 100.0
    """Changes a second."""
    seconds: float = 60.0
    """How long it is changed."""


async def measure(stage: Stage, only: frozenset[str], sizes: Sizes) -> list[Figure]:
    """Those of PARTS that are asked for. The operator runs afterwards if it is restarted."""
    go = await rivals.build_go(stage.directory, stage.say) if only & {"changes", "restart"} else None
    template = await burst.record(stage)
    before = await burst.bare_burst(stage, "bare-1", template, sizes.objects) if "burst" in only else None
    await _fill_up(stage, template, sizes)
    operator = await burst.operator_burst(stage, sizes.objects)
    load = Load(rate=sizes.rate, seconds=sizes.seconds)
    changed = await attempt(stage.say, "changes", _changes(stage, load)) if "changes" in only else ()
    await stage.stop_operator()
    figures: list[Figure] = []
    if before is not None:
        after = await burst.bare_burst(stage, "bare-2", template, min(sizes.objects, burst.BARE_AFTER))
        figures += burst.figures(operator, before, after, writes_in(template))
    figures += changed
    if "changes" in only:
        shorter = Load(rate=sizes.rate, seconds=sizes.seconds * RIVALS_SHARE)
        figures += await attempt(stage.say, "changes of others", _beside(stage, shorter, go))
    if "restart" in only:
        figures += await attempt(stage.say, "restart", restart.measure(stage, go))
    return figures


async def _fill_up(stage: Stage, template: Mapping[str, Any], sizes: Sizes) -> None:
    """Settled objects, so that with those of the burst there are enough."""
    there = len((await stage.client("admin").list(INSTANCE)).items)
    if (lacking := sizes.settled - sizes.objects - there) <= 0:
        return
    stage.say(f"{lacking} more settled objects")
    await create_namespace(stage.client("admin"), "settled")
    await settle(stage.client("editor"), stage.client("operator"), "settled", lacking, template["final_status"])


async def _changes(stage: Stage, load: Load) -> list[Figure]:
    """The operator, which runs: plain, then with plans in between; and what it says of itself."""
    pid, inside = stage.operator_pid, await stage.passes()
    plain = await changes.measure(stage, changes.OPERATOR, pid, "burst", load)
    passes = (await stage.passes()).since(inside)
    mixed = Load(rate=load.rate, seconds=load.seconds * RIVALS_SHARE, with_plans=True)
    return [
        *plain,
        Figure(name=f"{load.rate:g} changes/s, operator: its own passes, p95 at most", value=passes.percentile(0.95),
               unit="s", note="controller_runtime_reconcile_time_seconds, upper end of the bucket"),
        *await changes.measure(stage, changes.OPERATOR, pid, "burst", mixed),
    ]  # fmt: skip


async def _beside(stage: Stage, load: Load, go: Path | None) -> list[Figure]:
    """The bare loop and client-go under the same load; no operator runs."""
    figures: list[Figure] = []
    for who, command in _others(stage, go):
        async with rivals.running(*command) as rival:
            figures += await changes.measure(stage, who, rival.process.pid, "burst", load)
    return figures


def _others(stage: Stage, go: Path | None) -> Sequence[tuple[str, tuple[str | Path, ...]]]:
    others = [("bare loop", rivals.bare_changes(stage))]
    return [*others, ("client-go", (go, stage.kubeconfig("operator")))] if go else others
