"""The approval rules on a real API server, row by row of the table in docs: what each of four principals may do.

erin edits, ann also approves, the operator is its ServiceAccount, and the administrator is system:masters.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.controlplane import kubectl
from tests.support.principals import (
    ADMIN,
    ANN,
    ERIN,
    THE_OPERATOR,
    Answer,
    Principal,
    Requests,
    instance,
    operation,
    policy,
)

from agentmetal.dev.controlplane import ControlPlane

pytestmark = pytest.mark.needs_control_plane

SHOWN = "sha256:aaa"
OTHER = "sha256:bbb"
COLLECTED_WITHIN = "--timeout=90s"
"""The garbage collector looks for new kinds every 30 s; before that it does not know ours."""
PRINCIPALS = {"erin": ERIN, "ann": ANN, "operator": THE_OPERATOR, "admin": ADMIN}


@pytest.fixture
async def api(installed: ControlPlane, namespace: str) -> Requests:
    requests = Requests(installed, namespace)
    await requests.grant()
    return requests


@pytest.fixture
async def web(api: Requests) -> str:
    """An Instance of erin's that shows no plan."""
    answer = await api.create(ERIN, instance("web"))
    assert answer.accepted, answer.complaint
    return "web"


@pytest.fixture
async def planned(api: Requests, web: str) -> str:
    """The same, and it shows a plan for its spec."""
    await show(api, web, SHOWN, generation=1)
    return web


async def show(api: Requests, name: str, digest: str, *, generation: int) -> None:
    plan = {"digest": digest, "risk": "Dangerous", "origin": "Deterministic"}
    status = {"status": {"observedGeneration": generation, "plan": plan}}
    answer = await api.patch(THE_OPERATOR, "instances", name, status, subresource="status")
    assert answer.accepted, answer.complaint


async def stamp(api: Requests, name: str, which: str = "decision") -> str:
    annotations = (await api.get("instances", name))["metadata"].get("annotations", {})
    return str(annotations.get(f"agentmetal.io/{which}", ""))


def assert_undecided(answer: Answer, because: str) -> None:
    assert answer.accepted, answer.complaint
    assert [line for line in answer.warnings if "nothing was decided, because " in line and because in line], (
        f"no warning that says {because!r}: {answer.complaint!r}"
    )


def assert_refused(answer: Answer, because: str) -> None:
    assert not answer.accepted, answer.output
    assert because in answer.complaint


# A decision without effect is accepted, says why, and leaves no stamp.


async def test_approving_while_no_plan_is_shown_decides_nothing(api: Requests, web: str) -> None:
    assert_undecided(await api.annotate(ANN, web, approve=SHOWN), "this object shows no plan")
    assert await stamp(api, web) == ""


async def test_approving_another_digest_decides_nothing(api: Requests, planned: str) -> None:
    assert_undecided(await api.annotate(ANN, planned, approve=OTHER), f"the plan shown is {SHOWN}: read it again")
    assert await stamp(api, planned) == ""


async def test_approving_together_with_a_spec_change_decides_nothing(api: Requests, planned: str) -> None:
    both = {"metadata": {"annotations": {"agentmetal.io/approve": SHOWN}}, "spec": {"image": "debian-13"}}

    assert_undecided(await api.patch(ADMIN, "instances", planned, both), "this request changes the spec")
    assert await stamp(api, planned) == ""


async def test_who_only_approves_changes_no_spec(api: Requests, planned: str) -> None:
    answer = await api.patch(ANN, "instances", planned, {"spec": {"image": "debian-13"}})

    assert_refused(answer, 'ann may not change the spec of instances: the verb "create" is missing')


async def test_the_operator_writes_no_spec_and_no_annotation_of_peoples(api: Requests, planned: str) -> None:
    for patch in ({"spec": {"image": "debian-13"}}, {"metadata": {"annotations": {"agentmetal.io/paused": "true"}}}):
        answer = await api.patch(THE_OPERATOR, "instances", planned, patch)
        assert_refused(answer, "the operator does not write what people want")


async def test_approving_while_status_is_about_an_older_spec_decides_nothing(api: Requests, planned: str) -> None:
    assert (await api.patch(ERIN, "instances", planned, {"spec": {"image": "debian-13"}})).accepted

    assert_undecided(await api.annotate(ANN, planned, approve=SHOWN), "the plan shown is for an older spec")
    assert await stamp(api, planned) == ""


