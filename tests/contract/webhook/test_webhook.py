"""The webhook client and the notifier against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.agents import CLUSTER, instance
from tests.support.receiver import Receiver, receiving

from agentmetal.clients.webhook import Webhook
from agentmetal.core.clock import SystemClock
from agentmetal.core.errors import AgentMetalError, Invalid, RateLimited, Unavailable
from agentmetal.engine.metrics import Metrics
from agentmetal.kube.notify import DELIVERY, Notifier, Target

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "notifications.md"
KEY = b"0123456789abcdef0123456789abcdef"
DIGEST = "sha256:" + "5f" * 32


@asynccontextmanager
async def client(timeout: float = 5.0) -> AsyncIterator[Webhook]:
    webhook = Webhook(timeout=timeout)
    try:
        yield webhook
    finally:
        await webhook.close()


def asking() -> Any:
    waits = {
        "type": "AwaitingApproval",
        "status": "True",
        "reason": "ApprovalRequired",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    step = {"tool": "decommission_instance", "description": "Delete it", "risk": "Dangerous"}
    plan = {"risk": "Dangerous", "origin": "Deterministic", "digest": DIGEST, "shortDigest": "5f", "steps": [step]}
    return instance(status={"conditions": [waits], "plan": plan})


@asynccontextmanager
async def notifying(receiver: Receiver) -> AsyncIterator[Notifier]:
    async def load() -> Target:
        return Target(url=receiver.url, key=KEY)

    jitter = random.Random(4)  # noqa: S311 - jitter, no secret
    notifier = Notifier(Webhook(), load, SystemClock(), Metrics(), cluster=CLUSTER, jitter=jitter)
    try:
        yield notifier
    finally:
        await notifier.close()


def snippet() -> Callable[..., bool]:
    """The receiver's check, as the guide prints it."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102 - our own page: what it prints must work
    check: Callable[..., bool] = found["is_genuine"]
    return check


async def test_what_the_guide_prints_accepts_a_delivery_and_no_forgery() -> None:
    async with receiving() as receiver, notifying(receiver) as notifier:
        notifier.announce(instance(), asking())
        await receiver.until(1)
    ((headers, body),) = receiver.got
    is_genuine = snippet()
    assert is_genuine(KEY, headers, body)
    assert not is_genuine(b"another key", headers, body)
    assert not is_genuine(KEY, headers, body.replace(b"Dangerous", b"Safe"))
    assert not is_genuine(KEY, {**headers, "X-AgentMetal-Timestamp": "1"}, body)
    assert json.loads(body)["digest"] == DIGEST
    assert headers["Content-Type"] == "application/json"


async def test_a_delivery_is_tried_again_under_the_same_id_after_what_retry_after_says() -> None:
    busy = web.Response(status=503, headers={"Retry-After": "2"})
    async with receiving(busy) as receiver, notifying(receiver) as notifier:
        notifier.announce(instance(), asking())
        await receiver.until(1)
        first = asyncio.get_running_loop().time()
        await receiver.until(2)
        assert asyncio.get_running_loop().time() - first >= 1.9
    assert len({headers[DELIVERY] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1


@pytest.mark.parametrize(
    ("answer", "becomes"),
    [
        (web.Response(status=503), Unavailable),
        (web.Response(status=429, headers={"Retry-After": "9"}), RateLimited),
        (web.Response(status=404), Invalid),
    ],
    ids=["503", "429", "404"],
)
async def test_what_an_answer_means(answer: web.Response, becomes: type[AgentMetalError]) -> None:
    async with receiving(answer) as receiver, client() as webhook:
        with pytest.raises(becomes) as told:
            await webhook.post(receiver.url, b"{}", {})
    assert told.value.retry_after == (9.0 if becomes is RateLimited else None)


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as elsewhere:
        away = web.Response(status=307, headers={"Location": elsewhere.url})
        async with receiving(away) as receiver, client() as webhook:
            with pytest.raises(Invalid, match="redirects are not followed"):
                await webhook.post(receiver.url, b"{}", {})
    assert elsewhere.got == []


async def test_a_receiver_that_does_not_answer_in_time_is_unavailable() -> None:
    async with receiving() as receiver, client(timeout=0.2) as webhook:
        receiver.slow = 2.0
        with pytest.raises(Unavailable, match="does not answer"):
            await webhook.post(receiver.url, b"{}", {})


async def test_the_url_is_in_no_error_and_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    urls = [f"http://127.0.0.1:{port}/s3cr3t-path", "http://s3cr3t.invalid/x", "http://[s3cr3t", "s3cr3t"]
    async with client(timeout=2.0) as webhook:
        for url in urls:
            try:
                await webhook.post(url, b"{}", {})
            except AgentMetalError as error:
                logging.getLogger("test").exception("failed: %s", error)
                assert error.__context__ is None
    async with receiving(web.Response(status=400)) as receiver, notifying(receiver) as notifier:
        notifier.announce(instance(), asking())
        await receiver.until(1)
    assert "failed: the webhook" in caplog.text
    assert "s3cr3t" not in caplog.text
    assert KEY.decode() not in caplog.text
