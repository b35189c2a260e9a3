"""Rules broken on purpose that only a bad view shows, beside those of `tests.sweep.broken`. Used by the proof here."""

from __future__ import annotations

from typing import Any

from tests.sweep.broken import Deaf, Hasty, Trusting, any_approval

from agentmetal.app import Parts
from agentmetal.core.operation import Operation, OperationStatus
from agentmetal.engine.approval import Verdict
from agentmetal.engine.executor import Executor
from agentmetal.engine.ledger import Ledger


class Credulous(Executor):
    """Believes the watch about policies."""

    async def _verdict(self, operation: Operation, resource: Any) -> Verdict:
        namespace = resource.metadata.namespace
        return self._decide(operation, resource, self._policies(namespace), self._clock.now())


class Overwriting(Ledger):
    """Writes over what had ended meanwhile."""

    def _ended(self, found: Operation, status: OperationStatus) -> Operation | None:
        return None


class Careless(Ledger):
    """Never looks for operations whose creation came late."""

    async def find_strays(self) -> tuple[Operation, ...]:
        return ()


BY_STORIES: dict[str, Parts] = {
    "any approval counts": Parts(decide=any_approval),
    "the cache is believed": Parts(gate=Trusting),
    "stops are ignored": Parts(gate=Deaf),
    "the intent is not written first": Parts(ledger=Hasty),
    "the watch is believed about policies": Parts(executor=Credulous),
    "what is over is opened again": Parts(ledger=Overwriting),
}
BY_LATE_CREATION = Parts(ledger=Careless)
