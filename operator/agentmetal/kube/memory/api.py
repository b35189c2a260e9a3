"""A `MemoryCluster` as one principal sees it: implements `core.ports.KubeApi`.

Every call yields to the loop before its effect, and every write also after it: what may happen between a request and
its answer on a real network may happen here, at named points (`MemoryCluster.checkpoint`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from agentmetal.core.ports import Json, ObjectList, Patch, WatchEvent
from agentmetal.core.resource import ResourceType
from agentmetal.kube.memory.rbac import Principal
from agentmetal.kube.memory.watching import Request

if TYPE_CHECKING:
    from agentmetal.kube.memory.cluster import MemoryCluster

T = TypeVar("T")


class MemoryApi:
    """Implements `core.ports.KubeApi`."""

    def __init__(self, cluster: MemoryCluster, principal: Principal) -> None:
        self._cluster = cluster
        self._who = principal

    async def get(self, type: ResourceType, namespace: str, name: str) -> dict[str, Any]:
        await self._arrive(Request("get", type.plural, name, ""), type)
        return self._cluster.get(self._who, type, namespace, name)

    async def list(
        self,
        type: ResourceType,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> ObjectList:
        await self._arrive(Request("list", type.plural, "", ""), type)
        return self._cluster.list(self._who, type, namespace, label_selector, field_selector, metadata_only)

    async def create(self, type: ResourceType, body: Json, *, dry_run: bool = False) -> dict[str, Any]:
        name = str((body.get("metadata") or {}).get("name", ""))
        return await self._write(
            Request("dry-run" if dry_run else "create", type.plural, name, ""),
            type,
            lambda: self._cluster.create(self._who, type, body, dry_run=dry_run),
        )

    async def patch(
        self,
        type: ResourceType,
        namespace: str,
        name: str,
        patch: Patch,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> dict[str, Any]:
        return await self._write(
            Request("dry-run" if dry_run else "patch", type.plural, name, subresource),
            type,
            lambda: self._cluster.patch(
                self._who, type, namespace, name, patch, subresource=subresource, dry_run=dry_run
            ),
        )

    async def delete(
        self, type: ResourceType, namespace: str, name: str, *, propagation: str = "Background", uid: str = ""
    ) -> None:
        await self._write(
            Request("delete", type.plural, name, ""),
            type,
            lambda: self._cluster.delete(self._who, type, namespace, name, propagation=propagation, uid=uid),
        )

    async def watch(
        self, type: ResourceType, namespace: str | None = None, *, resource_version: str = ""
    ) -> AsyncGenerator[WatchEvent, None]:
        await self._arrive(Request("watch", type.plural, "", ""), type)
        feed, close = self._cluster.subscribe(self._who, type, namespace, resource_version)
        try:
            async for event in feed.events():
                yield event
        finally:
            close(feed)

    async def _arrive(self, request: Request, type: ResourceType) -> None:
        await asyncio.sleep(0)
        self._cluster.requests.append(request)
        self._cluster.faults.before(request.verb, type, request.name)

    async def _write(self, request: Request, type: ResourceType, effect: Callable[[], T]) -> T:
        await self._arrive(request, type)
        await self._point("before", request)
        answer = effect()
        await asyncio.sleep(0)
        await self._point("after", request)
        self._cluster.faults.after(request.verb, type, request.name)
        return answer

    async def _point(self, when: str, request: Request) -> None:
        if self._cluster.checkpoint is not None:
            label = f"{when} {request.verb} {request.plural} {request.name} {request.subresource}".rstrip()
            reached = self._cluster.checkpoint(label)
            if reached is not None:
                await reached
