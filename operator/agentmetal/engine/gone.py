"""What is kept of objects ends with them: asked by the loop at every pass, forgets at the first one without the object.

What is kept is kept by uid, and a pass knows a name: so this remembers whose passes they were. It deletes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from agentmetal.core.resource import AnyResource, Key
from agentmetal.engine.agent import AnyAgent
from agentmetal.engine.busy import Busy
from agentmetal.engine.ledger import Ledger
from agentmetal.engine.publish import Publisher

log = logging.getLogger("agentmetal.gone")


class Gone:
    """The uids behind names."""

    def __init__(self, agents: Mapping[str, AnyAgent], ledger: Ledger, busy: Busy, publisher: Publisher) -> None:
        self._agents = agents
        self._ledger = ledger
        self._busy = busy
        self._publisher = publisher
        self._uids: dict[Key, str] = {}

    async def passed(self, key: Key, living: AnyResource | None) -> None:
        """A pass of that name: keep nothing of the object that had it before, once its plan has ended."""
        if living is None:
            await self._busy.abandon(key)
            self._publisher.gone(key)
        before = self._uids.get(key)
        if living is not None:
            self._uids[key] = living.uid
        if before is None or (living is not None and living.uid == before):
            return
        if self._busy.open_about(before):  # a plan that runs wakes us when it has ended
            self._uids[key] = before
            return
        if living is None:
            del self._uids[key]
        self._busy.forget(before)
        self._ledger.forget(before)
        try:
            await self._agents[key.kind].forget(key, before)
        except Exception:  # its object is gone: there is no status that could tell, and no reason to end
            log.exception("something of %s, which is gone, is kept by a bug", key)
