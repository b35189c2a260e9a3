"""Notifications: what is told, in which words, and that nobody ever waits for them. Virtual time, a sink in memory."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.agents import CLUSTER, NOW, instance

from agentmetal.core.clock import LoopClock
from agentmetal.core.errors import AgentMetalError, Invalid, NotFound, RateLimited, Unavailable
from agentmetal.engine.metrics import Metrics
from agentmetal.kube.notify import (
    DELIVERY,
    GIVE_UP_AFTER,
    MAX_PENDING,
    SIGNATURE,
    TIMESTAMP,
    Notifier,
    Target,
    target_of,
)
from agentmetal.kube.telling import TOLD, as_json, as_slack, notices

DIGEST = "sha256:" + "5f" * 32
URL = "https://receiver.example.com/s3cr3t"
KEY = b"0123456789abcdef"
NASTY = "<!channel> & <@U1> `rm`\n\u202eevil\x1b[31m"


def condition(
    type: str, status: str = "True", reason: str = "SomeReason", message: str = "it says so"
) -> dict[str, str]:
    time = "2026-01-01T00:00:00Z"
    return {"type": type, "status": status, "reason": reason, "message": message, "lastTransitionTime": time}


def plan(digest: str | None = DIGEST, steps: int = 1, text: str = "Delete it") -> dict[str, Any]:
    step = {"tool": "decommission_instance", "description": text, "risk": "Dangerous"}
    shown = {"risk": "Dangerous", "origin": "Deterministic", "reasoning": text, "steps": [step] * steps}
    return shown | ({"digest": digest, "shortDigest": "5f5f5f5f5f5f", "operation": "op-1"} if digest else {})


def asking(digest: str = DIGEST, **options: Any) -> dict[str, Any]:
    waits = condition("AwaitingApproval", reason="ApprovalRequired")
    return {"conditions": [waits], "plan": plan(digest, **options)}


def failed(name: str, result: str = "Failed") -> dict[str, Any]:
    return {"lastOperation": {"name": name, "number": 1, "result": result, "message": "exit code 1"}}


STALLED = {"conditions": [condition("Stalled")]}
WELL = {"conditions": [condition("Stalled", "False")]}
TURNS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("nothing happened", {}, {}, []),
    ("a plan waits", {}, asking(), ["ApprovalRequired"]),
    ("the same plan still waits", asking(), asking(), []),
    ("another plan waits", asking(), asking("sha256:" + "aa" * 32), ["ApprovalRequired"]),
    ("a preview asks for nothing", {}, {"plan": plan(None)}, []),
    ("it stalls", WELL, STALLED, ["Stalled"]),
    ("it stalls for another reason", STALLED, {"conditions": [condition("Stalled", reason="Other")]}, ["Stalled"]),
    ("it is still stalled", STALLED, STALLED, []),
    ("a step is in doubt", {}, {"conditions": [condition("Blocked")]}, ["Blocked"]),
    ("another key", {}, {"conditions": [condition("HostKeyMismatch")]}, ["HostKeyMismatch"]),
    ("a plan failed", failed("op-1", "Succeeded"), failed("op-2"), ["OperationFailed"]),
    ("the next one failed, too", failed("op-1"), failed("op-2"), []),
    ("a plan succeeded", failed("op-1"), failed("op-2", "Succeeded"), []),
    ("all is well again", STALLED, WELL, ["Recovered"]),
    ("one trouble gave way to another", STALLED, {"conditions": [condition("Blocked")]}, ["Blocked"]),
]


@pytest.mark.parametrize(("why", "before", "after", "told"), TURNS, ids=[turn[0] for turn in TURNS])
def test_each_turn_worth_telling_is_told_once(
    why: str, before: dict[str, Any], after: dict[str, Any], told: list[str]
) -> None:
    found = notices(instance(status=before), instance(status=after), cluster=CLUSTER, now=NOW)
    assert [notice.fields["event"] for notice in found] == told, why


def test_what_is_being_deleted_has_not_recovered() -> None:
    assert notices(instance(status=STALLED), instance(status=WELL, deleting=True), cluster=CLUSTER, now=NOW) == ()


def test_every_event_of_the_table_is_tried_here_and_documented() -> None:
    tried = {event for turn in TURNS for event in turn[3]}
    assert tried == {event for event, _ in TOLD}
    guide = (Path(__file__).parents[3] / "docs" / "how-to" / "notifications.md").read_text()
    assert [event for event in tried if f"| `{event}` |" not in guide] == []


def test_the_message_names_the_plan_and_how_to_decide() -> None:
    (notice,) = notices(instance(), instance(status=asking()), cluster=CLUSTER, now=NOW)
    told = json.loads(as_json(notice))
    assert told["version"] == 1
    assert (told["kind"], told["namespace"], told["name"], told["cluster"]) == ("Instance", "shop", "web", CLUSTER)
    assert (told["risk"], told["digest"], told["shortDigest"]) == ("Dangerous", DIGEST, "5f5f5f5f5f5f")
    assert told["steps"][0]["tool"] == "decommission_instance"
    assert told["approve"] == f"kubectl annotate --overwrite instance web -n shop agentmetal.io/approve={DIGEST}"
    assert told["reject"].endswith(f"agentmetal.io/reject={DIGEST}")


def test_a_huge_plan_makes_a_bounded_message() -> None:
    after = instance(status=asking(steps=64, text="x" * 500))
    (notice,) = notices(instance(), after, cluster=CLUSTER, now=NOW)
    body = as_json(notice)
    assert len(body) < 16 * 1024
    assert json.loads(body)["stepsOmitted"] == 40
    sections = json.loads(as_slack(notice))["blocks"]
    assert all(len(section["text"]["text"]) <= 3000 for section in sections)


def test_untrusted_text_can_neither_forge_lines_nor_mention_anybody() -> None:
    after = instance(status={"conditions": [condition("Stalled", message=NASTY)]})
    (notice,) = notices(instance(), after, cluster=CLUSTER, now=NOW)
    assert not {"\n", "\x1b", "\u202e"} & set(json.loads(as_json(notice))["message"])
    text = json.loads(as_slack(notice))["blocks"][0]["text"]
    assert text["verbatim"] is True
    assert "&lt;!channel&gt; &amp; &lt;@U1&gt;" in text["text"]
    assert "<" not in text["text"]


def test_the_same_turn_has_the_same_id_whoever_tells_it() -> None:
    first, again = (notices(instance(), instance(status=asking()), cluster=CLUSTER, now=NOW)[0] for _ in range(2))
    (other,) = notices(instance(), instance(status=asking("sha256:" + "aa" * 32)), cluster=CLUSTER, now=NOW)
    assert first.id == again.id != other.id


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({}, "lacks 'url'"),
        ({"url": b"https://x.example"}, "hmac-key"),
        ({"url": b"https://x.example", "hmac-key": b"short"}, "16 characters"),
        ({"url": b"http://s3cr3t.example/", "format": b"slack"}, "https"),
        ({"url": b"ftp://s3cr3t.example/", "format": b"slack"}, "https"),
        ({"url": b"https://s3cr3t .example/", "format": b"slack"}, "cannot be read"),
        ({"url": b"https://s3cr3t.example:bad/", "format": b"slack"}, "cannot be read"),
        ({"url": b"https:///s3cr3t", "format": b"slack"}, "cannot be read"),
        ({"url": b"https://x.example", "format": b"xml"}, "json or slack"),
    ],
)
def test_a_wrong_secret_is_refused_with_a_sentence_that_shows_none_of_it(held: dict[str, bytes], says: str) -> None:
    with pytest.raises(Invalid, match=says) as refusal:
        target_of("notify", held, development=False)
    assert "s3cr3t" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_http_is_for_loopback_in_development_only() -> None:
    local = {"url": b"http://127.0.0.1:1/x", "format": b"slack"}
    assert target_of("notify", local, development=True).url == "http://127.0.0.1:1/x"
    with pytest.raises(Invalid, match="https"):
        target_of("notify", local, development=False)
    with pytest.raises(Invalid, match="https"):
        target_of("notify", {**local, "url": b"http://10.0.0.1/x"}, development=True)


# ---- delivery


@dataclass
class FakeSink:
    """A receiver that answers as it is told to."""

    answers: list[Exception | None] = field(default_factory=list)
    got: list[tuple[float, str, bytes, dict[str, str]]] = field(default_factory=list)
    hangs: bool = False

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        self.got.append((asyncio.get_running_loop().time(), url, body, dict(headers)))
        if self.answers and (error := self.answers.pop(0)):
            raise error

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class Told:
    """A notifier on a fake sink."""

    notifier: Notifier
    sink: FakeSink
    metrics: Metrics
    target: Target | AgentMetalError
    loads: int = 0

    def tell(self, name: str = DIGEST) -> None:
        self.notifier.announce(instance(), instance(status=asking(name)))

    def counted(self, result: str) -> float:
        families = text_string_to_metric_families(self.metrics.render().decode())
        samples = [s for f in families for s in f.samples if s.labels.get("result") == result]
        return sum(s.value for s in samples if s.name == "agentmetal_notifications_total")


@asynccontextmanager
async def notifying(*answers: Exception | None) -> AsyncIterator[Told]:
    sink, metrics = FakeSink(list(answers)), Metrics()

    async def load() -> Target:
        told.loads += 1
        if isinstance(told.target, AgentMetalError):
            raise told.target
        return told.target

    notifier = Notifier(sink, load, LoopClock(), metrics, cluster=CLUSTER, jitter=random.Random(4))  # noqa: S311 - jitter
    told = Told(notifier=notifier, sink=sink, metrics=metrics, target=Target(url=URL, key=KEY))
    try:
        yield told
    finally:
        await notifier.close()


@pytest.mark.looptime
async def test_a_delivery_is_signed_over_its_time_and_its_body() -> None:
    async with notifying() as told:
        told.tell()
        await asyncio.sleep(1)
        ((_, url, body, headers),) = told.sink.got
        assert url == URL
        signed = headers[TIMESTAMP].encode() + b"." + body
        assert headers[SIGNATURE] == "sha256=" + hmac.new(KEY, signed, hashlib.sha256).hexdigest()
        assert headers[DELIVERY] == json.loads(body)["id"]
        assert told.counted("delivered") == 1


@pytest.mark.looptime
async def test_what_is_not_taken_is_tried_again_later_and_later_under_the_same_id() -> None:
    async with notifying(*[Unavailable("down")] * 5) as told:
        told.tell()
        await asyncio.sleep(120)
        times = [got[0] for got in told.sink.got]
        waits = [after - before for before, after in pairwise(times)]
        bounds = [(0.5, 1), (1, 2), (2.5, 5), (5, 10), (15, 30)]
        assert all(low <= wait <= high for wait, (low, high) in zip(waits, bounds, strict=True)), waits
        assert len({got[3][DELIVERY] for got in told.sink.got}) == 1
        assert len({got[3][TIMESTAMP] for got in told.sink.got}) > 1, "receivers refuse old times"
        assert (told.counted("retried"), told.counted("delivered")) == (5, 1)


@pytest.mark.looptime
async def test_retry_after_is_honoured_within_bounds() -> None:
    answers = [RateLimited("slow", retry_after=42.0), RateLimited("slower", retry_after=86400.0)]
    async with notifying(*answers) as told:
        told.tell()
        await asyncio.sleep(400)
        first, second, third = (got[0] for got in told.sink.got)
        assert second - first == pytest.approx(42, abs=0.1)
        assert third - second == pytest.approx(300, abs=0.1)


@pytest.mark.looptime
async def test_it_is_given_up_in_bounded_time_and_the_next_one_follows() -> None:
    async with notifying(*[Unavailable("down")] * 1000) as told:
        told.tell()
        await asyncio.sleep(GIVE_UP_AFTER + 1)
        assert told.counted("failed") == 1
        told.sink.answers.clear()
        told.tell("sha256:" + "aa" * 32)
        await asyncio.sleep(1)
        assert told.counted("delivered") == 1


@pytest.mark.looptime
async def test_a_refused_message_is_not_repeated() -> None:
    async with notifying(Invalid("HTTP 400")) as told:
        told.tell()
        await asyncio.sleep(60)
        assert len(told.sink.got) == 1
        assert told.counted("failed") == 1


@pytest.mark.looptime
async def test_a_new_url_is_taken_up_without_a_restart() -> None:
    async with notifying() as told:
        told.tell()
        await asyncio.sleep(1)
        told.target = Target(url="https://other.example/", key=KEY)
        await asyncio.sleep(30)
        told.tell("sha256:" + "aa" * 32)
        await asyncio.sleep(1)
        assert [got[1] for got in told.sink.got] == [URL, "https://other.example/"]


@pytest.mark.looptime
async def test_a_missing_secret_is_told_and_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with notifying() as told:
        told.target = NotFound("no such Secret")
        told.tell()
        await asyncio.sleep(10)
        assert told.sink.got == []
        assert [r.getMessage() for r in caplog.records] == [
            "notifications wait, for nobody knows where to: no such Secret"
        ]
        told.target = Target(url=URL, key=KEY)
        await asyncio.sleep(60)
        assert told.counted("delivered") == 1


@pytest.mark.looptime
async def test_a_full_queue_drops_the_oldest_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async with notifying() as told:
        told.sink.hangs = True
        told.tell()
        await asyncio.sleep(1)  # one is on its way
        for number in range(MAX_PENDING + 10):
            told.tell(f"sha256:{number:064x}")
        assert told.counted("dropped") == 10
        assert len([r for r in caplog.records if "oldest are dropped" in r.message]) == 1


@pytest.mark.looptime
@pytest.mark.parametrize("format", ["json", "slack"])
async def test_after_a_flood_somebody_is_told_how_many_were_dropped(format: Literal["json", "slack"]) -> None:
    async with notifying(Unavailable("down")) as told:
        told.target = Target(url=URL, key=KEY, format=format)
        for number in range(1000):
            told.tell(f"sha256:{number:064x}")
        await asyncio.sleep(120)
        bodies = [got[2].decode() for got in told.sink.got]
        assert len(bodies) == MAX_PENDING + 1, "one was tried twice"
        assert ["744" in body and "dropped" in body for body in bodies[:3]] == [True, True, False]


@pytest.mark.looptime
async def test_news_that_waited_too_long_behind_others_are_not_told() -> None:
    async with notifying(*[Unavailable("down")] * 1000) as told:
        for number in range(5):
            told.tell(f"sha256:{number:064x}")
        await asyncio.sleep(GIVE_UP_AFTER + 1)
        assert told.counted("failed") == 5
        told.sink.answers.clear()
        told.tell("sha256:" + "aa" * 32)
        await asyncio.sleep(1)
        assert told.counted("delivered") == 1


@pytest.mark.looptime
async def test_a_bug_while_one_is_told_does_not_silence_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    async with notifying(KeyError(URL)) as told:
        told.tell()
        await asyncio.sleep(1)
        told.tell("sha256:" + "aa" * 32)
        await asyncio.sleep(1)
        assert told.counted("delivered") == 1
        assert "ended by a bug (KeyError)" in caplog.text
        assert URL not in caplog.text


@pytest.mark.looptime
async def test_nobody_waits_for_a_receiver_that_hangs() -> None:
    async with notifying() as told:
        told.sink.hangs = True
        before = asyncio.get_running_loop().time()
        for number in range(20):
            told.tell(f"sha256:{number:064x}")
        await asyncio.sleep(0)
        await told.notifier.close()
        assert asyncio.get_running_loop().time() - before <= 1.0
        assert told.counted("dropped") >= 19
