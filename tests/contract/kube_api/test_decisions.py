"""The admission rules, as each person meets them (shared/approval/README.md has the table)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.kube_world import INSTANCE, OPERATION, POLICY, World, instance, operation, policy

from agentmetal.core.errors import Forbidden
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import FINALIZER, Annotation

DIGEST = "sha256:" + "d" * 64
OTHER = "sha256:" + "e" * 64


async def _planned(world: World, *, observed: int = 1) -> None:
    """An Instance that shows a plan."""
    await world.erin.create(INSTANCE, instance("web", world.namespace))
    plan = {"digest": DIGEST, "risk": "Dangerous", "origin": "Deterministic"}
    status = {"status": {"observedGeneration": observed, "plan": plan}}
    await world.operator.patch(INSTANCE, world.namespace, "web", status, subresource="status")


async def _annotate(world: World, somebody: KubeApi, annotations: dict[str, Any], **rest: Any) -> dict[str, str]:
    patch = {"metadata": {"annotations": annotations}, **rest}
    patched = await somebody.patch(INSTANCE, world.namespace, "web", patch)
    found: dict[str, str] = patched["metadata"].get("annotations", {})
    return found


async def test_ann_approves_the_plan_shown_and_the_server_stamps_it(world: World) -> None:
    await _planned(world)
    now = await _annotate(world, world.ann, {Annotation.APPROVE: DIGEST})
    assert now == {Annotation.APPROVE: DIGEST, Annotation.DECISION: f"approve {DIGEST} by ann"}


async def test_erin_may_not_decide_and_neither_may_the_operator(world: World) -> None:
    await _planned(world)
    for somebody in (world.erin, world.operator):
        for verb in (Annotation.APPROVE, Annotation.REJECT):
            with pytest.raises(Forbidden, match="approve"):
                await _annotate(world, somebody, {verb: DIGEST})


async def test_a_decision_about_another_digest_has_no_effect(world: World) -> None:
    await _planned(world)
    assert await _annotate(world, world.ann, {Annotation.APPROVE: OTHER}) == {Annotation.APPROVE: OTHER}
    assert Annotation.DECISION not in await _annotate(world, world.erin, {Annotation.APPROVE: "sha256:x"})


async def test_a_decision_together_with_a_new_spec_has_no_effect(world: World) -> None:
    await _planned(world)
    now = await _annotate(world, world.admin, {Annotation.APPROVE: DIGEST}, spec={"powerState": "Off"})
    assert Annotation.DECISION not in now


async def test_who_only_approves_changes_no_spec(world: World) -> None:
    await _planned(world)
    with pytest.raises(Forbidden, match='may not change the spec of instances: the verb "create" is missing'):
        await _annotate(world, world.ann, {}, spec={"powerState": "Off"})


async def test_the_operator_writes_neither_spec_nor_annotations_of_what_people_made(world: World) -> None:
    await _planned(world)
    for patch in ({"spec": {"image": "other"}}, {"metadata": {"annotations": {Annotation.PAUSED: None, "a": "b"}}}):
        with pytest.raises(Forbidden, match="the operator does not write what people want"):
            await world.operator.patch(INSTANCE, world.namespace, "web", patch)


async def test_a_decision_about_a_plan_for_an_older_spec_has_no_effect(world: World) -> None:
    await _planned(world)
    await world.erin.patch(INSTANCE, world.namespace, "web", {"spec": {"powerState": "Off"}})
    assert Annotation.DECISION not in await _annotate(world, world.ann, {Annotation.APPROVE: DIGEST})


async def test_an_annotation_that_came_with_the_object_is_inert(world: World) -> None:
    body = instance("web", world.namespace)
    body["metadata"]["annotations"] = {Annotation.APPROVE: DIGEST, Annotation.DECISION: f"approve {DIGEST} by ann"}
    made = await world.erin.create(INSTANCE, body)
    assert made["metadata"]["annotations"] == {Annotation.APPROVE: DIGEST}
    plan = {"digest": DIGEST, "risk": "Dangerous", "origin": "Deterministic"}
    status = {"status": {"observedGeneration": 1, "plan": plan}}
    await world.operator.patch(INSTANCE, world.namespace, "web", status, subresource="status")
    assert Annotation.DECISION not in await _annotate(world, world.ann, {"note": "x"})


async def test_nobody_forges_changes_or_removes_a_stamp(world: World) -> None:
    await _planned(world)
    forged = await _annotate(world, world.erin, {Annotation.DECISION: f"approve {DIGEST} by ann"})
    assert Annotation.DECISION not in forged
    await _annotate(world, world.ann, {Annotation.APPROVE: DIGEST})
    for attempt in (None, f"reject {DIGEST} by ann"):
        for somebody in (world.erin, world.admin, world.operator):
            now = await _annotate(world, somebody, {Annotation.DECISION: attempt})
            assert now[Annotation.DECISION] == f"approve {DIGEST} by ann"
    claimed = {Annotation.REJECT: DIGEST, Annotation.DECISION: f"reject {DIGEST} by erin"}
    assert (await _annotate(world, world.ann, claimed))[Annotation.DECISION] == f"reject {DIGEST} by ann"


async def test_a_reject_wins_over_an_approval_and_stays(world: World) -> None:
    await _planned(world)
    await _annotate(world, world.ann, {Annotation.APPROVE: DIGEST})
    rejected = await _annotate(world, world.ann, {Annotation.REJECT: DIGEST})
    assert rejected[Annotation.DECISION] == f"reject {DIGEST} by ann"
    again = await _annotate(world, world.ann, {Annotation.APPROVE: None})
    again = await _annotate(world, world.ann, {Annotation.APPROVE: DIGEST})
    assert again[Annotation.DECISION] == f"reject {DIGEST} by ann"


async def test_a_step_is_resolved_by_who_may_approve(world: World) -> None:
    await _planned(world)
    with pytest.raises(Forbidden, match="resolve"):
        await _annotate(world, world.erin, {Annotation.RESOLVE: "op-1/2=done"})
    resolved = await _annotate(world, world.ann, {Annotation.RESOLVE: "op-1/2=done"})
    assert resolved[Annotation.RESOLVED] == "op-1/2=done by ann"
    kept = await _annotate(world, world.erin, {Annotation.RESOLVED: None, Annotation.RESOLVE: None})
    assert kept == {Annotation.RESOLVED: "op-1/2=done by ann"}


async def test_status_is_written_by_the_operator_only(world: World) -> None:
    await world.erin.create(INSTANCE, instance("web", world.namespace))
    for somebody in (world.erin, world.ann, world.admin):
        with pytest.raises(Forbidden):
            status = {"status": {"phase": "Running"}}
            await somebody.patch(INSTANCE, world.namespace, "web", status, subresource="status")


async def test_the_journal_is_written_by_the_operator_only(world: World) -> None:
    await world.operator.create(OPERATION, operation("op-1", world.namespace))
    for somebody in (world.erin, world.ann, world.admin):
        with pytest.raises(Forbidden):
            await somebody.create(OPERATION, operation("op-2", world.namespace))
        with pytest.raises(Forbidden):
            await somebody.patch(OPERATION, world.namespace, "op-1", {"status": {"phase": "Succeeded"}})
        with pytest.raises(Forbidden):
            await somebody.delete(OPERATION, world.namespace, "op-1")
        await somebody.get(OPERATION, world.namespace, "op-1")
    await world.operator.delete(OPERATION, world.namespace, "op-1")


async def test_an_approval_in_advance_needs_the_verb_on_all_that_it_names(world: World) -> None:
    for somebody in (world.erin, world.operator):
        with pytest.raises(Forbidden):
            await somebody.create(POLICY, policy("p", world.namespace))
    await world.ann.create(POLICY, policy("p", world.namespace))
    with pytest.raises(Forbidden, match="approve"):
        await world.ann.patch(POLICY, world.namespace, "p", {"spec": {"resources": ["instances", "operations"]}})
    for somebody in (world.erin, world.operator):
        with pytest.raises(Forbidden):
            await somebody.patch(POLICY, world.namespace, "p", {"spec": {"maxRisk": "Dangerous"}})
        with pytest.raises(Forbidden):
            await somebody.delete(POLICY, world.namespace, "p")
    await world.ann.delete(POLICY, world.namespace, "p")


async def test_our_finalizer_goes_by_the_operator_or_an_approver(world: World) -> None:
    await world.erin.create(INSTANCE, instance("web", world.namespace))
    without = {"metadata": {"finalizers": None}}
    with pytest.raises(Forbidden, match="abandons"):
        await world.erin.patch(INSTANCE, world.namespace, "web", without)
    assert "finalizers" not in (await world.ann.patch(INSTANCE, world.namespace, "web", without))["metadata"]
    await world.erin.patch(INSTANCE, world.namespace, "web", {"metadata": {"finalizers": [FINALIZER]}})
    assert "finalizers" not in (await world.operator.patch(INSTANCE, world.namespace, "web", without))["metadata"]


async def test_our_finalizer_joins_others(world: World) -> None:
    body = instance("web", world.namespace)
    body["metadata"]["finalizers"] = ["example.io/mine"]
    made = await world.erin.create(INSTANCE, body)
    assert made["metadata"]["finalizers"] == ["example.io/mine", FINALIZER]


async def test_a_fence_is_the_operators_and_the_approvers(world: World) -> None:
    fence = {"spec": {"fence": {"holder": "Database default/db", "epoch": 1}}}
    with pytest.raises(Forbidden, match="fence"):
        await world.erin.create(INSTANCE, instance("fenced", world.namespace, **fence["spec"]))
    await world.erin.create(INSTANCE, instance("web", world.namespace))
    with pytest.raises(Forbidden, match="fence"):
        await world.erin.patch(INSTANCE, world.namespace, "web", fence)
    await world.operator.patch(INSTANCE, world.namespace, "web", fence)
    with pytest.raises(Forbidden, match="fence"):
        await world.erin.patch(INSTANCE, world.namespace, "web", {"spec": {"fence": None}})
    await world.ann.patch(INSTANCE, world.namespace, "web", {"spec": {"fence": None}})
