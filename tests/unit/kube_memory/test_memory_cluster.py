"""What the API in memory can do beyond the real one: faults, points, counting, bookmarks, bounded history."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

import pytest

from agentmetal.core.clock import LoopClock
from agentmetal.core.errors import Gone, NotFound, OutcomeUnknown, Unavailable
from agentmetal.core.kubetypes import NAMESPACE, SECRET
from agentmetal.core.operation import Operation
from agentmetal.core.ports import WatchEvent
from agentmetal.core.resource import ResourceType
from agentmetal.kube.memory import MemoryCluster, Request


def _secret(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", **metadata}}


async def _seen(cluster: MemoryCluster, version: str, count: int) -> list[WatchEvent]:
    events = cluster.api("admin").watch(SECRET, "default", resource_version=version)
    async with aclosing(cast("Any", events)), asyncio.timeout(60):
        return [await anext(events) for _ in range(count)]


def _names(events: list[WatchEvent]) -> list[str]:
    return [event.object["metadata"]["name"] for event in events]


async def test_a_fault_before_leaves_no_effect() -> None:
    cluster = MemoryCluster()

    def refuse(verb: str, type: ResourceType, name: str) -> None:
        if (verb, type, name) == ("create", SECRET, "a"):
            raise Unavailable("the server does not answer")

    cluster.faults.before = refuse
    with pytest.raises(Unavailable):
        await cluster.api("admin").create(SECRET, _secret("a"))
    with pytest.raises(NotFound):
        await cluster.api("admin").get(SECRET, "default", "a")


async def test_a_fault_after_has_acted_and_loses_the_answer() -> None:
    cluster = MemoryCluster()

    def lose(verb: str, type: ResourceType, name: str) -> None:
        raise OutcomeUnknown("the answer was lost")

    cluster.faults.after = lose
    with pytest.raises(OutcomeUnknown):
        await cluster.api("admin").create(SECRET, _secret("a"))
    assert (await cluster.api("admin").get(SECRET, "default", "a"))["metadata"]["name"] == "a"


async def test_requests_are_counted_and_dry_runs_are_no_writes() -> None:
    cluster = MemoryCluster([Operation])
    api = cluster.api("admin")
    await api.create(SECRET, _secret("a"))
    await api.create(SECRET, _secret("b"), dry_run=True)
    await api.list(SECRET)
    await api.patch(SECRET, "default", "a", {"metadata": {"labels": {"x": "y"}}})
    await api.delete(SECRET, "default", "a")
    assert [request.verb for request in cluster.requests] == ["create", "dry-run", "list", "patch", "delete"]
    assert cluster.writes[0] == Request("create", "secrets", "a", "")
    assert len(cluster.writes) == 3


@pytest.mark.parametrize("point", ["before create secrets a", "after create secrets a"])
async def test_a_crash_at_a_point_is_before_or_after_the_effect(point: str) -> None:
    class Crash(BaseException):
        """The process ends here."""

    cluster = MemoryCluster()

    def crash(label: str) -> None:
        if label == point:
            raise Crash

    cluster.checkpoint = crash
    with pytest.raises(Crash):
        await cluster.api("admin").create(SECRET, _secret("a"))
    cluster.checkpoint = None
    stored = (await cluster.api("admin").list(SECRET)).items
    assert len(stored) == (1 if point.startswith("after") else 0)


async def test_a_point_may_be_awaited_and_others_act_meanwhile() -> None:
    cluster, go = MemoryCluster(), asyncio.Event()
    reached = asyncio.Event()

    async def hold(label: str) -> None:
        if label.startswith("after create secrets a"):
            reached.set()
            await go.wait()

    cluster.checkpoint = hold
    creating = asyncio.create_task(cluster.api("admin").create(SECRET, _secret("a")))
    await reached.wait()
    await cluster.api("admin").delete(SECRET, "default", "a")
    go.set()
    assert (await creating)["metadata"]["name"] == "a"


async def test_two_conditional_writers_interleave_and_one_wins() -> None:
    cluster = MemoryCluster()
    api = cluster.api("admin")
    made = await api.create(SECRET, _secret("a"))
    patch = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "annotations": {"x": "1"}}}
    answers = await asyncio.gather(
        *(api.patch(SECRET, "default", "a", patch) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, dict) for answer in answers) == 1


@pytest.mark.looptime
async def test_events_are_dropped_doubled_and_late_on_demand() -> None:
    cluster = MemoryCluster(clock=LoopClock())
    watch = asyncio.create_task(_seen(cluster, "3", 4))
    await asyncio.sleep(0.1)
    for name, fault in (("a", "drop_events"), ("b", "duplicate_events"), ("c", "")):
        if fault:
            setattr(cluster.faults, fault, 1)
        await cluster.api("admin").create(SECRET, _secret(name))
    began, cluster.faults.delay_events = asyncio.get_running_loop().time(), 5.0
    await cluster.api("admin").create(SECRET, _secret("d"))
    assert _names(await watch) == ["b", "b", "c", "d"]
    assert asyncio.get_running_loop().time() - began == pytest.approx(5.0, abs=0.1)


async def test_bookmarks_carry_the_version_and_watches_end_when_told() -> None:
    cluster = MemoryCluster()
    made = await cluster.api("admin").create(SECRET, _secret("a"))
    version = made["metadata"]["resourceVersion"]
    events = cluster.api("admin").watch(SECRET, None, resource_version=version)
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    cluster.bookmark()
    cluster.end_watches()
    bookmark = await first
    assert (bookmark.type, bookmark.object["metadata"]["resourceVersion"]) == ("BOOKMARK", version)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_history_is_bounded_and_what_fell_out_is_gone() -> None:
    cluster = MemoryCluster(history=2)
    versions = [
        (await cluster.api("admin").create(SECRET, _secret(name)))["metadata"]["resourceVersion"] for name in "abcd"
    ]
    assert _names(await _seen(cluster, versions[1], 2)) == ["c", "d"]
    with pytest.raises(Gone):
        await _seen(cluster, versions[0], 1)


async def test_a_run_repeats_itself_exactly() -> None:
    first, second = MemoryCluster(), MemoryCluster()
    made = [await cluster.api("admin").create(SECRET, _secret("a")) for cluster in (first, second)]
    assert made[0]["metadata"]["uid"] == made[1]["metadata"]["uid"]


async def test_a_namespace_that_goes_waits_for_finalizers() -> None:
    cluster = MemoryCluster()
    cluster.create_namespace("team")
    api = cluster.api("admin")
    held = {"metadata": {"name": "a", "namespace": "team", "finalizers": ["example.io/held"]}}
    await api.create(SECRET, held)
    cluster.delete_namespace("team")
    await asyncio.sleep(0)
    assert (await api.get(NAMESPACE, "", "team"))["status"]["phase"] == "Terminating"
    await api.patch(SECRET, "team", "a", {"metadata": {"finalizers": None}})
    await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await api.get(NAMESPACE, "", "team")
