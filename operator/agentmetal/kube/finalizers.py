"""Lets go of objects: takes our finalizer off, of the very object that was looked at. Called by the publisher."""

from __future__ import annotations

from collections.abc import Callable

from agentmetal.core.errors import Conflict, NotFound, OutcomeUnknown, StaleLeader
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import FINALIZER, AnyResource
from agentmetal.kube.cache import Cache

TRIES = 5


class KubeFinalizers:
    """Implements `engine.publish.Finalizers`."""

    def __init__(self, api: KubeApi, cache: Cache, *, leads: Callable[[], bool]) -> None:
        self._api = api
        self._cache = cache
        self._leads = leads

    async def release(self, resource: AnyResource) -> None:
        """Take our finalizer off. Raises Transient errors, StaleLeader."""
        if not self._leads():
            raise StaleLeader("this process no longer holds the lease and lets go of nothing")
        current: AnyResource | None = resource
        for _ in range(TRIES):
            if current is None or current.uid != resource.uid or FINALIZER not in current.metadata.finalizers:
                return
            try:
                await self._without(current)
                return
            except NotFound:
                return
            except (Conflict, OutcomeUnknown):
                current = await self._cache.read(resource.key)
        raise Conflict(f"the finalizer of {resource.key} changes under our hands; it is tried again")

    async def _without(self, resource: AnyResource) -> None:
        kept = [name for name in resource.metadata.finalizers if name != FINALIZER]
        patch = {"metadata": {"resourceVersion": resource.metadata.resource_version, "finalizers": kept or None}}
        key = resource.key
        await self._api.patch(resource.info.type, key.namespace, key.name, patch)
