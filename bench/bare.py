"""The floor: a loop without operator, framework, journal or decisions that makes the same writes. A process of its own.

    python -m bench.bare KUBECONFIG NAMESPACE TEMPLATE

Says `ready` when it sees every new Instance of the namespace, and ends on SIGTERM. 32 objects at once, each one's
writes in their order: what a controller cannot do faster on this API server with this client. Reads nothing.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import Operation
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import FINALIZER
from bench.following import Body, following
from bench.objects import INSTANCE, WAYS
from bench.recording import filled

OPERATION = Operation.info.type


async def write_all(api: KubeApi, template: str, instance: Body) -> None:
    """Everything that is written for one object."""
    bodies = filled(template, instance)
    operation = await api.create(OPERATION, bodies["operation"])
    for secret in bodies["secrets"]:
        await api.create(SECRET, secret)
    for status in bodies["operation_statuses"]:
        operation = await _journal(api, operation, status)
    for status in bodies["status_patches"]:
        instance = await _show(api, instance, status)


async def _journal(api: KubeApi, operation: Body, status: dict[str, Any]) -> Body:
    meta = operation["metadata"]
    patch: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
        {"op": "add", "path": "/status", "value": status},
    ]
    if "finishedAt" in status:
        kept = [name for name in meta.get("finalizers", ()) if name != FINALIZER]
        patch.append({"op": "add", "path": "/metadata/finalizers", "value": kept})
    return await api.patch(OPERATION, meta["namespace"], meta["name"], patch)


async def _show(api: KubeApi, instance: Body, status: dict[str, Any]) -> Body:
    meta = instance["metadata"]
    patch = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": status}
    return await api.patch(INSTANCE, meta["namespace"], meta["name"], patch, subresource="status")


async def main(config: Path, namespace: str, template: str) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    api, new, seen = KubernetesClient(kubeconfig.from_file(config)), asyncio.Queue[Body](), set[str]()

    def see(instance: Body) -> None:
        if instance["metadata"]["uid"] not in seen:
            seen.add(instance["metadata"]["uid"])
            new.put_nowait(instance)

    async def work() -> None:
        while True:
            await write_all(api, template, await new.get())

    try:
        async with following(api, INSTANCE, namespace, see):
            await until_stopped(stop, work, "ready")
    finally:
        await api.close()


async def until_stopped(stop: asyncio.Event, work: Callable[[], Awaitable[None]], ready: str) -> None:
    """Say that line and let the workers work until they are stopped; a failure of one ends all."""
    workers = [asyncio.ensure_future(work()) for _ in range(WAYS)]
    stopped = asyncio.ensure_future(stop.wait())
    print(ready, flush=True)
    done, _ = await asyncio.wait([stopped, *workers], return_when=asyncio.FIRST_COMPLETED)
    for task in (stopped, *workers):
        task.cancel()
    await asyncio.gather(stopped, *workers, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_text()))
