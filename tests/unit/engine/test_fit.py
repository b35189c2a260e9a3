"""Which plan an object needs, and whether an operation is still that plan. With the Instance agent, without a world."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.agents import instance, seen, server

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.observation import InstanceObservation
from agentmetal.core.machine import Capabilities, ServerState
from agentmetal.core.operation import Cause, Operation, OperationSpec, ResourceRef, StepSpec
from agentmetal.core.plan import Plan, Trigger, digest
from agentmetal.core.resource import AnyResource, ObjectMeta
from agentmetal.core.risk import Risk
from agentmetal.engine.fit import still_fits, wanted

AGENT = InstanceAgent(None)  # type: ignore[arg-type]  # planning is pure: it asks no port
RUNNING = seen(host_key="ssh-ed25519 AAAA", server=server(), capabilities=Capabilities(hosts=False))
OFF = replace(RUNNING, server=server(ServerState.STOPPED))


def operation(resource: AnyResource, plan: Plan, *, issue: str | None = None) -> Operation:
    plan_hash = plan.hash_for(resource.key, resource.uid)
    steps = tuple(
        StepSpec(tool=s.tool, parameters=dict(s.parameters), risk=s.risk, optional=s.optional) for s in plan.steps
    )
    spec = OperationSpec(
        resource_ref=ResourceRef(kind="Instance", name=resource.metadata.name, uid=resource.uid),
        number=1,
        plan_hash=plan_hash,
        digest=digest(plan_hash, 1),
        risk=plan.risk,
        cause=Cause(trigger=plan.trigger, issue=issue),
        targets=dict(plan.targets),
        steps=steps,
    )
    return Operation(metadata=ObjectMeta(name="op-x-1"), spec=spec)


@pytest.mark.parametrize(
    ("resource", "observed", "trigger", "first"),
    [
        (instance(), seen(), Trigger.CHANGE, "provision_instance"),
        (instance(image="bookworm-20"), RUNNING, Trigger.CHANGE, "rebuild_instance"),
        (instance(image="bookworm-20"), OFF, Trigger.ISSUE, "start_instance"),
        (instance(deleting=True), OFF, Trigger.DELETION, "decommission_instance"),
        (instance(deleting=True, management={"deletionPolicy": "Retain"}), OFF, Trigger.DELETION, "release_instance"),
    ],
    ids=["create", "change", "repair before change", "teardown before repair", "release"],
)
def test_teardown_goes_before_repair_and_repair_before_change(
    resource: AnyResource, observed: InstanceObservation, trigger: Trigger, first: str
) -> None:
    need = wanted(AGENT, resource, observed)
    assert (need.plan.trigger, need.plan.steps[0].tool) == (trigger, first)
    assert need.plan.targets == dict(observed.targets)


def test_nothing_is_wanted_when_all_is_as_specified() -> None:
    assert not wanted(AGENT, instance(), RUNNING).plan


def test_a_plan_fits_as_long_as_its_cause_leads_to_the_very_same_plan() -> None:
    resource = instance(image="bookworm-20")
    op = operation(resource, wanted(AGENT, resource, RUNNING).plan)
    assert still_fits(AGENT, op, resource, RUNNING)
    assert still_fits(AGENT, op, resource, OFF), "that it is off now changes the facts, not the plan"
    assert not still_fits(AGENT, op, resource, replace(RUNNING, server=replace(server(), id="s-2")))
    assert not still_fits(AGENT, op, resource, replace(RUNNING, server=server(image="bookworm-20")))
    assert not still_fits(AGENT, op, instance(image="trixie"), RUNNING)
    assert not still_fits(AGENT, op, instance(image="bookworm-20", deleting=True), RUNNING)


@pytest.mark.parametrize(
    "forged",
    [
        {"steps": (StepSpec(tool="decommission_instance", parameters={}, risk=Risk.SAFE),)},
        {"targets": {"serverID": "another"}},
        {"number": 2},
        {"digest": digest("0" * 64, 1)},
    ],
    ids=lambda forged: next(iter(forged)),
)
def test_what_does_not_have_the_digest_that_it_claims_never_fits(forged: dict[str, Any]) -> None:
    resource = instance(image="bookworm-20")
    op = operation(resource, wanted(AGENT, resource, RUNNING).plan)
    other = op.model_copy(update={"spec": op.spec.model_copy(update=forged)})
    assert still_fits(AGENT, op, resource, RUNNING)
    assert not still_fits(AGENT, other, resource, RUNNING)


def test_a_repair_fits_as_long_as_its_own_issue_is_there() -> None:
    need = wanted(AGENT, instance(), OFF)
    assert need.issue is not None
    op = operation(instance(), need.plan, issue=need.issue.type.value)
    assert still_fits(AGENT, op, instance(), OFF)
    assert not still_fits(AGENT, op, instance(), RUNNING)
    assert not still_fits(AGENT, op, instance(powerState="Off"), OFF)


def test_a_teardown_fits_only_while_the_object_is_going() -> None:
    op = operation(instance(deleting=True), wanted(AGENT, instance(deleting=True), RUNNING).plan)
    assert still_fits(AGENT, op, instance(deleting=True), OFF)
    assert not still_fits(AGENT, op, instance(), RUNNING)
    assert not still_fits(AGENT, op, instance(deleting=True, management={"deletionPolicy": "Retain"}), RUNNING)


def test_what_a_recreated_object_inherits_is_nothing() -> None:
    resource = instance(image="bookworm-20")
    op = operation(resource, wanted(AGENT, resource, RUNNING).plan)
    other = resource.model_copy(update={"metadata": resource.metadata.model_copy(update={"uid": "another"})})
    assert not still_fits(AGENT, op, other, RUNNING)


@pytest.mark.parametrize("trigger", [Trigger.PARENT, Trigger.PROPOSAL])
def test_a_cause_that_nothing_here_makes_never_fits(trigger: Trigger) -> None:
    resource = instance(image="bookworm-20")
    plan = replace(wanted(AGENT, resource, RUNNING).plan, trigger=trigger)
    assert not still_fits(AGENT, operation(resource, plan), resource, RUNNING)