@pytest.mark.parametrize("spec", [{}, {"spec": {"image": "debian-13"}}], ids=["alone", "with a spec change"])
async def test_an_old_approval_in_git_is_applied_without_effect(
    api: Requests, planned: str, spec: dict[str, Any]
) -> None:
    in_git = {"metadata": {"annotations": {"agentmetal.io/approve": OTHER}}, **spec}

    assert_undecided(await api.patch(ERIN, "instances", planned, in_git), SHOWN)
    assert await stamp(api, planned) == ""


async def test_an_object_may_be_created_with_an_old_approval(api: Requests) -> None:
    carrying = instance("web", annotations={"agentmetal.io/approve": SHOWN, "agentmetal.io/decision": "approve it"})

    assert_undecided(await api.create(ERIN, carrying), "this object shows no plan")
    assert await stamp(api, "web") == ""


async def test_applying_the_same_approval_again_is_not_a_new_decision(api: Requests, planned: str) -> None:
    await api.annotate(ANN, planned, approve=OTHER)
    await show(api, planned, OTHER, generation=1)

    answer = await api.annotate(ANN, planned, approve=OTHER)
    assert answer.accepted
    assert await stamp(api, planned) == "", "the annotation was there before the plan was shown"


# Who may decide.


@pytest.mark.parametrize("verb", ["approve", "reject"])
@pytest.mark.parametrize("who", ["erin", "operator"])
async def test_who_lacks_the_verb_cannot_decide(api: Requests, planned: str, who: str, verb: str) -> None:
    answer = await api.annotate(PRINCIPALS[who], planned, **{verb: SHOWN})

    assert_refused(answer, "may not decide about plans of instances")
    assert_refused(answer, 'the verb "approve" is missing')


@pytest.mark.parametrize("who", ["ann", "admin"])
async def test_who_holds_the_verb_decides_by_an_annotation(api: Requests, planned: str, who: str) -> None:
    answer = await api.annotate(PRINCIPALS[who], planned, approve=SHOWN)

    assert answer.accepted
    assert not answer.warnings
    assert await stamp(api, planned) == f"approve {SHOWN} by {who}"


async def test_the_stamp_names_the_user_whatever_the_user_claims(api: Requests, planned: str) -> None:
    await api.annotate(ANN, planned, approve=SHOWN, decision=f"approve {SHOWN} by boss")

    assert await stamp(api, planned) == f"approve {SHOWN} by ann"


@pytest.mark.parametrize("forged", [f"approve {SHOWN} by ann", ""], ids=["forged", "forged empty"])
async def test_a_forged_stamp_disappears(api: Requests, planned: str, forged: str) -> None:
    assert (await api.annotate(ERIN, planned, decision=forged)).accepted

    assert await stamp(api, planned) == ""


@pytest.mark.parametrize("change", [f"approve {OTHER} by ann", None], ids=["changed", "removed"])
@pytest.mark.parametrize("who", ["erin", "ann"])
async def test_a_stamp_stays_what_it_was(api: Requests, planned: str, who: str, change: str | None) -> None:
    await api.annotate(ANN, planned, approve=SHOWN)

    assert (await api.annotate(PRINCIPALS[who], planned, decision=change, approve=None)).accepted
    assert await stamp(api, planned) == f"approve {SHOWN} by ann"


async def test_removing_all_annotations_leaves_the_stamp(api: Requests, planned: str) -> None:
    await api.annotate(ANN, planned, approve=SHOWN)

    assert (await api.patch(ERIN, "instances", planned, {"metadata": {"annotations": None}})).accepted
    assert await stamp(api, planned) == f"approve {SHOWN} by ann"


async def test_a_reject_wins_over_an_earlier_approval(api: Requests, planned: str) -> None:
    await api.annotate(ANN, planned, approve=SHOWN)
    await api.annotate(ANN, planned, reject=SHOWN)

    assert await stamp(api, planned) == f"reject {SHOWN} by ann"


async def test_a_rejected_digest_cannot_be_approved_any_more(api: Requests, planned: str) -> None:
    await api.annotate(ANN, planned, reject=SHOWN)

    assert_undecided(await api.annotate(ANN, planned, approve=SHOWN), "this plan was rejected")
    assert await stamp(api, planned) == f"reject {SHOWN} by ann"


