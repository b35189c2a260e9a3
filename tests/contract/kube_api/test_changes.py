"""Patches: merge and JSON, conflicts, the status subresource, generations."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.kube_world import INSTANCE, OPERATION, World, instance, operation, secret

from agentmetal.core.errors import Conflict, Invalid, NotFound
from agentmetal.core.kubetypes import SECRET


async def _web(world: World, **spec: Any) -> dict[str, Any]:
    return await world.erin.create(INSTANCE, instance("web", world.namespace, **spec))


async def _settled(world: World) -> dict[str, Any]:
    """An Instance as stored: the real server puts the default status into what it stores at the first update only."""
    await _web(world)
    return await world.erin.patch(INSTANCE, world.namespace, "web", {"metadata": {"labels": {"a": "b"}}})


async def test_a_merge_patch_merges_maps_and_null_removes(world: World) -> None:
    await world.admin.create(SECRET, secret("a", world.namespace, annotations={"x": "1", "y": "2"}))
    patch = {"metadata": {"annotations": {"x": None, "z": "3"}}}
    patched = await world.admin.patch(SECRET, world.namespace, "a", patch)
    assert patched["metadata"]["annotations"] == {"y": "2", "z": "3"}
    emptied = await world.admin.patch(SECRET, world.namespace, "a", {"metadata": {"annotations": None}})
    assert "annotations" not in emptied["metadata"]


async def test_a_json_patch_tests_adds_replaces_and_removes(world: World) -> None:
    made = await world.admin.create(SECRET, secret("a", world.namespace, annotations={"a.b/c_d": "1", "y": "2"}))
    patch = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/metadata/annotations/a.b~1c_d", "value": "3"},
        {"op": "remove", "path": "/metadata/annotations/y"},
        {"op": "add", "path": "/metadata/finalizers", "value": ["example.io/a"]},
        {"op": "add", "path": "/metadata/finalizers/-", "value": "example.io/c"},
        {"op": "add", "path": "/metadata/finalizers/1", "value": "example.io/b"},
    ]
    patched = await world.admin.patch(SECRET, world.namespace, "a", patch)
    assert patched["metadata"]["annotations"] == {"a.b/c_d": "3"}
    assert patched["metadata"]["finalizers"] == ["example.io/a", "example.io/b", "example.io/c"]
    await world.admin.patch(SECRET, world.namespace, "a", {"metadata": {"finalizers": None}})


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}],
        [{"op": "test", "path": "/metadata/annotations/x", "value": "2"}],
        [{"op": "test", "path": "/metadata/labels/none", "value": "2"}],
        [
            {"op": "test", "path": "/metadata/name", "value": "a"},
            {"op": "remove", "path": "/metadata/annotations/none"},
        ],
        {"metadata": {"resourceVersion": "1", "annotations": {"x": "3"}}},
    ],
)
async def test_a_patch_of_another_version_is_a_conflict(world: World, patch: Any) -> None:
    made = await world.admin.create(SECRET, secret("a", world.namespace, annotations={"x": "1"}))
    with pytest.raises(Conflict):
        await world.admin.patch(SECRET, world.namespace, "a", patch)
    assert await world.admin.get(SECRET, world.namespace, "a") == made


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "remove", "path": "/metadata/annotations/none"}],
        [{"op": "add", "path": "/metadata/none/deeper", "value": 1}],
        [{"op": "replace", "path": "/metadata/finalizers/5", "value": "example.io/x"}],
        [{"op": "nonsense", "path": "/metadata/name"}],
        {"metadata": {"uid": "another"}},
        {"metadata": {"labels": {"a": "not a label"}}},
    ],
)
async def test_a_patch_that_cannot_be_is_invalid(world: World, patch: Any) -> None:
    await world.admin.create(SECRET, secret("a", world.namespace, annotations={"x": "1"}))
    with pytest.raises((Invalid, Conflict) if "uid" in str(patch) else Invalid):
        await world.admin.patch(SECRET, world.namespace, "a", patch)


async def test_a_conditional_patch_of_the_current_version_passes_once(world: World) -> None:
    made = await world.admin.create(SECRET, secret("a", world.namespace))
    patch = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "annotations": {"x": "1"}}}
    await world.admin.patch(SECRET, world.namespace, "a", patch)
    with pytest.raises(Conflict):
        await world.admin.patch(SECRET, world.namespace, "a", patch)


async def test_a_patch_without_effect_makes_no_version(world: World) -> None:
    made = await _settled(world)
    same = await world.erin.patch(INSTANCE, world.namespace, "web", {"spec": {"image": "debian-12"}})
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert same == made


async def test_generation_counts_changes_of_the_spec_only(world: World) -> None:
    await _web(world)
    erin, operator, at = world.erin, world.operator, (INSTANCE, world.namespace, "web")
    labelled = await erin.patch(*at, {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}})
    observed = await operator.patch(*at, {"status": {"observedGeneration": 1}}, subresource="status")
    assert (labelled["metadata"]["generation"], observed["metadata"]["generation"]) == (1, 1)
    changed = await erin.patch(*at, {"spec": {"powerState": "Off"}})
    assert changed["metadata"]["generation"] == 2


async def test_generation_of_a_kind_without_status_subresource_counts_every_change(world: World) -> None:
    await world.operator.create(OPERATION, operation("op-1", world.namespace))
    at = (OPERATION, world.namespace, "op-1")
    labelled = await world.operator.patch(*at, {"metadata": {"labels": {"a": "b"}}})
    running = await world.operator.patch(*at, {"status": {"phase": "Running"}})
    assert (labelled["metadata"]["generation"], running["metadata"]["generation"]) == (1, 2)


async def test_built_in_objects_have_no_generation(world: World) -> None:
    made = await world.admin.create(SECRET, secret("a", world.namespace))
    assert "generation" not in made["metadata"]


async def test_a_patch_of_the_object_leaves_its_status_alone(world: World) -> None:
    await _web(world)
    patch = {"spec": {"powerState": "Off"}, "status": {"phase": "Running"}}
    patched = await world.erin.patch(INSTANCE, world.namespace, "web", patch)
    assert patched["spec"]["powerState"] == "Off"
    assert "phase" not in patched["status"]


async def test_a_patch_of_the_status_leaves_all_else_alone(world: World) -> None:
    made = await _web(world)
    patch = {
        "metadata": {"labels": {"a": "b"}, "finalizers": []},
        "spec": {"powerState": "Off"},
        "status": {"phase": "Running", "facts": {"cpus": 2}},
    }
    patched = await world.operator.patch(INSTANCE, world.namespace, "web", patch, subresource="status")
    assert (patched["spec"], patched["metadata"].get("labels")) == (made["spec"], None)
    assert patched["metadata"]["finalizers"] == made["metadata"]["finalizers"]
    assert patched["status"]["phase"] == "Running"
    defaults = {"os": "", "kernel": "", "architecture": "", "memoryMB": 0, "rebootRequired": False, "failedUnits": []}
    assert patched["status"]["facts"] == {**defaults, "cpus": 2}


async def test_a_status_patch_is_conditional_too(world: World) -> None:
    made = await _web(world)
    await world.erin.patch(INSTANCE, world.namespace, "web", {"metadata": {"labels": {"a": "b"}}})
    patch = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "status": {"phase": "Running"}}
    with pytest.raises(Conflict):
        await world.operator.patch(INSTANCE, world.namespace, "web", patch, subresource="status")


async def test_a_status_drops_what_the_schema_does_not_know_and_refuses_what_it_forbids(world: World) -> None:
    await _web(world)
    at = (INSTANCE, world.namespace, "web")
    patched = await world.operator.patch(*at, {"status": {"novelty": 1, "phase": "Running"}}, subresource="status")
    assert "novelty" not in patched["status"]
    with pytest.raises(Invalid, match="phase"):
        await world.operator.patch(*at, {"status": {"phase": "Excellent"}}, subresource="status")


async def test_operations_have_no_status_subresource(world: World) -> None:
    await world.operator.create(OPERATION, operation("op-1", world.namespace))
    with pytest.raises(NotFound):
        await world.admin.patch(OPERATION, world.namespace, "op-1", {"status": {}}, subresource="status")


async def test_the_spec_of_an_operation_is_immutable_and_its_status_is_not(world: World) -> None:
    made = await world.operator.create(OPERATION, operation("op-1", world.namespace))
    at = (OPERATION, world.namespace, "op-1")
    with pytest.raises(Invalid, match="spec"):
        await world.operator.patch(*at, {"spec": {"number": 2}})
    renamed = [{**made["spec"]["steps"][0], "parameters": {"server": "web"}}]
    with pytest.raises(Invalid, match="spec"):
        await world.operator.patch(*at, {"spec": {"steps": renamed}})
    steps = [{"state": "Running", "attempt": 1}]
    patch = {
        "metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "finalizers": ["agentmetal.io/operator"]},
        "status": {"phase": "Running", "steps": steps, "epoch": 3},
    }
    patched = await world.operator.patch(*at, patch)
    assert (patched["status"]["phase"], patched["status"]["epoch"]) == ("Running", 3)
    assert patched["status"]["steps"] == steps
    assert patched["metadata"]["finalizers"] == ["agentmetal.io/operator"]


async def test_what_the_server_writes_cannot_be_written(world: World) -> None:
    made = await _settled(world)
    patch = {"metadata": {"generation": 7, "creationTimestamp": None}}
    assert await world.erin.patch(INSTANCE, world.namespace, "web", patch) == made
    with pytest.raises(Invalid, match="deletionTimestamp"):
        going = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
        await world.erin.patch(INSTANCE, world.namespace, "web", going)


async def test_a_bad_spec_is_refused_and_nothing_changes(world: World) -> None:
    made = await _web(world)
    with pytest.raises(Invalid, match="unknown field"):
        await world.erin.patch(INSTANCE, world.namespace, "web", {"spec": {"nonsense": 1}})
    with pytest.raises(Invalid):
        await world.erin.patch(INSTANCE, world.namespace, "web", {"spec": None})
    assert await world.erin.get(INSTANCE, world.namespace, "web") == made
