"""A restart among settled objects: how soon it leads and watches, what that takes, and that it writes nothing.

The servers of the Fake provider live in the operator's memory, so the new process would find them gone. No object is
looked at within the window, though: first looks are spread over resyncInterval, and that is more than a year here. What
is measured is the start itself: LISTs, cache, journal, watches, and that settled objects cost no write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from bench import rivals
from bench.figures import Figure
from bench.following import TooLate
from bench.objects import INSTANCE
from bench.processes import cpu_seconds, peak_rss_mb, rss_mb
from bench.stage import Stage

READY_BUDGET = 10.0
WRITES_BUDGET = 0
RSS_BUDGET = 400.0
WINDOW = 10.0
"""Seconds after /leading in which writes are counted."""
IDLE = 0.1
"""Cores: below this, over a second, the operator is idle."""
IDLE_WITHIN = 120.0


async def measure(stage: Stage, go: Path | None) -> list[Figure]:
    """The operator, which does not run, is started and left running; `go` is the client-go controller, if there is."""
    settled = len((await stage.client("admin").list(INSTANCE)).items)
    beside = await _beside(stage, go)
    stage.say(f"starting the operator among {settled} settled objects")
    began = time.monotonic()
    await stage.start_operator()
    leading = time.monotonic() - began
    quiet = await idle(stage.operator_pid, began)
    await asyncio.sleep(max(0.0, began + leading + WINDOW - time.monotonic()))
    return [*await _figures(stage, settled, leading, quiet), *beside]


async def idle(pid: int, began: float) -> float:
    """Seconds since `began` until the first second in which a process did next to nothing; TooLate when none came."""
    while (since := time.monotonic()) < began + IDLE_WITHIN:
        before = cpu_seconds(pid)
        await asyncio.sleep(1.0)
        if cpu_seconds(pid) - before < IDLE:
            return since - began
    raise TooLate(f"process {pid} was not below {IDLE} cores for a second within {IDLE_WITHIN:g} s")


async def _figures(stage: Stage, settled: int, leading: float, idle: float) -> Sequence[Figure]:
    requests, pid = await stage.requests(), stage.operator_pid
    told = ", ".join(f"{verb} {what} {count:.0f}" for (verb, what), count in sorted(requests.writes.items()))
    name = f"restart with {settled} settled objects"
    return (
        Figure(name=f"{name} until /leading", value=leading, unit="s", note="a new Python process included"),
        Figure(name=f"{name} until watching and idle", value=idle, unit="s", budget=READY_BUDGET,
               note=f"idle: below {IDLE} cores for a second"),
        Figure(name="writes in the 10 s after a restart", value=requests.written, unit="", budget=WRITES_BUDGET,
               note=told or "the Lease and the audit trail's checkpoint excepted"),
        Figure(name=f"operator RSS after the {name}", value=rss_mb(pid), unit="MiB", budget=RSS_BUDGET,
               note=f"at its peak {peak_rss_mb(pid):.0f} MiB"),
        Figure(name=f"operator CPU for the {name}", value=cpu_seconds(pid), unit="s",
               note="from its start until 10 s after /leading"),
    )  # fmt: skip


async def _beside(stage: Stage, go: Path | None) -> Sequence[Figure]:
    """What the others need for a LIST of the same objects and a WATCH: they keep them, and nothing else."""
    figures: list[Figure] = []
    others = [("bare loop", rivals.bare_changes(stage))]
    for who, command in [*others, ("client-go", (go, stage.kubeconfig("operator")))] if go else others:
        async with rivals.running(*command) as rival:
            _, seconds, count = rival.said.split()
            await asyncio.sleep(1.0)
            pid = rival.process.pid
            figures += [
                Figure(name=f"{who}: LIST of {count} objects and WATCH", value=float(seconds), unit="s",
                       note=f"{cpu_seconds(pid):.1f} s of CPU, its start included"),
                Figure(name=f"{who}: RSS with {count} objects", value=rss_mb(pid), unit="MiB"),
            ]  # fmt: skip
    return figures