async def test_the_next_plan_can_be_approved_after_a_reject(api: Requests, planned: str) -> None:
    await api.annotate(ANN, planned, reject=SHOWN)
    await show(api, planned, OTHER, generation=1)
    await api.annotate(ANN, planned, approve=OTHER)

    assert await stamp(api, planned) == f"approve {OTHER} by ann"


# Status and the journal are the operator's.


@pytest.mark.parametrize("who", ["erin", "admin"])
async def test_status_is_written_by_the_operator_only(api: Requests, planned: str, who: str) -> None:
    status = {"status": {"plan": {"digest": OTHER}}}

    answer = await api.patch(PRINCIPALS[who], "instances", planned, status, subresource="status")
    assert_refused(answer, "instances/status is written by the AgentMetal operator only")


@pytest.mark.parametrize("who", ["erin", "admin"])
async def test_an_operation_is_written_by_the_operator_only(api: Requests, who: str) -> None:
    refusal = "operations is written by the AgentMetal operator only"
    assert_refused(await api.create(PRINCIPALS[who], operation("op-1")), refusal)

    assert (await api.create(THE_OPERATOR, operation("op-1"))).accepted
    forged = {"status": {"phase": "Succeeded"}}
    assert_refused(await api.patch(PRINCIPALS[who], "operations", "op-1", forged), refusal)
    assert_refused(await api.delete(PRINCIPALS[who], "operations", "op-1"), refusal)
    assert (await api.patch(THE_OPERATOR, "operations", "op-1", forged)).accepted
    assert (await api.delete(THE_OPERATOR, "operations", "op-1")).accepted


@pytest.mark.parametrize(
    "step",
    [
        {"tool": "delete_server", "risk": "Dangerous", "parameters": {"server": "s2", "force": True}},
        {"tool": "delete_server", "risk": "Dangerous", "parameters": {"host": "s1", "force": True}},
        {"tool": "delete_server", "risk": "Safe", "parameters": {"server": "s1", "force": True}},
    ],
    ids=["a parameter's value", "a parameter's name", "a risk"],
)
async def test_what_an_operation_planned_cannot_be_changed_even_by_the_operator(
    api: Requests, step: dict[str, Any]
) -> None:
    await api.create(THE_OPERATOR, operation("op-1"))

    answer = await api.patch(THE_OPERATOR, "operations", "op-1", {"spec": {"steps": [step]}})
    assert_refused(answer, "the spec of an Operation records what was planned and cannot be changed")


async def owned_operation(api: Requests, name: str) -> None:
    owner = await api.get("instances", name)
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": "Instance",
        "name": name,
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    answer = await api.create(THE_OPERATOR, operation("op-1", ownerReferences=[reference]))
    assert answer.accepted, answer.complaint


async def release(api: Requests, name: str) -> None:
    """What the operator does when its teardown is done."""
    ours = "agentmetal.io/operator"
    left = [name for name in (await api.get("instances", name))["metadata"]["finalizers"] if name != ours]
    assert (await api.patch(THE_OPERATOR, "instances", name, {"metadata": {"finalizers": left}})).accepted


@pytest.mark.parametrize("cascade", ["background", "foreground"])
async def test_the_garbage_collector_removes_the_operations_of_what_is_gone(
    api: Requests, web: str, cascade: str
) -> None:
    await owned_operation(api, web)

    assert (await api.delete(ERIN, "instances", web, f"--cascade={cascade}")).accepted
    await release(api, web)
    assert (await api.kubectl(ADMIN, "wait", "--for=delete", "operation/op-1", COLLECTED_WITHIN)).accepted


async def test_deleting_with_orphans_leaves_the_operation_without_an_owner(api: Requests, web: str) -> None:
    await owned_operation(api, web)

    assert (await api.delete(ERIN, "instances", web, "--cascade=orphan")).accepted
    await release(api, web)
    assert (await api.kubectl(ADMIN, "wait", "--for=delete", f"instance/{web}", COLLECTED_WITHIN)).accepted
    assert "ownerReferences" not in (await api.get("operations", "op-1"))["metadata"]


