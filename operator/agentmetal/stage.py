"""Where a process is in its life, and what it therefore answers at /healthz, /readyz and /leading. Kept by `process`.

It knows no lease and no server: it is told. Ready is who leads, who is about to, and who stands by: two replicas can be
rolled out. Whoever wants to know who acts asks /leading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """From its start to its end."""

    STARTING = "starting"
    STANDING_BY = "standing by"
    TAKING_OVER = "taking over"
    LEADING = "leading"
    ENDING = "ending"


READY = frozenset({Stage.STANDING_BY, Stage.TAKING_OVER, Stage.LEADING})


@dataclass(kw_only=True)
class Standing:
    """What one process says of itself."""

    leader: Callable[[], str | None] = lambda: None
    """Who leads, as last seen; None before the first look at the Lease."""
    held: Callable[[], bool] = lambda: False
    """Does this process hold the Lease?"""
    stage: Stage = Stage.STARTING
    ill: str = ""
    """Why it is not healthy, in a sentence; empty when it is."""

    def healthy(self) -> tuple[bool, str]:
        """Need it not be restarted?"""
        return not self.ill, self.ill or "ok"

    def ready(self) -> tuple[bool, str]:
        """Does it do its part: lead, or stand by and see who leads?"""
        if self.stage is Stage.STANDING_BY and self.leader() is None:
            return False, "starting: the lease was not seen yet"
        return self.stage in READY, self._told()

    def leading(self) -> tuple[bool, str]:
        """Does it act?"""
        if self.stage is Stage.LEADING and not self.held():
            return False, "it holds the lease no longer"
        return self.stage is Stage.LEADING, self._told()

    def _told(self) -> str:
        if self.stage is not Stage.STANDING_BY:
            return self.stage.value
        leader = self.leader()
        return f"{self.stage.value}: {leader!r} leads" if leader else f"{self.stage.value}: nobody leads"
