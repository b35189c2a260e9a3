"""What an outcome looks like to people and to `kubectl wait`. Pure: a story in, a status out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.agents import instance
from tests.support.operations import operation

from agentmetal.agents.instance.api import Instance
from agentmetal.core.condition import Condition, ConditionType, Reason
from agentmetal.core.operation import OperationPhase, OperationStatus
from agentmetal.core.outcome import AwaitingApproval, Failed, Outcome, Preview, Progressing, Settled
from agentmetal.core.plan import Plan, Step, Trigger
from agentmetal.core.risk import Risk
from agentmetal.engine.agent import Report
from agentmetal.engine.status import ALWAYS, MAX_MESSAGE, Story, compose

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
READY = ConditionType.READY
PLAN = Plan(
    steps=(Step(tool="start_instance", parameters={}, risk=Risk.MODERATE, description="Power on", evidence="off"),),
    reasoning="it is off",
)
WELL = Report(fields={"state": "Running"}, conditions=(Condition.true(READY, Reason.AS_SPECIFIED, "it runs"),))
BAD = Report(conditions=(Condition.false(READY, Reason.POWERED_OFF, "it is off and should run"),))
OP = operation()
BLOCKED = OP.model_copy(update={"status": OperationStatus(phase=OperationPhase.BLOCKED)})


def told(outcome: Outcome, report: Report | None = None, *, on: Instance | None = None, **story: Any) -> dict[str, Any]:
    return compose(on or instance(), Story(outcome=outcome, report=report, **story), NOW)


def condition(status: dict[str, Any], type: str = "Ready") -> dict[str, Any]:
    (found,) = [c for c in status["conditions"] if c["type"] == type]
    assert isinstance(found, dict)
    return found


def is_true(status: dict[str, Any]) -> set[str]:
    return {c["type"] for c in status["conditions"] if c["status"] == "True"}


OUTCOMES: dict[str, tuple[Outcome, Report | None, set[str], str]] = {
    "all is well": (Settled(), WELL, {"Ready"}, "Running"),
    "not yet well": (Settled(), BAD, set(), "Creating"),
    "a plan runs": (
        Progressing(reason=Reason.PLAN_RUNNING, message="it is off", operation=OP),
        BAD,
        {"Reconciling"},
        "Creating",
    ),
    "it waits for another object": (
        Progressing(reason=Reason.WAITING_FOR_REFERENCE, message="no Provider"),
        None,
        {"Reconciling"},
        "Pending",
    ),
    "only looked at": (
        Preview(plan=PLAN, reason=Reason.OBSERVE_ONLY, message="mode is Observe"),
        BAD,
        {"Drifted"},
        "Creating",
    ),
    "it will be tried again": (
        Failed(reason=Reason.PROVIDER_UNAVAILABLE, message="no answer", who_must_act="nobody", again_in=15),
        None,
        {"Reconciling"},
        "Error",
    ),
    "a human is needed": (
        Failed(reason=Reason.LIMIT_REACHED, message="full", who_must_act="the owner of the account"),
        BAD,
        {"Stalled"},
        "Error",
    ),
    "a step is in doubt": (
        Failed(reason=Reason.STEP_IN_DOUBT, message="look", who_must_act="an approver", operation=BLOCKED),
        None,
        {"Stalled", "Blocked"},
        "Error",
    ),
}


def test_what_a_host_said_is_one_printable_line() -> None:
    said = "no sudo\n\x1b[2JReady: True\u202e"
    report = Report(conditions=(Condition.false(READY, Reason.NEEDS_ROOT, said),))

    assert condition(told(Settled(), report))["message"] == "no sudo  [2JReady: True"


@pytest.mark.parametrize(("outcome", "report", "true", "phase"), OUTCOMES.values(), ids=OUTCOMES)
def test_each_outcome_has_its_conditions_and_its_phase(
    outcome: Outcome, report: Report | None, true: set[str], phase: str
) -> None:
    status = told(outcome, report)
    assert is_true(status) == true
    assert status["phase"] == phase
    assert {c["type"] for c in status["conditions"]} >= set(ALWAYS), "each is restated, whether it applies or not"


def test_before_the_first_look_ready_is_unknown() -> None:
    status = told(Failed(reason=Reason.PROVIDER_UNAVAILABLE, message="no answer", who_must_act="nobody", again_in=1))
    assert condition(status)["status"] == "Unknown"


def test_an_agent_that_sees_nothing_wrong_is_not_ready_while_a_plan_is_still_to_run() -> None:
    status = told(Progressing(reason=Reason.PLAN_RUNNING, message="image: a -> b", operation=OP), WELL)
    assert (condition(status)["status"], condition(status)["reason"]) == ("False", "PlanRunning")


def test_who_must_act_is_said_once() -> None:
    once = "full (the owner of the account must act)"
    for message in ("full", once):
        outcome = Failed(reason=Reason.LIMIT_REACHED, message=message, who_must_act="the owner of the account")
        assert condition(told(outcome), "Stalled")["message"] == once


def test_a_waiting_plan_gives_the_line_that_approves_and_its_digest() -> None:
    status = told(AwaitingApproval(operation=OP), WELL, waiting=OP)
    message = condition(status, "AwaitingApproval")["message"]
    assert f"agentmetal.io/approve={OP.digest}" in message
    assert status["plan"]["digest"] == OP.digest
    assert condition(status)["status"] == "False"


@pytest.mark.parametrize("outcome", ["waits", "refused"])
def test_an_object_whose_deletion_waits_or_was_refused_answers_as_before(outcome: str) -> None:
    teardown = operation(Trigger.DELETION, while_deleting=True)
    plan = Plan(steps=PLAN.steps, reasoning="it was deleted", trigger=Trigger.DELETION)
    outcomes: dict[str, Outcome] = {
        "waits": AwaitingApproval(operation=teardown),
        "refused": Preview(plan=plan, reason=Reason.PLAN_REJECTED, message="rejected by ann"),
    }
    status = told(outcomes[outcome], WELL, on=instance(deleting=True), last=OP)
    assert condition(status)["status"] == "True"
    assert status["phase"] == "Deleting"


def test_a_preview_has_no_digest() -> None:
    plan = told(Preview(plan=PLAN, reason=Reason.OBSERVE_ONLY), BAD)["plan"]
    assert "digest" not in plan
    assert [step["tool"] for step in plan["steps"]] == ["start_instance"]
    assert plan["evidence"] == ["off"]


def test_a_time_moves_only_with_the_status_of_its_condition() -> None:
    earlier = told(Settled(), BAD)
    body = instance(status={"conditions": earlier["conditions"]})
    later = NOW + timedelta(hours=1)
    same = compose(body, Story(outcome=Settled(), report=BAD), later)
    assert condition(same)["lastTransitionTime"] == "2026-06-01T12:00:00Z"
    turned = compose(body, Story(outcome=Settled(), report=WELL), later)
    assert condition(turned)["lastTransitionTime"] == "2026-06-01T13:00:00Z"
    assert condition(turned, "Stalled")["lastTransitionTime"] == "2026-06-01T12:00:00Z"


def test_the_same_story_gives_the_same_status() -> None:
    first = told(Settled(), WELL)
    again = compose(
        instance(status={"conditions": first["conditions"], "phase": first["phase"]}),
        Story(outcome=Settled(), report=WELL),
        NOW + timedelta(days=1),
    )
    assert again == first


def test_messages_are_bounded() -> None:
    outcome = Failed(reason=Reason.BUG, message="x" * 10_000, who_must_act="nobody", again_in=1)
    assert all(len(c["message"]) <= MAX_MESSAGE for c in told(outcome)["conditions"])


def test_a_phase_never_goes_back_to_creating() -> None:
    ran = instance(status={"phase": "Running"})
    running = Progressing(reason=Reason.PLAN_RUNNING, message="m", operation=OP)
    assert told(running, BAD, on=ran)["phase"] == "Updating"


def test_a_refusal_is_noted_with_its_generation() -> None:
    outcome = Preview(plan=PLAN, reason=Reason.PLAN_REJECTED, message="rejected by ann")
    status = told(outcome, BAD, refused_hash="h" * 64, refused_by="ann")
    assert status["rejected"] == {"planHash": "h" * 64, "generation": 1, "by": "ann"}
    assert told(Settled(), WELL)["rejected"] is None
