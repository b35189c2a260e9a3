"""What an object, as it is now, says to the next step: one row for each reason."""

from __future__ import annotations

import pytest
from tests.support.operations import DIGEST, instance, operation

from agentmetal.agents.instance.api import Instance
from agentmetal.core.condition import Reason
from agentmetal.core.operation import Operation
from agentmetal.core.plan import Trigger
from agentmetal.core.resource import FINALIZER, spec_hash
from agentmetal.engine.gate import Answer, Go, Hold, Stop, allowed

GOING = "2026-01-01T00:00:00Z"


PAUSED = Hold(reason=Reason.PAUSED, message="paused: remove the annotation agentmetal.io/paused to go on")
OBSERVED = Hold(reason=Reason.OBSERVE_ONLY, message="spec.management.mode is Observe: nothing is changed")


def _let_go() -> Operation:
    """Planned for an object that is being deleted and only observed."""
    planned = operation(Trigger.DELETION, while_deleting=True)
    observed = instance(spec={"management": {"mode": "Observe"}}, deletionTimestamp=GOING)
    return planned.model_copy(update={"spec": planned.spec.model_copy(update={"spec_hash": spec_hash(observed)})})


ROWS: list[tuple[str, Instance | None, Operation, Answer]] = [
    ("nothing has changed", instance(), operation(), Go()),
    ("it does not exist", None, operation(), Stop(message="the object does not exist any more")),
    ("it is another object", instance(uid="u-2"), operation(), Stop(message="the object does not exist any more")),
    ("it is deleted", instance(deletionTimestamp=GOING), operation(), Stop(message="the object is being deleted")),
    ("planned after deletion", instance(deletionTimestamp=GOING), operation(while_deleting=True), Go()),
    (
        "somebody took our finalizer",
        instance(finalizers=[]),
        operation(),
        Stop(message=f"the finalizer {FINALIZER} is missing: somebody gave the machine up"),
    ),
    (
        "an approver rejects it",
        instance(annotations={"decision": f"reject {DIGEST} by ann"}),
        operation(),
        Stop(message="rejected by ann", rejected_by="ann"),
    ),
    ("another plan was rejected", instance(annotations={"decision": "reject sha256:0 by ann"}), operation(), Go()),
    ("a user typed reject", instance(annotations={"reject": DIGEST}), operation(), Go()),
    ("another image is wanted", instance(spec={"image": "trixie"}), operation(), Stop(message="the spec has changed")),
    (
        "it shall be retained now",
        instance(spec={"management": {"deletionPolicy": "Retain"}}),
        operation(),
        Stop(message="the spec has changed"),
    ),
    ("other retries", instance(spec={"management": {"retries": 9}}), operation(), Go()),
    ("it is paused", instance(annotations={"paused": "true"}), operation(), PAUSED),
    ("paused says something else", instance(annotations={"paused": "yes"}), operation(), Go()),
    ("it is only observed", instance(spec={"management": {"mode": "Observe"}}), operation(), OBSERVED),
    (
        "its teardown was planned before it was only observed",
        instance(spec={"management": {"mode": "Observe"}}, deletionTimestamp=GOING),
        operation(Trigger.DELETION, while_deleting=True),
        Stop(message="the spec has changed"),
    ),
    (
        "it is let go of while observed",
        instance(spec={"management": {"mode": "Observe"}}, deletionTimestamp=GOING),
        _let_go(),
        Go(),
    ),
    (
        "paused while it is deleted",
        instance(annotations={"paused": "true"}, deletionTimestamp=GOING),
        operation(Trigger.DELETION, while_deleting=True),
        PAUSED,
    ),
]


@pytest.mark.parametrize(("resource", "op", "answer"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_next_step_is_allowed_held_or_stopped(resource: Instance | None, op: Operation, answer: Answer) -> None:
    assert allowed(op, resource) == answer
