"""Why an object has to wait for another one. Pure; agents call it in `waits_for`, on what the cache knows."""

from __future__ import annotations

from agentmetal.core.condition import Condition, ConditionStatus, ConditionType, Reason
from agentmetal.core.resource import AnyResource, Key


def awaited(key: Key, found: AnyResource | None) -> Condition | None:
    """A false Ready condition while the object of that key is missing, going away or not ready; None when it is ready.

    `found` is what `ports.lookup.get(key)` says.
    """
    what = f"{key.kind} {key.name!r}"
    if found is None:
        return _wait(f"{what} does not exist in namespace {key.namespace!r}: create it")
    if found.deleting:
        return _wait(f"{what} is being deleted: nothing new is built on it")
    ready = found.condition(ConditionType.READY)
    if ready is None or ready.status is not ConditionStatus.TRUE:
        why = f" ({ready.reason}: {ready.message})" if ready else ""
        return _wait(f"{what} is not ready{why}: see to it first")
    return None


def _wait(message: str) -> Condition:
    return Condition.false(ConditionType.READY, Reason.WAITING_FOR_REFERENCE, message)
