"""Durations as users write them (`30s`, `5m`, `24h`), as a pydantic type that the CRD generator understands."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import Field, StringConstraints

from agentmetal.core.saying import Says

DURATION_PATTERN = r"^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$"
_PARTS = re.compile(r"(?:([0-9]{1,5})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,5})s)?")
"""The same as the API server admits: more digits, or those of other scripts, are no duration."""
WRITE = "write a duration such as 30s, 5m or 1h30m, with at most five digits before each letter"

Duration = Annotated[
    str,
    StringConstraints(pattern=DURATION_PATTERN, min_length=2, max_length=16),
    Says(WRITE),
    Field(description="A duration such as 30s, 5m or 1h30m."),
]


def seconds(duration: str) -> float:
    """The length of a duration in seconds."""
    match = _PARTS.fullmatch(duration)
    if match is None:
        raise ValueError(f"{duration[:64]!r} is not a duration: {WRITE}")
    hours, minutes, secs = (int(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=secs).total_seconds()
