"""Durations as users write them (`30s`, `5m`, `24h`), as a pydantic type that the CRD generator understands."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import Field, StringConstraints

from agentmetal.core.saying import Says

DURATION_PATTERN = r"^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$"
_PARTS = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

Duration = Annotated[
    str,
    StringConstraints(pattern=DURATION_PATTERN, min_length=2, max_length=16),
    Says("write a duration such as 30s, 5m or 1h30m, with at most five digits before each letter"),
    Field(description="A duration such as 30s, 5m or 1h30m."),
]


def seconds(duration: str) -> float:
    """The length of a duration in seconds."""
    match = _PARTS.fullmatch(duration)
    if match is None:
        raise ValueError(f"{duration!r} is not a duration: write something like 30s, 5m or 1h30m")
    hours, minutes, secs = (int(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=secs).total_seconds()
