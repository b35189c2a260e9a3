"""What is worth telling people elsewhere, and in which words: from two statuses to JSON or to Slack's form. Pure.

Used by `kube.notify` only. TOLD is the whole list. Text of hosts, users and models is cleaned and bounded here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentmetal.core.canonical import sha256_hex
from agentmetal.core.clock import rfc3339
from agentmetal.core.condition import ConditionStatus, ConditionType
from agentmetal.core.lines import one_line
from agentmetal.core.operation import OperationPhase
from agentmetal.core.resource import AnyResource, ConditionModel
from agentmetal.engine.status import approve_line, reject_line

VERSION = 1
MAX_TEXT = 1024
MAX_LINE = 256
MAX_STEPS = 24
SLACK_STEPS = 8
SLACK_TEXT = 2900
"""Slack takes 3000 characters in a section."""

C = ConditionType
TROUBLE = (C.STALLED, C.BLOCKED, C.HOST_KEY_MISMATCH)
"""What ends with one `Recovered`."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What became of an object, in a sentence, and what makes this turn another one than the last."""

    message: str
    reason: str
    mark: str


Seen = Callable[[AnyResource, AnyResource], Turn | None]


def _became(type: ConditionType) -> Seen:
    def seen(before: AnyResource, after: AnyResource) -> Turn | None:
        was, now = before.condition(type), after.condition(type)
        if now is None or not _true(now) or (was is not None and _true(was) and was.reason == now.reason):
            return None
        return Turn(message=now.message, reason=now.reason, mark=f"{now.reason} {now.last_transition_time}")

    return seen


def _asks(before: AnyResource, after: AnyResource) -> Turn | None:
    """A plan waits: told once for each plan, whatever else changes."""
    waits = after.condition(C.AWAITING_APPROVAL)
    if waits is None or not _true(waits) or after.status.plan is None or not after.status.plan.digest:
        return None
    was, digest = before.condition(C.AWAITING_APPROVAL), after.status.plan.digest
    if was is not None and _true(was) and before.status.plan is not None and before.status.plan.digest == digest:
        return None
    return Turn(message=f"a {after.status.plan.risk} plan waits for approval", reason=waits.reason, mark=digest)


def _failed(before: AnyResource, after: AnyResource) -> Turn | None:
    """An operation failed, and the one before it had not: what keeps failing is told again only as Stalled."""
    was, now = before.status.last_operation, after.status.last_operation
    failed = OperationPhase.FAILED.value
    if now is None or now.result != failed or (was is not None and (was.result == failed or was.name == now.name)):
        return None
    return Turn(message=now.message, reason="PlanFailed", mark=now.name)


def _recovered(before: AnyResource, after: AnyResource) -> Turn | None:
    over = [type.value for type in TROUBLE if _holds(before, type)]
    if not over or after.deleting or any(_holds(after, type) for type in TROUBLE):
        return None
    conditions = [found for type in TROUBLE if (found := before.condition(type))]
    since = max(condition.last_transition_time for condition in conditions)
    return Turn(message=f"no longer {', '.join(over)}", reason="Recovered", mark=f"{','.join(over)} {since}")


TOLD: tuple[tuple[str, Seen], ...] = (
    ("ApprovalRequired", _asks),
    ("Stalled", _became(C.STALLED)),
    ("Blocked", _became(C.BLOCKED)),
    ("HostKeyMismatch", _became(C.HOST_KEY_MISMATCH)),
    ("OperationFailed", _failed),
    ("Recovered", _recovered),
)
"""Event and when: all that is ever sent."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One notification, ready to be written in any form."""

    id: str
    place: str
    fields: dict[str, Any]


def notices(before: AnyResource, after: AnyResource, *, cluster: str, now: datetime) -> tuple[Notice, ...]:
    """What to tell of a written status."""
    seen = ((event, turn(before, after)) for event, turn in TOLD)
    return tuple(_notice(after, event, turn, cluster, now) for event, turn in seen if turn)


