"""Kubernetes Events, few and useful: approval needed, failure, stalled. Called by the status writer after a turn.

Best effort: what matters stands in status; an event that cannot be posted is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC
from typing import Any

from agentmetal.core.clock import Clock
from agentmetal.core.condition import ConditionStatus, ConditionType
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.kubetypes import EVENT
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import AnyResource, ConditionModel

TOLD = {
    ConditionType.AWAITING_APPROVAL: "Approve",
    ConditionType.STALLED: "Reconcile",
    ConditionType.BLOCKED: "Execute",
    ConditionType.HOST_KEY_MISMATCH: "Observe",
}
MAX_NOTE = 1024
MAX_PENDING = 64

log = logging.getLogger("agentmetal.events")


class Events:
    """Implements `kube.status.Announcer`."""

    def __init__(self, api: KubeApi, clock: Clock, identity: str) -> None:
        self._api = api
        self._clock = clock
        self._identity = identity
        self._posting: set[asyncio.Task[None]] = set()

    def announce(self, before: AnyResource, after: AnyResource) -> None:
        """Post what became true."""
        for type, action in TOLD.items():
            condition = after.condition(type)
            if condition and condition.status is ConditionStatus.TRUE and _is_new(before.condition(type), condition):
                self._post(after, condition, action)

    async def close(self) -> None:
        """Wait for what is being posted, a moment."""
        if self._posting:
            await asyncio.wait(self._posting, timeout=1.0)

    def _post(self, resource: AnyResource, condition: ConditionModel, action: str) -> None:
        if len(self._posting) >= MAX_PENDING:
            return
        task = asyncio.create_task(self._send(self._body(resource, condition, action)))
        self._posting.add(task)
        task.add_done_callback(self._posting.discard)

    async def _send(self, body: dict[str, Any]) -> None:
        try:
            await self._api.create(EVENT, body)
        except AgentMetalError as error:
            log.info("event not posted: %s", error)

    def _body(self, resource: AnyResource, condition: ConditionModel, action: str) -> dict[str, Any]:
        now = self._clock.now().astimezone(UTC)
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {
                "name": f"{resource.metadata.name}.{int(now.timestamp() * 1e6):x}.{condition.type.value.lower()}",
                "namespace": resource.metadata.namespace,
            },
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "agentmetal.io/operator",
            "reportingInstance": self._identity,
            "type": "Warning" if condition.type is not ConditionType.AWAITING_APPROVAL else "Normal",
            "reason": condition.reason,
            "action": action,
            "note": condition.message[:MAX_NOTE],
            "regarding": {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "name": resource.metadata.name,
                "namespace": resource.metadata.namespace,
                "uid": resource.uid,
            },
        }


def _is_new(before: ConditionModel | None, after: ConditionModel) -> bool:
    return before is None or before.status is not after.status or before.reason != after.reason
