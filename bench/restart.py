"""A restart among settled objects: how soon it is ready, and that it writes nothing.

The servers of the Fake provider live in the operator's memory, so the new process would find them gone. No object is
looked at within the window, though: first looks are spread over resyncInterval, and that is weeks here. What is
measured is the start itself: LISTs, cache, journal, watches, and that settled objects cost no write.
"""

from __future__ import annotations

import asyncio
import time

from bench.figures import Figure
from bench.objects import INSTANCE
from bench.processes import cpu_seconds
from bench.stage import Stage

READY_BUDGET = 10.0
WRITES_BUDGET = 0
RSS_BUDGET = 400.0
WINDOW = 10.0
"""Seconds after /leading in which writes are counted."""


async def measure(stage: Stage) -> tuple[Figure, ...]:
    """The operator is stopped, started, and left running."""
    await stage.stop_operator()
    settled = len((await stage.client("admin").list(INSTANCE)).items)
    stage.say("starting the operator again")
    began = time.monotonic()
    await stage.start_operator()
    ready = time.monotonic() - began
    await asyncio.sleep(WINDOW)
    requests = await stage.requests()
    told = ", ".join(f"{verb} {what} {count:.0f}" for (verb, what), count in sorted(requests.writes.items()))
    return (
        Figure(name=f"restart with {settled} settled objects until /leading", value=ready, unit="s",
               budget=READY_BUDGET, note="a new Python process included"),
        Figure(name="writes in the 10 s after a restart", value=requests.written, unit="", budget=WRITES_BUDGET,
               note=told or "the Lease excepted"),
        Figure(name="operator RSS after the restart", value=stage.operator_rss_mb(), unit="MiB", budget=RSS_BUDGET),
        Figure(name="operator CPU from its start until 10 s after /leading", value=cpu_seconds(stage.operator_pid),
               unit="s"),
    )  # fmt: skip
