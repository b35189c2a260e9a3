"""Structured logs with one vocabulary. `configure` is called once by `app` or `cli`; everybody else logs as usual.

`log_action` names what happened with the same words as conditions, metrics and the audit trail. Fields given by
`extra=` are shown too. What looks like a private key, a password or a token is replaced before it is written: the last
guard, not a licence. This module opens nothing; where logs go is the caller's stream.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

REDACTED = "[redacted]"
CHATTY = ("kopf", "aiohttp")
"""Libraries that tell at INFO what only their developers want to know."""
INDISCREET = ("asyncssh",)
"""Tells each command line at INFO; those of user data may be out of somebody's Secret."""

# In the order of certainty. The end of a key may be cut off, so the block reaches to it or to the end of the text.
_SECRETS = (
    re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*?(-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----|\Z)", re.DOTALL),
    re.compile(r"(?i)(?<=\bbearer )[\w.~+/=-]{8,}"),
    # From the first `eyJ` of a word on, and possessive: what was read is not read again, however long the text is.
    re.compile(r"(?<![\w-])(?P<lead>(?:(?!\beyJ)[\w-])*+)eyJ[\w-]{10,}+\.[\w-]{10,}+\.[\w-]*+"),
    re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"),
    re.compile(r"""(?ix) (?P<name>password|passwd|secret_?key|api_?key|access_?token|auth_?token)
                   (?P<mark>['"]?\s*[=:]\s*['"]?) [^\s'",;&]+"""),
)
_SECRET_NAMES = re.compile(r"(?i)passw(or)?d|private_?key|secret_?(key|data|value)|api_?key|token$|user_?data$")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_ORDER = ("action", "resource", "operation", "step")


class Action(StrEnum):
    """What the operator does, in the order of a change."""

    OBSERVE = "observe"
    DIFF = "diff"
    PLAN = "plan"
    APPROVE = "approve"
    REJECT = "reject"
    EXECUTE = "execute"
    STEP = "step"
    RECORD = "record"
    RESOLVE = "resolve"
    CLOSE = "close"
    LEAD = "lead"
    SERVE = "serve"


def log_action(
    logger: logging.Logger,
    action: Action,
    message: str = "",
    *,
    resource: object = "",
    operation: str = "",
    step: str = "",
    level: int = logging.INFO,
    **fields: object,
) -> None:
    """Log that something of the vocabulary happened. Empty fields are left out."""
    named = {"action": action.value, "resource": str(resource), "operation": operation, "step": step}
    extra = {name: value for name, value in named.items() if value} | fields
    if clash := extra.keys() & _STANDARD:
        raise ValueError(f"log fields {sorted(clash)} are logging's own: name them otherwise")
    logger.log(level, "%s", message or action.value, extra=extra, stacklevel=2)


def configure(*, stream: TextIO, format: str, level: str) -> None:
    """Send everything to the stream: `json` for machines, `text` for people."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in CHATTY:  # one line and more for each SSH channel and each event; their warnings are wanted
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    for name in INDISCREET:
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment.replace("+00:00", "Z"), "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": redacted(record.getMessage())} | _fields(record)
        if trace := _trace(self, record):
            line["error"] = trace
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """For terminals: time, level, sentence, fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in _fields(record).items())
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        # A line of its own for each record: what a remote host said must not forge another one.
        message = redacted(record.getMessage()).replace("\n", "\\n")
        line = f"{moment} {record.levelname:<7} {message}  {fields}".rstrip()
        trace = _trace(self, record)
        return f"{line}\n{trace}" if trace else line


def redacted(text: str) -> str:
    """The text without what looks like a secret."""
    for pattern in _SECRETS:
        text = pattern.sub(_replacement, text)
    return text


def _replacement(match: re.Match[str]) -> str:
    return "".join(match[kept] for kept in ("lead", "name", "mark") if kept in match.groupdict()) + REDACTED


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given beside the sentence, the vocabulary first."""
    given = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    ordered = {name: given[name] for name in _ORDER if name in given} | given
    return {name: _guarded(name, value) for name, value in ordered.items()}


def _guarded(name: str, value: object) -> Any:
    if _SECRET_NAMES.search(name):
        return REDACTED
    if isinstance(value, dict):
        return {str(key): _guarded(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_guarded("", item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redacted(value.decode(errors="replace") if isinstance(value, bytes) else str(value))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return redacted(formatter.formatException(record.exc_info)) if record.exc_info and record.exc_info[0] else ""


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(text, ensure_ascii=False) if re.search(r"\s|\"|^$", text) else text
