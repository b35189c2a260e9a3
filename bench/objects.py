"""The objects of the measurements, and making many of them 32-way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.kubetypes import NAMESPACE
from agentmetal.core.ports import KubeApi
from agentmetal.dev.watching import state_of
from bench.following import following, holds

INSTANCE = Instance.info.type
PROVIDER = Provider.info.type
CLOUD = "cloud"
WAYS = 32
PROVIDER_WITHIN = 60.0
NEVER_BY_ITSELF = "9999h"
"""resyncInterval: nothing is looked at during a run only because time has passed."""

T = TypeVar("T")


def instance(namespace: str, name: str) -> dict[str, Any]:
    """A server to be ordered."""
    management = {"resyncInterval": NEVER_BY_ITSELF}
    spec = {"providerRef": {"name": CLOUD}, "type": "small", "image": "bookworm", "management": management}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def names(prefix: str, count: int) -> list[str]:
    """prefix-0000, prefix-0001, …"""
    return [f"{prefix}-{number:04d}" for number in range(count)]


async def in_parallel(do: Callable[[T], Awaitable[object]], things: Iterable[T], ways: int = WAYS) -> None:
    """Do it to each, so many at once."""
    waiting = iter(things)

    async def work() -> None:
        for thing in waiting:
            await do(thing)

    async with asyncio.TaskGroup() as group:
        for _ in range(ways):
            group.create_task(work())


async def create_namespace(admin: KubeApi, namespace: str) -> None:
    """Make a namespace."""
    await admin.create(NAMESPACE, {"metadata": {"name": namespace}})


async def create_cloud(admin: KubeApi, namespace: str, *, boot_seconds: int = 0) -> None:
    """A namespace with a Provider that is Ready when this returns. The operator must run."""
    await create_namespace(admin, namespace)
    spec = {
        "type": "Fake",
        "fake": {"bootSeconds": boot_seconds, "maxServers": 1_000_000},
        "management": {"resyncInterval": NEVER_BY_ITSELF},
    }
    seen: list[dict[str, Any]] = []

    async with following(admin, PROVIDER, namespace, seen.append) as follow:
        await admin.create(PROVIDER, {"metadata": {"name": CLOUD, "namespace": namespace}, "spec": spec})
        await follow.until(
            lambda: bool(seen) and holds(seen[-1], "Ready"),
            within=PROVIDER_WITHIN,
            what=lambda: f"Provider {CLOUD!r} of namespace {namespace!r} Ready; {state_of(seen[-1] if seen else None)}",
        )


async def settle(editor: KubeApi, operator: KubeApi, namespace: str, count: int, status: dict[str, Any]) -> None:
    """Objects as an operator leaves them, the short way: no Operation, no Secret, no server. None may run meanwhile."""

    async def make(name: str) -> None:
        await editor.create(INSTANCE, instance(namespace, name))
        await operator.patch(INSTANCE, namespace, name, {"status": status}, subresource="status")

    await in_parallel(make, names("settled", count))
