"""Time as an argument. The engine and the agents never ask the operating system what time it is."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for what people read, the event loop's time for waiting."""

    def now(self) -> datetime:
        """The time now, in UTC."""


class SystemClock:
    """The real one."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class LoopClock:
    """Follows the event loop's time from a fixed start: with a virtual loop, tests of hours take milliseconds."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start

    def now(self) -> datetime:
        return self._start + timedelta(seconds=asyncio.get_running_loop().time())


def rfc3339(moment: datetime) -> str:
    """The form Kubernetes uses for times: UTC, whole seconds, `Z`."""
    return moment.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
