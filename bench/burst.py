"""A burst of new objects until every status is final: by the operator, and by the bare loop as the floor beside it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import Operation
from agentmetal.core.ports import KubeApi
from bench.figures import Figure
from bench.following import Body, following, holds
from bench.objects import INSTANCE, create_cloud, create_namespace, in_parallel, instance, names
from bench.processes import Requests, cpu_seconds
from bench.recording import Recording, writes_in
from bench.stage import Stage

ROOT = Path(__file__).parent.parent
WITHIN_PER_OBJECT = 0.5
WITHIN_AT_LEAST = 120.0
RATIO_BUDGET = 1.5
WRITES_BUDGET = 6
"""The design's five (operation created, started, closed; status twice) and the Secret with the host key."""


@dataclass(frozen=True, kw_only=True)
class Burst:
    """One burst."""

    seconds: float
    """From the first create until the watch showed the last final status."""
    cpu: float
    """CPU seconds of whoever did the work."""
    api_cpu: float
    """CPU seconds of API server and etcd."""


@dataclass(frozen=True, kw_only=True)
class OperatorBurst:
    """The operator's, and what else was seen."""

    burst: Burst
    requests: Requests
    rss_mb: float


async def measure(stage: Stage, count: int) -> tuple[Figure, ...]:
    """The bare loop, the operator, the bare loop again: what slows the machine down meanwhile meets both."""
    template = await record(stage)
    before = await bare_burst(stage, "bare-1", template, count)
    operator = await operator_burst(stage, count)
    await stage.stop_operator()
    after = await bare_burst(stage, "bare-2", template, count)
    return (
        *_ratios(operator.burst, before, after, count, writes_in(template)),
        *_writes(operator.requests, count),
        Figure(name="operator CPU for the burst", value=operator.burst.cpu, unit="s"),
        Figure(name="operator CPU per object", value=operator.burst.cpu / count * 1000, unit="ms"),
        Figure(name="operator RSS after the burst", value=operator.rss_mb, unit="MiB"),
    )


def _ratios(operator: Burst, before: Burst, after: Burst, count: int, writes: int) -> tuple[Figure, ...]:
    bare = (before.seconds + after.seconds) / 2
    api_cpu = (before.api_cpu + after.api_cpu) / 2
    own_cpu = (before.cpu + after.cpu) / 2
    note = f"bare loop: {before.seconds:.1f} s before, {after.seconds:.1f} s after; {writes} writes per object"
    return (
        Figure(name=f"burst of {count} objects / bare loop", value=operator.seconds / bare, unit="x",
               budget=RATIO_BUDGET, note=note),
        Figure(name=f"burst of {count} objects", value=operator.seconds, unit="s"),
        Figure(name=f"bare loop, {count} objects", value=bare, unit="s"),
        Figure(name="CPU of all of them / bare loop", value=(operator.api_cpu + operator.cpu) / (api_cpu + own_cpu),
               unit="x", note="what the ratio of times tends to where nothing else runs"),
        Figure(name="CPU of API server and etcd / bare loop", value=operator.api_cpu / api_cpu, unit="x",
               note=f"{operator.api_cpu:.1f} s; bare loop {api_cpu:.1f} s"),
        Figure(name="CPU of operator / bare loop", value=operator.cpu / own_cpu, unit="x",
               note=f"{operator.cpu:.1f} s; bare loop {own_cpu:.1f} s"),
    )  # fmt: skip


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
        await _create_and_wait(admin, editor, "sample", 1, recording)
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
    seconds = await _create_and_wait(admin, editor, "burst", count)
    burst = Burst(seconds=seconds, cpu=cpu_seconds(pid) - cpu, api_cpu=stage.api_server_cpu() - api_cpu)
    asked = (await stage.requests()).since(requests)
    return OperatorBurst(burst=burst, requests=asked, rss_mb=stage.operator_rss_mb())


async def bare_burst(stage: Stage, namespace: str, template: Mapping[str, Any], count: int) -> Burst:
    """The bare loop's burst. No operator may run: it would work on the same objects."""
    stage.say(f"the bare loop: {count} objects")
    admin, editor = stage.client("admin"), stage.client("editor")
    await create_namespace(admin, namespace)
    async with _bare_process(stage, namespace, template) as process:
        cpu, api_cpu = cpu_seconds(process.pid), stage.api_server_cpu()
        seconds = await _unless_it_ends(process, _create_and_wait(admin, editor, namespace, count))
        return Burst(seconds=seconds, cpu=cpu_seconds(process.pid) - cpu, api_cpu=stage.api_server_cpu() - api_cpu)


async def _unless_it_ends(process: Process, work: Coroutine[Any, Any, float]) -> float:
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
    admin: KubeApi, editor: KubeApi, namespace: str, count: int, recording: Recording | None = None
) -> float:
    """Create them 32-way as an editor; seconds until every one was seen Ready at its generation."""
    final: set[str] = set()

    def see(body: Body) -> None:
        if recording:
            recording.see_instance(body)
        if holds(body, "Ready"):
            final.add(body["metadata"]["name"])

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
        return time.monotonic() - began


@asynccontextmanager
async def _bare_process(stage: Stage, namespace: str, template: Mapping[str, Any]) -> AsyncIterator[Process]:
    """Running, and watching."""
    file = stage.directory / "template.json"
    file.write_text(json.dumps(template))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.bare", stage.kubeconfig("operator"), namespace, file),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
        start_new_session=True,  # Ctrl-C is for us; we end it
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError("the bare loop did not start; its complaint stands above")
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
