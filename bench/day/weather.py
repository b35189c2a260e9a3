"""What goes wrong on a simulated day: a share of all calls, changing by the hour. Used by `world`.

A pure function of its dice. Nothing here is about a certain object: machines die in `world`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agentmetal.core.errors import AgentMetalError, Conflict, OutcomeUnknown, RateLimited, Unavailable

API_WRITES = frozenset({"create", "patch", "delete"})
CALM, STORM = 0.002, 0.15
HANG = 30.0
STORM_LASTS = (120.0, 900.0)
STORE_DOWN = (30.0, 300.0)


@dataclass(kw_only=True)
class Weather:
    """How much goes wrong now."""

    dice: Random
    shares: dict[str, float] = field(default_factory=lambda: {"api": 0.0, "cloud": 0.0})
    met: Counter[str] = field(default_factory=Counter)
    """What has gone wrong so far."""

    def calm(self) -> None:
        """Nothing at all goes wrong."""
        self.shares = dict.fromkeys(self.shares, 0.0)

    async def change(self, audit: Any) -> None:
        """Until cancelled: mostly fair, now and then a storm of one kind."""
        self.shares = dict.fromkeys(self.shares, CALM)
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / 2700))
            kind = self.dice.choice(["api", "cloud", "store"])
            self.met[f"storm of {kind}"] += 1
            if kind == "store":
                await self._without(audit)
            else:
                self.shares[kind] = STORM
                await asyncio.sleep(self.dice.uniform(*STORM_LASTS))
                self.shares[kind] = CALM

    async def _without(self, audit: Any) -> None:
        audit.unavailable = "the disk is full"
        try:
            await asyncio.sleep(self.dice.uniform(*STORE_DOWN))
        finally:
            audit.unavailable = ""

    def strikes(self, kind: str) -> bool:
        """Does it, this time?"""
        return self.dice.random() < self.shares[kind]


class Troubled:
    """A port in that weather."""

    def __init__(self, kind: str, port: Any, weather: Weather) -> None:
        self._kind, self._port, self._weather = kind, port, weather

    def __getattr__(self, method: str) -> Any:
        target = getattr(self._port, method)
        if not inspect.iscoroutinefunction(target):
            return target

        async def call(*args: Any, **options: Any) -> Any:
            weather, kind = self._weather, self._kind
            changes = method in API_WRITES or method.endswith(("_server", "_ip"))
            if weather.strikes(kind):
                await self._refuse(method, changes=changes)
            answer = await target(*args, **options)
            if changes and weather.strikes(kind):
                weather.met[f"{kind}: answer lost"] += 1
                raise OutcomeUnknown("the connection broke before the answer")
            return answer

        return call

    async def _refuse(self, method: str, *, changes: bool) -> None:
        """One of the ways in which a call does not arrive, or does not arrive in time."""
        known: list[AgentMetalError] = [
            Unavailable("500 internal error"),
            RateLimited("429 too many requests", retry_after=1.0),
            OutcomeUnknown("reset before the answer") if changes else Unavailable("connection reset"),
        ]
        if method == "patch":
            known.append(Conflict("409 the object has been modified"))
        if self._weather.dice.random() < 0.05:
            self._weather.met[f"{self._kind}: hung"] += 1
            await asyncio.sleep(HANG)
            raise Unavailable(f"no answer within {HANG:g} s")
        error = self._weather.dice.choice(known)
        self._weather.met[f"{self._kind}: {type(error).__name__}"] += 1
        raise error
