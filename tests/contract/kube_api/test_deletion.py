"""Deleting: finalizers, preconditions, garbage collection, namespaces that go."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.kube_world import (
    INSTANCE,
    OPERATION,
    POLICY,
    World,
    instance,
    operation,
    owned_by,
    policy,
    secret,
    until_going,
    until_gone,
    watching,
)

from agentmetal.core.errors import Conflict, Forbidden, Invalid, NotFound
from agentmetal.core.kubetypes import NAMESPACE, SECRET
from agentmetal.core.resource import FINALIZER

HELD = ["example.io/held"]


async def _web(world: World, **spec: Any) -> dict[str, Any]:
    return await world.erin.create(INSTANCE, instance("web", world.namespace, **spec))


async def _release(world: World, name: str = "web") -> dict[str, Any]:
    return await world.operator.patch(INSTANCE, world.namespace, name, {"metadata": {"finalizers": None}})


async def _collector_is_up_to_date(world: World) -> None:
    """Wait until the garbage collector, which watches like everybody, has seen what exists now."""
    owner = await world.admin.create(SECRET, secret("probe-owner", world.namespace))
    references = owned_by(owner)
    await world.admin.create(SECRET, secret("probe", world.namespace, ownerReferences=references))
    await world.operator.create(OPERATION, operation("probe", world.namespace, ownerReferences=references))
    await world.admin.delete(SECRET, world.namespace, "probe-owner")
    for type in (SECRET, OPERATION):
        await until_gone(world.admin, type, world.namespace, "probe")


async def test_an_object_without_finalizers_is_gone_at_once(world: World) -> None:
    await world.admin.create(SECRET, secret("a", world.namespace))
    await world.admin.delete(SECRET, world.namespace, "a")
    with pytest.raises(NotFound):
        await world.admin.get(SECRET, world.namespace, "a")


async def test_a_finalizer_holds_an_object_until_it_is_removed(world: World) -> None:
    made = await _web(world)
    assert made["metadata"]["finalizers"] == [FINALIZER]
    await world.erin.delete(INSTANCE, world.namespace, "web")
    going = await world.erin.get(INSTANCE, world.namespace, "web")
    assert going["metadata"]["deletionTimestamp"]
    assert going["metadata"]["generation"] == 2
    released = await _release(world)
    assert "finalizers" not in released["metadata"]
    with pytest.raises(NotFound):
        await world.erin.get(INSTANCE, world.namespace, "web")


async def test_deleting_twice_changes_nothing(world: World) -> None:
    await _web(world)
    await world.erin.delete(INSTANCE, world.namespace, "web")
    first = await world.erin.get(INSTANCE, world.namespace, "web")
    await world.erin.delete(INSTANCE, world.namespace, "web")
    assert await world.erin.get(INSTANCE, world.namespace, "web") == first
    await _release(world)


async def test_an_object_that_goes_gets_no_new_finalizers_but_can_be_changed(world: World) -> None:
    await _web(world)
    await world.erin.delete(INSTANCE, world.namespace, "web")
    with pytest.raises(Invalid, match="finalizers"):
        await world.operator.patch(INSTANCE, world.namespace, "web", {"metadata": {"finalizers": [FINALIZER, *HELD]}})
    status = {"status": {"phase": "Deleting"}}
    patched = await world.operator.patch(INSTANCE, world.namespace, "web", status, subresource="status")
    assert patched["status"]["phase"] == "Deleting"
    await _release(world)


async def test_a_uid_deletes_only_that_very_object(world: World) -> None:
    made = await world.admin.create(SECRET, secret("a", world.namespace))
    with pytest.raises(Conflict):
        await world.admin.delete(SECRET, world.namespace, "a", uid="00000000-0000-4000-8000-000000000000")
    await world.admin.delete(SECRET, world.namespace, "a", uid=made["metadata"]["uid"])


async def test_a_name_can_be_used_again(world: World) -> None:
    first = await _web(world)
    await world.erin.delete(INSTANCE, world.namespace, "web")
    await _release(world)
    second = await _web(world)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["metadata"]["generation"] == 1


async def test_what_an_object_owns_goes_with_it(world: World) -> None:
    owner = await world.admin.create(SECRET, secret("owner", world.namespace))
    child = await world.admin.create(SECRET, secret("child", world.namespace, ownerReferences=owned_by(owner)))
    await world.admin.create(SECRET, secret("grandchild", world.namespace, ownerReferences=owned_by(child)))
    await world.admin.create(SECRET, secret("stranger", world.namespace))
    await world.admin.delete(SECRET, world.namespace, "owner")
    await until_gone(world.admin, SECRET, world.namespace, "child")
    await until_gone(world.admin, SECRET, world.namespace, "grandchild")
    await world.admin.get(SECRET, world.namespace, "stranger")


async def test_one_living_owner_is_enough(world: World) -> None:
    first = await world.admin.create(SECRET, secret("first", world.namespace))
    second = await world.admin.create(SECRET, secret("second", world.namespace))
    references = [*owned_by(first), *owned_by(second)]
    made = await world.admin.create(SECRET, secret("child", world.namespace, ownerReferences=references))
    async with watching(world.admin, SECRET, world.namespace, made["metadata"]["resourceVersion"]) as events:
        await world.admin.delete(SECRET, world.namespace, "first")
        async for event in events:
            if event.object["metadata"]["name"] == "child":
                assert event.type == "MODIFIED"
                assert event.object["metadata"]["ownerReferences"] == owned_by(second)
                break
    await world.admin.delete(SECRET, world.namespace, "second")
    await until_gone(world.admin, SECRET, world.namespace, "child")


async def test_a_child_of_an_owner_that_never_was_goes(world: World) -> None:
    owner = await world.admin.create(SECRET, secret("owner", world.namespace))
    await world.admin.delete(SECRET, world.namespace, "owner")
    await world.admin.create(SECRET, secret("child", world.namespace, ownerReferences=owned_by(owner)))
    await until_gone(world.admin, SECRET, world.namespace, "child")


async def test_the_operations_of_an_object_go_with_it(world: World) -> None:
    web = await _web(world)
    opened = operation("op-1", world.namespace, ownerReferences=owned_by(web))
    await world.operator.create(OPERATION, opened)
    await world.erin.delete(INSTANCE, world.namespace, "web")
    await world.operator.get(OPERATION, world.namespace, "op-1")
    await _release(world)
    await until_gone(world.admin, OPERATION, world.namespace, "op-1")


async def test_in_the_foreground_an_owner_waits_for_what_blocks_it(world: World) -> None:
    owner = await world.admin.create(SECRET, secret("owner", world.namespace))
    references = owned_by(owner, blocks=True)
    await world.admin.create(SECRET, secret("child", world.namespace, ownerReferences=references, finalizers=HELD))
    listed = await world.admin.list(SECRET, world.namespace)
    await world.admin.delete(SECRET, world.namespace, "owner", propagation="Foreground")
    going = await world.admin.get(SECRET, world.namespace, "owner")
    assert going["metadata"]["finalizers"] == ["foregroundDeletion"]
    async with watching(world.admin, SECRET, world.namespace, listed.resource_version) as events:
        async for event in events:
            if event.object["metadata"]["name"] == "child" and "deletionTimestamp" in event.object["metadata"]:
                break
    await world.admin.get(SECRET, world.namespace, "owner")
    await world.admin.patch(SECRET, world.namespace, "child", {"metadata": {"finalizers": None}})
    await until_gone(world.admin, SECRET, world.namespace, "owner")


@pytest.mark.parametrize("kind", ["secret", "operation"])
async def test_orphans_stay(world: World, kind: str) -> None:
    owner = await world.admin.create(SECRET, secret("owner", world.namespace))
    references = owned_by(owner)
    type = SECRET if kind == "secret" else OPERATION
    if kind == "secret":
        await world.admin.create(SECRET, secret("child", world.namespace, ownerReferences=references))
    else:
        await world.operator.create(OPERATION, operation("child", world.namespace, ownerReferences=references))
    await _collector_is_up_to_date(world)
    await world.admin.delete(SECRET, world.namespace, "owner", propagation="Orphan")
    await until_gone(world.admin, SECRET, world.namespace, "owner")
    child = await world.admin.get(type, world.namespace, "child")
    assert "ownerReferences" not in child["metadata"]


async def test_a_protected_object_is_not_deleted_until_somebody_says_so(world: World) -> None:
    await _web(world, management={"deletionProtection": True})
    for somebody in (world.erin, world.admin):
        with pytest.raises(Forbidden, match="deletionProtection"):
            await somebody.delete(INSTANCE, world.namespace, "web")
    await world.erin.patch(INSTANCE, world.namespace, "web", {"spec": {"management": {"deletionProtection": False}}})
    await world.erin.delete(INSTANCE, world.namespace, "web")
    await _release(world)


async def test_a_namespace_that_goes_takes_everything_along_and_nothing_new(world: World) -> None:
    name = f"{world.namespace}-going"
    await world.admin.create(NAMESPACE, {"metadata": {"name": name}})
    await world.erin.create(INSTANCE, instance("web", name))
    await world.operator.create(OPERATION, operation("op-1", name))
    await world.admin.create(POLICY, policy("p", name))
    await world.admin.create(SECRET, secret("a", name))
    await world.admin.delete(NAMESPACE, "", name)
    assert (await world.admin.get(NAMESPACE, "", name))["status"]["phase"] == "Terminating"
    with pytest.raises(Forbidden, match="being terminated"):
        await world.operator.create(OPERATION, operation("op-2", name))
    for type, gone in ((SECRET, "a"), (OPERATION, "op-1"), (POLICY, "p")):
        await until_gone(world.admin, type, name, gone)
    await until_going(world.erin, INSTANCE, name, "web")
    await world.operator.patch(INSTANCE, name, "web", {"status": {"teardown": {"a": [1]}}}, subresource="status")
    await world.operator.patch(INSTANCE, name, "web", {"metadata": {"finalizers": None}})
    await until_gone(world.admin, NAMESPACE, "", name)