def as_json(notice: Notice, dropped: int = 0) -> bytes:
    """Our own form; docs/how-to/notifications.md describes it. `dropped`: as many were not told before it."""
    fields = notice.fields | ({"dropped": dropped} if dropped else {})
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def as_slack(notice: Notice, dropped: int = 0) -> bytes:
    """What Slack's incoming webhooks take, and those of others that speak its form."""
    fields = notice.fields
    head = f"{fields['event']}: {fields['kind']} {fields['namespace']}/{fields['name']}"
    lines = [f"*{_escaped(head)}*", _escaped(fields["message"])]
    if plan := fields.get("steps"):
        lines.append(f"Risk {fields['risk']}, plan `{fields.get('shortDigest', '')}`: {_escaped(fields['reasoning'])}")
        shown = [f"{n}. {step['risk']} {step['description']}" for n, step in enumerate(plan[:SLACK_STEPS], start=1)]
        more = len(plan) + fields.get("stepsOmitted", 0) - len(shown)
        lines.extend(_escaped(line) for line in [*shown, *([f"and {more} more"] if more > 0 else [])])
    if dropped:
        lines.insert(1, f"({dropped} other notifications were dropped before this one: too many at once)")
    text = "\n".join(lines)[:SLACK_TEXT]
    sections = [text]
    if "approve" in fields:
        sections.append(_escaped(f"Approve: {fields['approve']}\nReject: {fields['reject']}")[:SLACK_TEXT])
    # verbatim: Slack makes no links or mentions of its own out of what it finds in the text
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": part, "verbatim": True}} for part in sections]
    return json.dumps({"text": _escaped(head), "blocks": blocks}, ensure_ascii=False).encode()


def _notice(resource: AnyResource, event: str, turn: Turn, cluster: str, now: datetime) -> Notice:
    identity = {"cluster": cluster, "uid": resource.uid, "event": event, "mark": turn.mark}
    delivery = sha256_hex(identity)[:32]
    fields: dict[str, Any] = {
        "version": VERSION,
        "id": delivery,
        "event": event,
        "cluster": cluster,
        "kind": resource.kind,
        "namespace": resource.metadata.namespace,
        "name": resource.metadata.name,
        "uid": resource.uid,
        "time": rfc3339(now),
        "reason": turn.reason,
        "message": _clean(turn.message, MAX_TEXT),
    }
    return Notice(
        id=delivery, place=str(resource.key), fields=fields | (_plan(resource) if event == "ApprovalRequired" else {})
    )


def _plan(resource: AnyResource) -> dict[str, Any]:
    plan = resource.status.plan
    if plan is None or plan.digest is None:
        return {}
    steps = [
        {
            "tool": step.tool,
            "description": _clean(step.description, MAX_LINE),
            "risk": step.risk.value,
            "optional": step.optional,
        }
        for step in plan.steps[:MAX_STEPS]
    ]
    omitted = len(plan.steps) - len(steps)
    return {
        "risk": plan.risk.value,
        "origin": plan.origin.value,
        "operation": plan.operation or "",
        "digest": plan.digest,
        "shortDigest": plan.short_digest or "",
        "reasoning": _clean(plan.reasoning, MAX_TEXT),
        "steps": steps,
        **({"stepsOmitted": omitted} if omitted else {}),
        "approve": approve_line(resource, plan.digest),
        "reject": reject_line(resource, plan.digest),
    }


def _holds(resource: AnyResource, type: ConditionType) -> bool:
    found = resource.condition(type)
    return found is not None and _true(found)


def _true(condition: ConditionModel) -> bool:
    return condition.status is ConditionStatus.TRUE


def _clean(text: str, limit: int) -> str:
    """One printable line, with a mark where something is missing."""
    seen = one_line(text, limit + 1)
    return seen if len(seen) <= limit else seen[: limit - 1] + "…"


def _escaped(text: str) -> str:
    """Slack's three characters: with them escaped no `<!channel>`, `<@user>` or link can be written."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
