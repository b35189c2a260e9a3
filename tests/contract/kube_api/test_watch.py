"""Watching: from nothing, from a version, by namespace, to the end."""

from __future__ import annotations

import pytest
from tests.support.kube_world import INSTANCE, World, instance, secret, watching

from agentmetal.core.errors import Gone, NotFound
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.ports import WatchEvent
from agentmetal.core.resource import ResourceType


async def _events(world: World, version: str, count: int, namespace: str | None = "") -> list[WatchEvent]:
    seen: list[WatchEvent] = []
    scope = world.namespace if namespace == "" else namespace
    async with watching(world.admin, SECRET, scope, version) as events:
        async for event in events:
            if event.type != "BOOKMARK":
                seen.append(event)
            if len(seen) == count:
                break
    return seen


async def test_a_watch_from_a_list_tells_everything_after_it_in_order(world: World) -> None:
    await world.admin.create(SECRET, secret("before", world.namespace))
    listed = await world.admin.list(SECRET, world.namespace)
    made = await world.admin.create(SECRET, secret("a", world.namespace))
    patch = {"metadata": {"annotations": {"x": "1"}}}
    patched = await world.admin.patch(SECRET, world.namespace, "a", patch)
    await world.admin.delete(SECRET, world.namespace, "a")
    added, modified, deleted = await _events(world, listed.resource_version, 3)
    assert (added.type, modified.type, deleted.type) == ("ADDED", "MODIFIED", "DELETED")
    assert (added.object, modified.object) == (made, patched)
    assert deleted.object["metadata"]["annotations"] == {"x": "1"}
    versions = [int(event.object["metadata"]["resourceVersion"]) for event in (added, modified, deleted)]
    assert versions == sorted(set(versions))


async def test_an_open_watch_hears_what_happens(world: World) -> None:
    listed = await world.erin.list(INSTANCE, world.namespace)
    async with watching(world.erin, INSTANCE, world.namespace, listed.resource_version) as events:
        made = await world.erin.create(INSTANCE, instance("web", world.namespace))
        assert await anext(events) == WatchEvent(type="ADDED", object=made)
        status = {"status": {"phase": "Running"}}
        told = await world.operator.patch(INSTANCE, world.namespace, "web", status, subresource="status")
        assert await anext(events) == WatchEvent(type="MODIFIED", object=told)


async def test_a_watch_from_nothing_begins_with_what_is_there(world: World) -> None:
    made = [await world.admin.create(SECRET, secret(name, world.namespace)) for name in ("a", "b")]
    seen = await _events(world, "", 2)
    assert {event.type for event in seen} == {"ADDED"}
    assert sorted(event.object["metadata"]["uid"] for event in seen) == sorted(item["metadata"]["uid"] for item in made)


async def test_a_watch_of_a_namespace_hears_nothing_of_others(world: World) -> None:
    listed = await world.admin.list(SECRET)
    elsewhere = await world.admin.create(SECRET, secret(f"other-{world.namespace}", "default"))
    here = await world.admin.create(SECRET, secret("a", world.namespace))
    (first,) = await _events(world, listed.resource_version, 1)
    assert first.object == here
    everywhere = await _events(world, listed.resource_version, 2, namespace=None)
    assert [event.object["metadata"]["uid"] for event in everywhere] == [
        elsewhere["metadata"]["uid"],
        here["metadata"]["uid"],
    ]


async def test_a_patch_without_effect_is_no_event(world: World) -> None:
    made = await world.admin.create(SECRET, secret("a", world.namespace, annotations={"x": "1"}))
    await world.admin.patch(SECRET, world.namespace, "a", {"metadata": {"annotations": {"x": "1"}}})
    changed = await world.admin.patch(SECRET, world.namespace, "a", {"metadata": {"annotations": {"x": "2"}}})
    (event,) = await _events(world, made["metadata"]["resourceVersion"], 1)
    assert event.object == changed


async def test_removing_the_last_finalizer_is_told_as_deleted_only(world: World) -> None:
    await world.admin.create(SECRET, secret("a", world.namespace, finalizers=["example.io/held"]))
    await world.admin.delete(SECRET, world.namespace, "a")
    going = await world.admin.get(SECRET, world.namespace, "a")
    await world.admin.patch(SECRET, world.namespace, "a", {"metadata": {"finalizers": None}})
    (event,) = await _events(world, going["metadata"]["resourceVersion"], 1)
    assert event.type == "DELETED"
    assert event.object["metadata"]["deletionTimestamp"]


async def test_a_version_that_is_forgotten_is_gone(world: World) -> None:
    if world.memory:
        await world.erin.create(INSTANCE, instance("web", world.namespace))
        world.memory.compact()
    # On the real server, version 1 is older than the CRD: its history begins later.
    with pytest.raises(Gone):
        async with watching(world.erin, INSTANCE, world.namespace, "1") as events:
            await anext(events)


async def test_a_type_that_is_not_served_is_not_found(world: World) -> None:
    nothing = ResourceType("agentmetal.io", "v1alpha1", "Nothing", "nothings")
    with pytest.raises(NotFound):
        await world.admin.list(nothing, world.namespace)
    with pytest.raises(NotFound):
        async with watching(world.admin, nothing, None, "") as events:
            await anext(events)
