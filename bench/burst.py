"""A burst of new objects until every status is final: by the operator, and by the bare loop as the floor beside it."""

from __future__ import annotations

import asyncio
import json
import time
from asyncio.subprocess import Process
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import Operation
from agentmetal.core.ports import KubeApi
from bench import rivals
from bench.figures import Figure
from bench.following import Body, following, holds
from bench.objects import INSTANCE, create_cloud, create_namespace, in_parallel, instance, names
from bench.processes import Requests, cpu_seconds
from bench.recording import Recording
from bench.stage import Stage

WITHIN_PER_OBJECT = 0.5
WITHIN_AT_LEAST = 120.0
RATIO_BUDGET = 1.5
WRITES_BUDGET = 6
"""The design's five (operation created, started, closed; status twice) and the Secret with the host key (ADR 10)."""
BARE_AFTER = 1000
"""Objects of the second bare loop at most: it shows whether the machine has changed, by its rate."""
TELL_EVERY = 1000
PIECES = 5
"""A burst is timed in so many equal pieces: they show whether time grows with the number alone."""


@dataclass(frozen=True, kw_only=True)
class Burst:
    """One burst."""

    finals: Sequence[float]
    """Seconds from the first create until the watch showed each object's final status, in order."""
    cpu: float
    """CPU seconds of whoever did the work."""
    api_cpu: float
    """CPU seconds of API server and etcd."""

    @property
    def count(self) -> int:
        """How many objects."""
        return len(self.finals)

    @property
    def seconds(self) -> float:
        """Until the last one."""
        return self.finals[-1]

    def pieces(self) -> tuple[float, ...]:
        """Milliseconds per object in each piece."""
        ends = [self.count * number // PIECES for number in range(1, PIECES + 1)]
        starts = [0, *ends[:-1]]
        times = [0.0, *(self.finals[end - 1] for end in ends)]
        return tuple(
            1000 * (until - since) / max(1, end - start)
            for start, end, since, until in zip(starts, ends, times[:-1], times[1:], strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class OperatorBurst:
    """The operator's, and what else was seen."""

    burst: Burst
    requests: Requests
    rss_mb: float


def figures(operator: OperatorBurst, before: Burst, after: Burst, writes: int) -> tuple[Figure, ...]:
    """The operator's burst between the two of the bare loop: what slows the machine down meanwhile meets both."""
    burst, count = operator.burst, operator.burst.count
    return (
        *_ratios(burst, before, after, writes),
        *_writes(operator.requests, count),
        Figure(name=f"operator CPU for the burst of {count}", value=burst.cpu, unit="s"),
        Figure(name="operator CPU per object", value=burst.cpu / count * 1000, unit="ms"),
        Figure(name=f"operator RSS after the burst of {count}", value=operator.rss_mb, unit="MiB"),
    )


def _ratios(operator: Burst, before: Burst, after: Burst, writes: int) -> tuple[Figure, ...]:
    """Rates per object, for the second bare loop is shorter than the first, which is as long as the operator's."""
    count = operator.count
    bare = _mean(before.seconds / before.count, after.seconds / after.count) * count
    api_cpu = _mean(before.api_cpu / before.count, after.api_cpu / after.count) * count
    own_cpu = _mean(before.cpu / before.count, after.cpu / after.count) * count
    note = (
        f"{writes} writes per object; the bare loop did {before.count} before at {_rate(before)}"
        f" and {after.count} after at {_rate(after)}"
    )
    return (
        Figure(name=f"burst of {count} objects / bare loop", value=operator.seconds / bare, unit="x",
               budget=RATIO_BUDGET, note=note),
        Figure(name=f"burst of {count} objects", value=operator.seconds, unit="s", note=_told(operator)),
        Figure(name=f"bare loop, {count} objects", value=bare, unit="s", note=_told(before)),
        Figure(name="CPU of all of them / bare loop", value=(operator.api_cpu + operator.cpu) / (api_cpu + own_cpu),
               unit="x", note="what the ratio of times tends to where nothing else runs"),
        Figure(name="CPU of API server and etcd / bare loop", value=operator.api_cpu / api_cpu, unit="x",
               note=f"{operator.api_cpu:.1f} s; bare loop {api_cpu:.1f} s"),
        Figure(name="CPU of operator / bare loop", value=operator.cpu / own_cpu, unit="x",
               note=f"{operator.cpu:.1f} s; bare loop {own_cpu:.1f} s"),
    )  # fmt: skip


def _mean(one: float, other: float) -> float:
    return (one + other) / 2


def _rate(burst: Burst) -> str:
    return f"{1000 * burst.seconds / burst.count:.1f} ms each"


def _told(burst: Burst) -> str:
    """Whether the time grows with the number of objects alone."""
    return f"ms per object, fifth by fifth: {', '.join(f'{each:.1f}' for each in burst.pieces())}"


def _writes(requests: Requests, count: int) -> tuple[Figure, ...]:
    told = ", ".join(f"{verb} {what} {n / count:.2f}" for (verb, what), n in sorted(requests.writes.items()))
    return (
        Figure(name="API writes per object", value=requests.written / count, unit="", budget=WRITES_BUDGET, note=told),
        Figure(name="API reads per object", value=requests.reads / count, unit=""),
    )


async def record(stage: Stage) -> dict[str, Any]:
    """Let the operator do one object, and keep what it writes."""
    stage.say("recording what the operator writes for one object")
    await stage.start_operator()
    admin, editor = stage.client("admin"), stage.client("editor")
    await create_cloud(admin, "sample")
    recording = Recording(name="sample-0000")
    async with (
        following(admin, SECRET, "sample", recording.see_secret),
        following(admin, Operation.info.type, "sample", _unless_provider(recording)) as operations,
    ):
        await _create_and_wait(stage, admin, editor, "sample", 1, recording)
        closed = lambda: "finishedAt" in recording.operations[-1]["status"]  # noqa: E731 - one question
        await operations.until(closed, within=WITHIN_AT_LEAST, what=lambda: "the sample's operation closed")
    await stage.stop_operator()
    return recording.template()


def _unless_provider(recording: Recording) -> Any:
    def see(body: Body) -> None:
        if body["spec"]["resourceRef"]["kind"] == INSTANCE.kind:
            recording.see_operation(body)

    return see


async def operator_burst(stage: Stage, count: int) -> OperatorBurst:
    """The operator's burst; it runs on afterwards."""
    stage.say(f"the operator: {count} objects")
    await stage.start_operator()
    admin, editor, pid = stage.client("admin"), stage.client("editor"), stage.operator_pid
    await create_cloud(admin, "burst")
    requests, cpu, api_cpu = await stage.requests(), cpu_seconds(pid), stage.api_server_cpu()
    finals = await _create_and_wait(stage, admin, editor, "burst", count)
    burst = Burst(finals=finals, cpu=cpu_seconds(pid) - cpu, api_cpu=stage.api_server_cpu() - api_cpu)
    asked = (await stage.requests()).since(requests)
    return OperatorBurst(burst=burst, requests=asked, rss_mb=stage.operator_rss_mb())


async def bare_burst(stage: Stage, namespace: str, template: Mapping[str, Any], count: int) -> Burst:
    """The bare loop's burst. No operator may run: it would work on the same objects."""
    stage.say(f"the bare loop: {count} objects")
    admin, editor = stage.client("admin"), stage.client("editor")
    await create_namespace(admin, namespace)
    file = stage.directory / "template.json"
    file.write_text(json.dumps(template))
    async with rivals.running(*rivals.bare_burst(stage, namespace, file)) as bare:
        pid = bare.process.pid
        cpu, api_cpu = cpu_seconds(pid), stage.api_server_cpu()
        finals = await _unless_it_ends(bare.process, _create_and_wait(stage, admin, editor, namespace, count))
        return Burst(finals=finals, cpu=cpu_seconds(pid) - cpu, api_cpu=stage.api_server_cpu() - api_cpu)


async def _unless_it_ends(process: Process, work: Coroutine[Any, Any, Sequence[float]]) -> Sequence[float]:
    """The work's answer; a process that ends before it will never finish its part."""
    working, ended = asyncio.create_task(work), asyncio.create_task(process.wait())
    try:
        await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RuntimeError(f"the bare loop ended with code {ended.result()}; its complaint stands above")
        return working.result()
    finally:
        for task in (working, ended):
            task.cancel()
        await asyncio.gather(working, ended, return_exceptions=True)


async def _create_and_wait(
    stage: Stage, admin: KubeApi, editor: KubeApi, namespace: str, count: int, recording: Recording | None = None
) -> Sequence[float]:
    """Create them 32-way as an editor; seconds until each was seen Ready at its generation, in order."""
    final: dict[str, float] = {}

    def see(body: Body) -> None:
        if recording:
            recording.see_instance(body)
        name = body["metadata"]["name"]
        if name not in final and holds(body, "Ready"):
            final[name] = time.monotonic()
            if len(final) % TELL_EVERY == 0:
                stage.say(f"{len(final)} of {count} are Ready")

    async def create(name: str) -> None:
        await editor.create(INSTANCE, instance(namespace, name))

    async with following(admin, INSTANCE, namespace, see) as follow:
        began = time.monotonic()
        await in_parallel(create, names("sample" if recording else "web", count))
        await follow.until(
            lambda: len(final) == count,
            within=max(WITHIN_AT_LEAST, count * WITHIN_PER_OBJECT),
            what=lambda: f"{len(final)} of {count} objects of namespace {namespace!r} are Ready",
        )
        return [at - began for at in final.values()]