async def test_a_namespace_goes_with_its_operations_and_policies(api: Requests) -> None:
    await api.create(THE_OPERATOR, operation("op-1"))
    assert (await api.create(ANN, policy("nightly", "instances"))).accepted

    assert (await api.kubectl(ADMIN, "delete", "namespace", api.namespace, "--timeout=60s")).accepted


# A pre-approval is an approval.


async def test_a_policy_needs_the_verb_on_every_resource_it_names(api: Requests) -> None:
    assert_refused(await api.create(ERIN, policy("mine", "instances")), 'erin needs the verb "approve"')
    assert_refused(await api.create(ANN, policy("wide", "instances", "buildings")), 'ann needs the verb "approve"')
    assert (await api.create(ANN, policy("hers", "instances"))).accepted


async def test_a_policy_cannot_be_changed_or_deleted_without_the_verb(api: Requests) -> None:
    await api.create(ANN, policy("hers", "instances"))

    weaker = {"spec": {"maxRisk": "Safe"}}
    assert_refused(await api.patch(ERIN, "approvalpolicies", "hers", weaker), 'erin needs the verb "approve"')
    other = {"spec": {"resources": ["buildings"]}}
    assert_refused(await api.patch(ANN, "approvalpolicies", "hers", other), 'ann needs the verb "approve"')
    assert_refused(await api.delete(ERIN, "approvalpolicies", "hers"), 'erin needs the verb "approve"')
    assert (await api.delete(ANN, "approvalpolicies", "hers")).accepted


async def test_the_operator_may_not_approve_in_advance_even_with_the_verb(api: Requests) -> None:
    answer = await api.create(THE_OPERATOR, policy("own", "instances"))

    assert_refused(answer, "the operator may not approve in advance")


# The finalizer, steps in doubt, the fence, deletion protection.


async def test_a_new_object_carries_our_finalizer_from_its_first_version(api: Requests) -> None:
    created = (await api.create(ERIN, instance("web"))).object
    assert created["metadata"]["finalizers"] == ["agentmetal.io/operator"]
    assert created["metadata"]["generation"] == 1

    kept = (await api.create(ERIN, instance("other", finalizers=["example.com/theirs"]))).object
    assert kept["metadata"]["finalizers"] == ["example.com/theirs", "agentmetal.io/operator"]


async def test_our_finalizer_is_removed_by_the_operator_or_by_breaking_the_glass(api: Requests, web: str) -> None:
    none = {"metadata": {"finalizers": None}}

    assert_refused(await api.patch(ERIN, "instances", web, none), "removing the finalizer abandons machines and data")
    assert (await api.patch(ANN, "instances", web, none)).accepted
    assert (await api.create(ERIN, instance("other"))).accepted
    assert (await api.patch(THE_OPERATOR, "instances", "other", none)).accepted


@pytest.mark.parametrize("who", ["erin", "operator"])
async def test_who_lacks_the_verb_cannot_resolve_a_step(api: Requests, web: str, who: str) -> None:
    answer = await api.annotate(PRINCIPALS[who], web, resolve="op-1/2=done")

    assert_refused(answer, "may not resolve steps of instances")


async def test_resolving_a_step_is_stamped_and_the_stamp_stays(api: Requests, web: str) -> None:
    assert (await api.annotate(ERIN, web, resolved="op-1/2=done by ann")).accepted
    assert await stamp(api, web, "resolved") == ""

    assert (await api.annotate(ANN, web, resolve="op-1/2=done")).accepted
    assert await stamp(api, web, "resolved") == "op-1/2=done by ann"

    assert (await api.annotate(ERIN, web, resolve=None, resolved=None)).accepted
    assert await stamp(api, web, "resolved") == "op-1/2=done by ann"


async def test_a_fence_is_set_and_lifted_by_the_operator_or_by_breaking_the_glass(api: Requests, web: str) -> None:
    fenced = {"spec": {"fence": {"holder": "Database default/db", "epoch": 1}}}
    lifted = {"spec": {"fence": None}}
    refusal = "spec.fence is the operator's"

    assert_refused(await api.patch(ERIN, "instances", web, fenced), refusal)
    assert (await api.patch(THE_OPERATOR, "instances", web, fenced)).accepted
    assert (await api.patch(ERIN, "instances", web, {"spec": {"image": "debian-13"}})).accepted, (
        "only the fence is ours"
    )
    assert_refused(await api.patch(ERIN, "instances", web, lifted), refusal)
    assert (await api.patch(THE_OPERATOR, "instances", web, lifted)).accepted
    assert (await api.patch(THE_OPERATOR, "instances", web, fenced)).accepted
    assert (await api.patch(ANN, "instances", web, lifted)).accepted


