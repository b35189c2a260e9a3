"""What people read about plans and objects, from objects alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import ProviderStatus
from agentmetal.core.operation import Operation
from agentmetal.core.plan import Plan
from agentmetal.engine.explain import duration, explain
from agentmetal.engine.text import operation_facts, plan_lines, preview_lines

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32
STEP = {"tool": "rebuild_instance", "risk": "Dangerous", "description": "Replace the disks"}


def condition(type: str, status: str = "True", reason: str = "AsSpecified", message: str = "") -> dict[str, Any]:
    return {
        "type": type,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T11:00:00Z",
    }


def instance(*conditions: dict[str, Any], generation: int = 1, **status: Any) -> Instance:
    return Instance.model_validate(
        {
            "kind": "Instance",
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "uid": "u1",
                "generation": generation,
                "creationTimestamp": "2026-01-01T11:00:00Z",
            },
            "spec": {"providerRef": {"name": "local"}, "type": "small", "image": "bookworm"},
            "status": {"observedGeneration": 1, "conditions": list(conditions), **status},
        }
    )


def operation(phase: str, *steps: dict[str, Any]) -> Operation:
    return Operation.model_validate(
        {
            "kind": "Operation",
            "metadata": {"name": "op-1", "namespace": "shop", "creationTimestamp": "2026-01-01T11:57:55Z"},
            "spec": {
                "resourceRef": {"kind": "Instance", "name": "web", "uid": "u1"},
                "number": 1,
                "planHash": "h",
                "digest": DIGEST,
                "risk": "Dangerous",
                "cause": {"trigger": "Change"},
                "reasoning": "image: a -> b",
                "steps": [STEP] * len(steps),
            },
            "status": {"phase": phase, "progress": "0/1", "steps": list(steps)},
        }
    )


def plan(**more: Any) -> dict[str, Any]:
    return {"risk": "Dangerous", "origin": "Deterministic", "reasoning": "image: a -> b", "steps": [STEP], **more}


WAITS = plan(digest=DIGEST, shortDigest="abababababab", operation="op-1")


def test_a_waiting_plan_ends_with_the_lines_that_approve_and_reject_it() -> None:
    lines = plan_lines(instance(condition("AwaitingApproval"), plan=WAITS))
    assert lines[0] == "Instance shop/web: Dangerous plan abababababab (op-1)"
    decide = "kubectl annotate --overwrite instance web -n shop agentmetal.io/"
    assert lines[-2].endswith(f"{decide}approve={DIGEST}")
    assert lines[-1].endswith(f"{decide}reject={DIGEST}")


def test_who_is_about_to_decide_is_not_told_how() -> None:
    lines = plan_lines(instance(condition("AwaitingApproval"), plan=WAITS), how_to_decide=False)
    assert lines[-1].endswith(DIGEST)
    assert not any("kubectl" in line for line in lines)


def test_a_running_plan_offers_no_approval() -> None:
    assert "nobody need approve" in plan_lines(instance(condition("Reconciling"), plan=WAITS))[-1]


def test_a_preview_cannot_be_approved() -> None:
    lines = plan_lines(instance(condition("Drifted"), plan=plan()))
    assert "a preview" in lines[0]
    assert not any("kubectl" in line for line in lines)


def test_a_model_s_reasoning_is_marked_as_unverified() -> None:
    lines = plan_lines(instance(plan={**WAITS, "origin": "Model"}))
    assert any("(by a model, unverified)" in line for line in lines)


def test_an_empty_plan_is_nothing_to_do() -> None:
    assert preview_lines("Instance shop/web", Plan()) == (
        "Instance shop/web: nothing to do, the world is as the spec says",
    )


def test_an_operation_shows_who_decided_and_how_old_it_is() -> None:
    facts = operation_facts(operation("Running", {"state": "Running"}), NOW)
    assert facts["resource"] == "Instance/web"
    assert facts["age"] == "2 min 05 s"
    assert facts["decision"] == ""


def test_a_ready_object_needs_nobody() -> None:
    told = explain(instance(condition("Ready", message="it runs")), (), NOW)
    assert told.why == ("Ready is True (AsSpecified): it runs",)
    assert told.who == "nobody: all is well"


def test_a_waiting_plan_is_an_approver_s() -> None:
    found = instance(condition("Ready", "False", "ApprovalRequired"), condition("AwaitingApproval"), plan=WAITS)
    told = explain(found, [operation("AwaitingApproval", {"state": "Pending"})], NOW)
    assert told.who.startswith("an approver")
    assert any(DIGEST in line for line in told.next)


def test_a_running_step_is_named_with_its_time() -> None:
    step = {"state": "Running", "attempt": 2, "startedAt": "2026-01-01T11:59:30Z"}
    told = explain(instance(condition("Ready", "False", "PlanRunning")), [operation("Running", step)], NOW)
    assert told.next == ("step 1 of 1, Replace the disks, since 30 s, attempt 2 (op-1)",)
    assert told.who == "nobody: the operator goes on by itself"


def test_a_step_in_doubt_needs_an_approver_and_says_the_line() -> None:
    step = {"state": "InDoubt", "attempt": 1}
    told = explain(instance(condition("Blocked")), [operation("Blocked", step)], NOW)
    assert "agentmetal.io/resolve=op-1/1=done" in told.who


@pytest.mark.parametrize("reason", ["UnknownImage", "UnknownType", "UnknownLocation"])
def test_a_choice_that_is_not_offered_is_the_author_s(reason: str) -> None:
    told = explain(instance(condition("Ready", "False", reason), condition("Reconciling")), (), NOW)
    assert told.who.startswith("whoever writes the spec")


@pytest.mark.parametrize(
    ("reason", "who"),
    [
        ("InvalidSpec", "whoever writes the spec: correct it"),
        ("NotSupported", "whoever writes the spec: correct it"),
        ("SecretMissing", "whoever can do what Ready says"),
        ("NotInInventory", "whoever can do what Ready says"),
        ("ClaimedByOther", "whoever can do what Ready says"),
        ("PlanFailed", "whoever can mend what failed"),
        ("AsSpecified", "nobody: it is as the spec says"),
        ("PlanPending", "nobody: the operator goes on by itself"),
    ],
)
def test_who_must_act_follows_from_why_it_is_not_ready(reason: str, who: str) -> None:
    assert explain(instance(condition("Ready", "False", reason)), (), NOW).who.startswith(who)


def test_what_is_only_looked_at_waits_for_nobody() -> None:
    found = instance(condition("Ready", "False", "ObserveOnly"), condition("Drifted", reason="ObserveOnly"))
    assert explain(found, (), NOW).who.startswith("nobody: it is only looked at")


@pytest.mark.parametrize("type", ["HostKeyMismatch", "Stalled"])
def test_a_human_is_pointed_to_what_was_said_already(type: str) -> None:
    told = explain(instance(condition(type, message="a long sentence")), (), NOW)
    assert told.who == f"a human: what to do stands after {type}"
    assert sum("a long sentence" in line for line in told.lines()) == 1


def test_what_is_still_referred_to_waits_for_whoever_refers() -> None:
    told = explain(instance(condition("Ready", "False", "WaitingForReferrers")), (), NOW)
    assert told.who.startswith("whoever deletes the referrers")


def test_what_user_data_asked_for_in_vain_is_told() -> None:
    data = {"state": "Done", "ignored": ["timezone", "users[0].passwd"]}
    told = explain(instance(condition("Ready"), userData=data), (), NOW)
    assert told.seen == ("left out of the user data: timezone, users[0].passwd",)


def test_hosts_that_cannot_be_used_are_told_with_what_to_do() -> None:
    status = ProviderStatus.model_validate(
        {"unusable": [{"name": "db-1", "reason": "NeedsRoot", "message": "sudo wants a password"}]}
    )
    assert status.seen() == ("db-1 cannot be used (NeedsRoot): sudo wants a password",)


def test_a_rejected_plan_is_proposed_again_by_the_line_that_is_said() -> None:
    told = explain(instance(condition("Drifted", reason="PlanRejected")), (), NOW)
    assert told.who.endswith("kubectl annotate --overwrite instance web -n shop agentmetal.io/replan=$(date +%s)")


def test_without_an_operator_nothing_else_helps() -> None:
    told = explain(instance(condition("Ready")), (), NOW, leaderless_since=NOW - timedelta(hours=1))
    assert told.who.startswith("no operator leads since 2026-01-01T11:00:00")


def test_after_the_last_step_the_result_is_checked() -> None:
    told = explain(instance(condition("Ready", "False")), [operation("Running", {"state": "Succeeded"})], NOW)
    assert told.next == ("checking the result (op-1)",)


def test_a_spec_that_nobody_sees_is_the_administrator_s() -> None:
    told = explain(instance(generation=2), (), NOW)
    assert told.why[0] == "the operator has seen generation 1 of 2 so far"
    assert told.who.startswith("the administrator")


def test_another_object_s_operations_are_not_mentioned() -> None:
    other = operation("Running", {"state": "Running"})
    other = other.model_copy(
        update={
            "spec": other.spec.model_copy(
                update={"resource_ref": other.spec.resource_ref.model_copy(update={"uid": "u2"})}
            )
        }
    )
    assert explain(instance(condition("Ready")), [other], NOW).who == "nobody: all is well"


def test_durations_are_short() -> None:
    spans = (0, 59, 60, 3_600, 90_000)
    assert [duration(timedelta(seconds=span).total_seconds()) for span in spans] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "1 h 00 min",
        "1 d 1 h",
    ]
