"""Who decides, and what does not count as a decision."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentmetal.agents.instance.api import Instance
from agentmetal.core.operation import (
    ApprovalPolicy,
    Cause,
    Decision,
    Operation,
    OperationSpec,
    OperationStatus,
    ResourceRef,
    StepSpec,
)
from agentmetal.core.plan import Trigger, digest
from agentmetal.core.resource import ObjectMeta
from agentmetal.core.risk import Risk
from agentmetal.engine.approval import Approved, Expired, Rejected, Verdict, Waiting, decide

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def instance(**annotations: str) -> Instance:
    wire = {f"agentmetal.io/{name}": value for name, value in annotations.items()}
    return Instance.model_validate(
        {
            "kind": "Instance",
            "metadata": {"name": "web-1", "namespace": "default", "uid": "u-1", "annotations": wire},
            "spec": {"providerRef": {"name": "cloud"}, "type": "small", "image": "bookworm"},
        }
    )


def operation(
    risk: Risk = Risk.DANGEROUS, *, number: int = 1, tool: str = "rebuild_instance", **status: Any
) -> Operation:
    spec = OperationSpec(
        resource_ref=ResourceRef(kind="Instance", name="web-1", uid="u-1"),
        number=number,
        plan_hash="h" * 64,
        digest=digest("h" * 64, number),
        risk=risk,
        cause=Cause(trigger=Trigger.CHANGE),
        steps=(StepSpec(tool=tool, risk=risk),),
    )
    return Operation(metadata=ObjectMeta(name="op-x-1"), spec=spec, status=OperationStatus(**status))


def policy(*, namespace: str = "default", **spec: Any) -> ApprovalPolicy:
    wanted = {"resources": ["instances"], "maxRisk": "Dangerous", **spec}
    return ApprovalPolicy.model_validate({"metadata": {"name": "p", "namespace": namespace}, "spec": wanted})


def verdict(op: Operation, obj: Instance, *policies: ApprovalPolicy) -> Verdict:
    return decide(op, obj, policies, NOW)


def test_safe_and_moderate_plans_need_nobody() -> None:
    assert isinstance(verdict(operation(Risk.SAFE), instance()), Approved)
    assert isinstance(verdict(operation(Risk.MODERATE), instance()), Approved)


def test_a_dangerous_plan_waits() -> None:
    assert verdict(operation(), instance()) == Waiting()


def test_the_stamp_with_exactly_this_digest_approves() -> None:
    stamped = instance(decision=f"approve {operation().digest} by ann", reason="maintenance\nwindow\x1b")
    assert verdict(operation(), stamped) == Approved(by="ann", via="Annotation", reason="maintenance window")


@pytest.mark.parametrize(
    "decision",
    [
        f"approve {operation(number=2).digest} by ann",
        f"approve {operation().digest}",
        f"{operation().digest} by ann",
        f"Approve {operation().digest} by ann",
        "approve  by ann",
        "",
    ],
    ids=["the digest of another plan", "nobody", "no verb", "another verb", "no digest", "nothing"],
)
def test_anything_else_decides_nothing(decision: str) -> None:
    assert verdict(operation(), instance(decision=decision)) == Waiting()


def test_the_annotation_a_user_typed_is_inert() -> None:
    assert verdict(operation(), instance(approve=operation().digest)) == Waiting()


def test_a_reject_stamp_refuses_even_a_moderate_plan() -> None:
    moderate = operation(Risk.MODERATE)
    assert verdict(moderate, instance(decision=f"reject {moderate.digest} by ann")) == Rejected(by="ann")


def test_an_approval_not_started_in_time_expires() -> None:
    seen = Decision(verdict="Approved", by="ann", via="Annotation", at=(NOW - timedelta(hours=25)).isoformat())
    stamped = instance(decision=f"approve {operation().digest} by ann")
    assert verdict(operation(decision=seen), stamped) == Expired(by="ann")
    fresh = seen.model_copy(update={"at": (NOW - timedelta(hours=23)).isoformat()})
    assert isinstance(verdict(operation(decision=fresh), stamped), Approved)


def test_a_policy_approves_what_it_names() -> None:
    assert verdict(operation(), instance(), policy()) == Approved(by="p", via="ApprovalPolicy")
    assert isinstance(verdict(operation(), instance(), policy(names=["web-1"], tools=["rebuild_instance"])), Approved)


@pytest.mark.parametrize(
    ("why", "other"),
    [
        ("another namespace", policy(namespace="prod")),
        ("another kind", policy(resources=["databases"])),
        ("another name", policy(names=["web-2"])),
        ("another tool", policy(tools=["reboot_instance"])),
        ("a lower risk", policy(maxRisk="Moderate")),
        ("another origin", policy(origins=["Model"])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_policy_approves_nothing_else(why: str, other: ApprovalPolicy) -> None:
    assert verdict(operation(), instance(), other) == Waiting(), why


def test_a_policy_can_ask_for_approval_of_moderate_plans() -> None:
    asks = policy(require=True, maxRisk="Dangerous")
    assert verdict(operation(Risk.MODERATE), instance(), asks) == Waiting()
    assert isinstance(verdict(operation(Risk.SAFE), instance(), asks), Approved)


def test_asking_wins_over_approving_in_advance() -> None:
    assert verdict(operation(), instance(), policy(), policy(require=True)) == Waiting()
