"""Waiting for what the API server shows: LIST and WATCH with a deadline, never a poll. Used by `system` and `demo`.

It survives what watches do in daily life: the server ends them, they grow too old, the server is away for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.errors import AgentMetalError, Transient
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import ResourceType

Body = dict[str, Any]
Objects = Mapping[str, Body]
"""Objects of one namespace by name."""
T = TypeVar("T")

PAUSE = 0.2
"""Before a watch that just ended is opened again."""


class TooLate(AgentMetalError):
    """Something did not become so in time. The message says what, and how it is instead."""

    reason = "TooLate"


@asynccontextmanager
async def client(path: Path, *, on_warning: Callable[[str], None] | None = None) -> AsyncIterator[KubernetesClient]:
    """The API as the user of a kubeconfig file; `on_warning` gets what the server wants people to know."""
    api = KubernetesClient(kubeconfig.from_file(path), on_warning=on_warning)
    try:
        yield api
    finally:
        await api.close()


async def follow(api: KubeApi, type: ResourceType, namespace: str) -> AsyncGenerator[Objects, None]:
    """All objects of a kind: as they are now, and again after each change. Never ends by itself."""
    while True:
        try:
            listing = await api.list(type, namespace)
            known = {item["metadata"]["name"]: item for item in listing.items}
            yield dict(known)
            async for event in api.watch(type, namespace, resource_version=listing.resource_version):
                if event.type == "BOOKMARK":
                    continue
                name = event.object["metadata"]["name"]
                known = {key: body for key, body in known.items() if key != name}
                if event.type != "DELETED":
                    known[name] = event.object
                yield dict(known)
        except Transient:  # away, too old, or (429) just started and still reading its storage
            pass  # listed anew
        await asyncio.sleep(PAUSE)


async def until(
    api: KubeApi,
    type: ResourceType,
    namespace: str,
    name: str,
    answer: Callable[[Body | None], T | None],
    *,
    within: float,
    what: str,
) -> T:
    """Wait until `answer` has one for the object (None: it does not exist); that answer. Raises TooLate."""
    body: Body | None = None
    try:
        async with asyncio.timeout(within), aclosing(follow(api, type, namespace)) as changes:
            async for objects in changes:
                body = objects.get(name)
                if (found := answer(body)) is not None:
                    return found
    except TimeoutError:
        pass
    raise TooLate(f"{type.kind} {name!r}: not {what} within {within:g} s; {state_of(body)}")


def state_of(body: Body | None) -> str:
    """One sentence about an object, for messages."""
    if body is None:
        return "it does not exist"
    found = [condition(body, type) for type in ("Stalled", "AwaitingApproval", "Reconciling", "Ready")]
    told = [f"{c['type']}={c['status']} {c['reason']}: {c.get('message', '')}" for c in found if c and _tells(c)]
    phase = (body.get("status") or {}).get("phase", "without status: does the operator run?")
    return f"it is {phase}" + (f" ({'; '.join(told)})" if told else "")


def condition(body: Body, type: str) -> Body | None:
    """A condition, if it was said about the newest spec."""
    generation = body["metadata"].get("generation", 0)
    for found in (body.get("status") or {}).get("conditions") or ():
        if found["type"] == type and found.get("observedGeneration", 0) >= generation:
            return dict(found)
    return None


def holds(body: Body, type: str) -> bool:
    """Is that condition True for the newest spec?"""
    found = condition(body, type)
    return found is not None and found["status"] == "True"


def _tells(found: Body) -> bool:
    true: bool = found["status"] == "True"
    return not true if found["type"] == "Ready" else true