async def test_an_object_cannot_be_created_with_a_fence(api: Requests) -> None:
    fenced = instance("web")
    fenced["spec"]["fence"] = {"holder": "me", "epoch": 1}

    assert_refused(await api.create(ERIN, fenced), "spec.fence is the operator's")


PROTECTED = {"spec": {"management": {"deletionProtection": True}}}
UNPROTECTED = {"spec": {"management": {"deletionProtection": False}}}


@pytest.mark.parametrize("who", ["erin", "admin"])
async def test_a_protected_object_is_not_deleted(api: Requests, web: str, who: str) -> None:
    assert (await api.patch(ERIN, "instances", web, PROTECTED)).accepted
    answer = await api.delete(PRINCIPALS[who], "instances", web)
    assert_refused(answer, "deletion is protected: set spec.management.deletionProtection to false first")

    assert (await api.patch(ERIN, "instances", web, UNPROTECTED)).accepted
    assert (await api.delete(PRINCIPALS[who], "instances", web)).accepted


async def test_a_namespace_that_goes_does_not_take_a_protected_object_along(api: Requests, web: str) -> None:
    assert (await api.patch(ERIN, "instances", web, PROTECTED)).accepted
    assert (await api.kubectl(ADMIN, "delete", "namespace", api.namespace, "--wait=false")).accepted

    stuck = ("wait", "--for=condition=NamespaceDeletionContentFailure", f"namespace/{api.namespace}", "--timeout=60s")
    assert (await api.kubectl(ADMIN, *stuck)).accepted
    assert "deletionTimestamp" not in (await api.get("instances", web))["metadata"]


# What the shipped roles give, without what the tests grant beside them.


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("watch", "instances.agentmetal.io", True),
        ("patch", "instances.agentmetal.io", True),
        ("patch", "instances.agentmetal.io/status", True),
        ("create", "operations.agentmetal.io", True),
        ("delete", "operations.agentmetal.io", True),
        ("list", "approvalpolicies.agentmetal.io", True),
        ("list", "customresourcedefinitions", True),
        ("get", "namespaces/kube-system", True),
        ("get", "namespaces/default", False),
        ("list", "namespaces", False),
        ("create", "events.events.k8s.io", True),
        ("get", "secrets", True),
        ("list", "secrets", False),
        ("delete", "instances.agentmetal.io", False),
        ("create", "instances.agentmetal.io", False),
        ("approve", "instances.agentmetal.io", False),
        ("create", "approvalpolicies.agentmetal.io", False),
        ("create", "pods", False),
    ],
)
async def test_the_operators_role_gives_what_it_needs_and_no_more(
    installed: ControlPlane, namespace: str, verb: str, resource: str, allowed: bool
) -> None:
    answer = await Requests(installed, namespace).kubectl(THE_OPERATOR, "auth", "can-i", verb, resource)

    assert answer.output.strip() == ("yes" if allowed else "no")


async def test_the_operator_holds_leases_in_its_own_namespace_only(installed: ControlPlane, namespace: str) -> None:
    lease = ("auth", "can-i", "patch", "leases.coordination.k8s.io/agentmetal-operator")

    assert (await Requests(installed, "agentmetal-system").kubectl(THE_OPERATOR, *lease)).output.strip() == "yes"
    assert (await Requests(installed, namespace).kubectl(THE_OPERATOR, *lease)).output.strip() == "no"


async def test_the_development_users_are_an_editor_and_an_approver(installed: ControlPlane, namespace: str) -> None:
    create, approve = ("auth", "can-i", "create", "instances"), ("auth", "can-i", "approve", "instances")
    there = f"--namespace={namespace}"

    assert (await kubectl(installed, *create, there, user="editor")).strip() == "yes"
    assert (await Requests(installed, namespace).kubectl(Principal("editor"), *approve)).output.strip() == "no"
    assert (await kubectl(installed, *approve, there, user="approver")).strip() == "yes"
