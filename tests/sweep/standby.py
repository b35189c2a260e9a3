"""A world whose next operator stands by while the first one lives: what it knows at its takeover, a watch has told it.

Used by `test_standby_sweep.py`. What the watch says reaches whoever stands by `LAG` seconds late, so it takes over with
a view of the past, and hears of the rest while it leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

from tests.support.system import Process
from tests.sweep.mortal import Life
from tests.sweep.virtual import PROCESS
from tests.sweep.world import SweepWorld

from agentmetal.app import Core
from agentmetal.core.ports import KubeApi

LAG = 5.0


class Prompt(SweepWorld):
    """The watch is as fast as it can be."""

    lag = 0.0

    async def live_through(self, lives: Iterable[Life]) -> None:
        """One leads, the next one stands by from the beginning."""
        mortal = tuple(lives)
        standing: asyncio.Task[Process] | None = None
        try:
            for life, successor in zip(mortal, (*mortal[1:], None), strict=True):
                self.life = life
                self.lives.append(life)
                life.run(partial(self._begin, standing))
                if successor:
                    standing = successor.run(self.stand_by)
                await life.died.wait()
        finally:
            for life in mortal:
                if not life.died.is_set():
                    life.die()
                await life.bury()

    async def _begin(self, standing: asyncio.Task[Process] | None) -> None:
        if standing:
            await self.step_up(await standing)
        else:
            await self.start()

    async def _watch(self, core: Core, api: KubeApi, kind: Any) -> None:
        """As the other worlds do; while its process stands by, all of it late."""
        life = PROCESS.get()
        assert isinstance(life, Life)
        listing = await api.list(kind)
        for body in listing.items:
            self._spread(life, core, None, body)
        async for event in api.watch(kind, resource_version=listing.resource_version):
            if event.type != "BOOKMARK":
                self._spread(life, core, event.type, event.object)

    def _spread(self, life: Life, core: Core, type: str | None, body: Any) -> None:
        if self.lag and self.lives[-1] is not life:
            asyncio.get_running_loop().call_later(self.lag, self._tell, life, core, type, body)
        else:
            core.event(type, body)

    def _tell(self, life: Life, core: Core, type: str | None, body: Any) -> None:
        if not life.died.is_set():
            core.event(type, body)


class Late(Prompt):
    """The watch is late by more than most steps take."""

    lag = LAG
