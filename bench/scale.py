"""The measurements that share one crowd of objects: burst, changes, restart, in the order that makes it only once.

The bare loop's burst and the operator's leave settled objects behind; when those are fewer than `settled` the rest is
written the short way. Only the operator's own are changed: they have servers, which live in its memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import burst, changes, restart, rivals, takeover
from bench.burst import Burst, OperatorBurst
from bench.changes import Load
from bench.figures import Figure
from bench.objects import INSTANCE, create_namespace, settle
from bench.recording import writes_in
from bench.sheet import Sheet
from bench.stage import Stage

PARTS = frozenset({"burst", "changes", "restart"})
MIXED_SHARE = 0.5
"""The load with plans lasts half as long."""
LADDER = (10.0, 25.0, 40.0)
"""Lower rates, each for half the time: up to which one the budgets hold on this machine."""
LADDER_SHARE = 0.5
CLIENT_GO = "client-go"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything; the defaults are the budgets'."""

    objects: int = 5000
    """Size of the burst."""
    settled: int = 10_000
    """Objects in the cluster while it is changed and restarted, at least."""
    rate: float = 100.0
    """Changes a second."""
    seconds: float = 30.0
    """How long it is changed."""


async def measure(stage: Stage, only: frozenset[str], sizes: Sizes, sheet: Sheet) -> Sequence[Figure]:
    """Those of PARTS that are asked for go onto the sheet as they end. Whether the operator runs then is left open."""
    sheet.expect("burst", "changes", "changes of others", "restart")
    go = await rivals.build_go(stage.directory, stage.say) if only & {"changes", "restart"} else None
    template = await burst.record(stage)
    before = await burst.bare_burst(stage, "bare-1", template, sizes.objects) if "burst" in only else None
    await _fill_up(stage, template, sizes)
    operator = await burst.operator_burst(stage, sizes.objects)
    ladder = loads(sizes)
    if "changes" in only:
        await _changes(stage, ladder, sheet)
    await stage.stop_operator()
    if before is not None:
        await sheet.attempt("burst", _burst(stage, operator, before, template))
    if "changes" in only:
        await _beside(stage, ladder, go, sheet)
    if "restart" in only:
        await sheet.attempt("restart", restart.measure(stage, go))
        await sheet.attempt("restart", takeover.measure(stage), what="takeover")
    return ()


def loads(sizes: Sizes) -> Sequence[Load]:
    """The ladder, and what the budget is for."""
    lower = [Load(rate=rate, seconds=sizes.seconds * LADDER_SHARE, rung=True) for rate in LADDER]
    return [*(load for load in lower if load.rate < sizes.rate), Load(rate=sizes.rate, seconds=sizes.seconds)]


async def _fill_up(stage: Stage, template: Mapping[str, Any], sizes: Sizes) -> None:
    """Settled objects, so that with those of the burst there are enough."""
    there = len((await stage.client("admin").list(INSTANCE)).items)
    if (lacking := sizes.settled - sizes.objects - there) <= 0:
        return
    stage.say(f"{lacking} more settled objects")
    await create_namespace(stage.client("admin"), "settled")
    await settle(stage.client("editor"), stage.client("operator"), "settled", lacking, template["final_status"])


async def _changes(stage: Stage, ladder: Sequence[Load], sheet: Sheet) -> None:
    """The operator, which runs: ever more, then with plans in between."""
    mixed = replace(ladder[-1], seconds=ladder[-1].seconds * MIXED_SHARE, with_plans=True)
    for load in (*ladder, mixed):
        await sheet.attempt("changes", _changed(stage, load), what=f"{load}, {changes.OPERATOR}")


async def _changed(stage: Stage, load: Load) -> Sequence[Figure]:
    """One load; and, of the plain one, what the operator says of itself."""
    inside = await stage.passes()
    found = await changes.measure(stage, changes.OPERATOR, stage.operator_pid, "burst", load)
    if load.rung or load.with_plans:
        return found
    passes = (await stage.passes()).since(inside)
    return [
        *found,
        Figure(name=f"{load}, operator: its own passes, p95 at most", value=passes.percentile(0.95), unit="s",
               note="controller_runtime_reconcile_time_seconds, upper end of the bucket"),
    ]  # fmt: skip


async def _burst(stage: Stage, operator: OperatorBurst, before: Burst, template: Mapping[str, Any]) -> Sequence[Figure]:
    """The bare loop once more, and how they compare."""
    after = await burst.bare_burst(stage, "bare-2", template, min(before.count, burst.BARE_AFTER))
    return burst.figures(operator, before, after, writes_in(template))


async def _beside(stage: Stage, ladder: Sequence[Load], go: Path | None, sheet: Sheet) -> None:
    """The bare loop and client-go under the same load, client-go also on the ladder; no operator runs."""
    part, full = "changes of others", ladder[-1]
    for who, command in _others(stage, go):
        async with rivals.running(*command) as rival:
            pid = rival.process.pid
            for load in [*(ladder[:-1] if who == CLIENT_GO else ()), full]:
                await sheet.attempt(part, changes.measure(stage, who, pid, "burst", load), what=f"{load}, {who}")


def _others(stage: Stage, go: Path | None) -> Sequence[tuple[str, tuple[str | Path, ...]]]:
    others = [("bare loop", rivals.bare_changes(stage))]
    return [*others, (CLIENT_GO, (go, stage.kubeconfig("operator")))] if go else others
