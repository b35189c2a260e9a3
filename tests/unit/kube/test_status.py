"""The writer of status, when the API server will not have it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.support.operations import instance

from agentmetal.agents import AGENTS
from agentmetal.core.errors import Invalid, RateLimited
from agentmetal.core.ports import Ports
from agentmetal.core.resource import AnyResource
from agentmetal.kube.cache import Cache
from agentmetal.kube.status import StatusWriter

pytestmark = pytest.mark.looptime
LOOK = 15.0
"""Seconds between two passes."""


class Strict:
    """An API whose status holds no long address."""

    def __init__(self) -> None:
        self.asked = 0

    async def patch(self, _type: object, _namespace: str, _name: str, patch: Any, **_: Any) -> dict[str, Any]:
        self.asked += 1
        if len(patch["status"].get("publicIP", "")) > 64:
            raise Invalid("Instance 'web' is invalid: status.publicIP: String should have at most 64 characters")
        return body(status=patch["status"])


class Crowded:
    """An API that has something else to do, and says so in the smallest number that it can."""

    def __init__(self) -> None:
        self.asked = 0

    async def patch(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.asked += 1
        raise RateLimited("HTTP 429", retry_after=1.0)


class Nobody:
    """Tells nobody."""

    def announce(self, before: AnyResource, after: AnyResource) -> None:
        """Not told."""


def body(**fields: Any) -> dict[str, Any]:
    wire = instance(resourceVersion="7", generation=1).model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**wire, **fields}


def _writer(api: Any) -> StatusWriter:
    cache = Cache(api, lambda _key, _priority: None)
    ports: Any = Ports
    cache.serve(agent(ports) for agent in AGENTS)
    cache.put(body(status={}))
    return StatusWriter(api, cache, Nobody(), leads=lambda: True)


async def _pass(writer: StatusWriter, address: str, *, at: float) -> None:
    """What a pass says: the time is another one each time, for the condition was never written."""
    times = {"lastTransitionTime": f"2026-01-01T00:00:00.{at:g}Z"}
    ready = {"type": "Ready", "status": "False", "reason": "PlanPending", "message": "", **times}
    resource = instance(resourceVersion="7", generation=1)
    writer.submit(resource, lambda _: {"publicIP": address, "conditions": [ready]})
    await writer.flush(10.0)


async def test_what_the_api_server_refuses_is_asked_again_ever_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    api, caplog.handler.level = Strict(), logging.ERROR
    writer = _writer(api)
    for number in range(240):  # an hour
        await _pass(writer, "x" * 65, at=number * LOOK)
        await asyncio.sleep(LOOK)
    assert 6 <= api.asked <= 14
    assert len([record for record in caplog.records if "is refused" in record.message]) == api.asked


async def test_retry_after_lengthens_pauses_and_stops_none_from_growing() -> None:
    api = Crowded()
    writer = _writer(api)
    writer.submit(instance(resourceVersion="7", generation=1), lambda _: {"publicIP": "192.0.2.1"})
    await asyncio.sleep(60.5)
    assert api.asked == 11  # after 1, 1, 1, 2, 5 and then 10 s each
    await writer.close()


async def test_after_a_refusal_something_else_is_said_at_once() -> None:
    api = Strict()
    writer = _writer(api)
    await _pass(writer, "x" * 65, at=0)
    await _pass(writer, "203.0.113.7", at=1)
    await _pass(writer, "x" * 66, at=2)
    assert api.asked == 3
