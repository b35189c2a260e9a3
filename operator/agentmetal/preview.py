"""What the operator would do about an object, found out without it: a pass up to the plan, and never further.

For `agentmetal plan -f`. It wires the same agents as the operator does, over an API that refuses every write, so it
cannot change anything; it reads Secrets and hosts as whoever calls it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from agentmetal import app, providing
from agentmetal.core.clock import SystemClock
from agentmetal.core.errors import Forbidden, StaleLeader
from agentmetal.core.kubetypes import NAMESPACE
from agentmetal.core.plan import Plan
from agentmetal.core.ports import Json, KubeApi, ObjectList, Patch
from agentmetal.core.resource import AnyResource, ResourceType
from agentmetal.engine.fit import wanted
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.run import look
from agentmetal.settings import Settings
from agentmetal.store.memory import MemoryAuditStore


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What would be done: nothing and why, or a plan."""

    plan: Plan
    waits: str = ""
    """What stands in the way of looking at all: a missing reference."""


class ReadOnly:
    """`core.ports.KubeApi` that reads and refuses to write."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self.get = api.get
        self.watch = api.watch

    async def list(
        self,
        type: ResourceType,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> ObjectList:
        """All objects that whoever asks may see."""
        return await self._api.list(
            type, namespace, label_selector=label_selector, field_selector=field_selector, metadata_only=metadata_only
        )

    async def create(self, type: ResourceType, body: Json, *, dry_run: bool = False) -> NoReturn:
        """Refused."""
        raise _refusal()

    async def patch(
        self,
        type: ResourceType,
        namespace: str,
        name: str,
        patch: Patch,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> NoReturn:
        """Refused."""
        raise _refusal()

    async def delete(
        self, type: ResourceType, namespace: str, name: str, *, propagation: str = "Background", uid: str = ""
    ) -> NoReturn:
        """Refused."""
        raise _refusal()


class _Bystander:
    """Never leads, announces nothing."""

    epoch = 0

    def held(self) -> bool:
        return False

    def announce(self, before: AnyResource, after: AnyResource) -> None:
        """Nobody is told."""


def _refusal() -> Forbidden:
    return Forbidden("a preview changes nothing: this is a bug, please report it")


async def preview(api: KubeApi, settings: Settings, body: dict[str, Any]) -> Preview:
    """The plan for an object as it would be stored. Raises what looking raises: then the world cannot be seen."""
    async with _core(ReadOnly(api), settings) as core:
        await core.cache.prime()
        agent = next(agent for agent in core.agents if agent.kind.info.kind == body["kind"])
        resource = agent.kind.model_validate({"status": {}, **body})
        if (missing := agent.waits_for(resource)) is not None:
            return Preview(plan=Plan(), waits=missing.message)
        return Preview(plan=wanted(agent, resource, await look(agent, resource)).plan)


@asynccontextmanager
async def _core(api: KubeApi, settings: Settings) -> AsyncIterator[app.Core]:
    cluster = (await api.get(NAMESPACE, "", "kube-system"))["metadata"]["uid"]
    machines = providing.machines_of(settings, api, cluster, lambda _key: None)
    bystander, clock = _Bystander(), SystemClock()
    world = app.World(
        api=api,
        audit=MemoryAuditStore(),
        machines=machines,
        factories=providing.factories(settings, clock, machines, cluster),
        leader=bystander,
        cluster=cluster,
        clock=clock,
        metrics=Metrics(),
        announcer=bystander,
        lost=_impossible,
    )
    core = app.compose(world)
    try:
        yield core
    finally:
        await core.providers.close()
        await machines.close()


def _impossible(error: StaleLeader) -> None:
    raise error
