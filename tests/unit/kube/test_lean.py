"""Cached objects share what they have in common, and stay the objects they are."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from tests.support.operations import instance

from agentmetal.agents.instance.api import Instance
from agentmetal.core.condition import ConditionType
from agentmetal.kube.lean import lean

TIMES = 200


def wire(number: int) -> dict[str, Any]:
    """As parsed from an answer: nothing is shared with another one."""
    body = instance(uid=f"uid-{number}").model_dump(mode="json", by_alias=True, exclude_none=True)
    said = {"status": "True", "reason": "AsSpecified", "observedGeneration": 1, "lastTransitionTime": "now"}
    body["status"]["conditions"] = [{"type": type.value, **said} for type in ConditionType]
    parsed: dict[str, Any] = json.loads(json.dumps(body))
    return parsed


def parsed(number: int) -> Instance:
    return Instance.model_validate(wire(number))


def test_a_lean_object_says_the_same() -> None:
    assert lean(parsed(1)) == parsed(1)
    assert lean(parsed(1)).model_dump(exclude_unset=True) == parsed(1).model_dump(exclude_unset=True)


def test_a_copy_of_a_lean_object_changes_nobody_else() -> None:
    first, second = lean(parsed(1)), lean(parsed(2))
    given = set(second.spec.model_fields_set)

    copied = first.spec.model_copy(update={"location": "hall-1"})

    assert "location" in copied.model_fields_set
    assert second.spec.model_fields_set == given


def test_lean_objects_need_less_than_two_thirds_of_the_memory() -> None:
    assert _memory(lambda number: lean(parsed(number))) < 0.67 * _memory(parsed)


def _memory(make: Any) -> int:
    make(0)  # what is made once
    tracemalloc.start()
    try:
        kept = [make(number) for number in range(TIMES)]
        used, _ = tracemalloc.get_traced_memory()
        return used // len(kept)
    finally:
        tracemalloc.stop()
