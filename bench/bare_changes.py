"""The floor under the load of changes: follow every Instance and restate the status of those whose spec is newer.

    python -m bench.bare_changes KUBECONFIG

Says `synced SECONDS COUNT` when it has listed them all, and ends on SIGTERM. 32 objects at once; the same single write
for a change as the operator's. Reads nothing, decides nothing; `bench/go` is the same with client-go.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.errors import Conflict, OutcomeUnknown, Transient
from agentmetal.core.ports import KubeApi
from bench.bare import until_stopped
from bench.following import Body, following
from bench.objects import INSTANCE

PAUSE = 0.2


def restated(body: Body) -> dict[str, Any]:
    """Status as it is, said about the newest spec."""
    generation = body["metadata"]["generation"]
    conditions = [{**condition, "observedGeneration": generation} for condition in body["status"]["conditions"]]
    return {
        "metadata": {"resourceVersion": body["metadata"]["resourceVersion"]},
        "status": {"observedGeneration": generation, "conditions": conditions},
    }


def unsettled(body: Body) -> bool:
    """Is its spec newer than its status?"""
    status = body.get("status") or {}
    return "conditions" in status and status.get("observedGeneration") != body["metadata"]["generation"]


async def settle(api: KubeApi, body: Body) -> None:
    """One write, until it is answered; when the object has changed meanwhile its own event comes."""
    meta = body["metadata"]
    while True:
        try:
            await api.patch(INSTANCE, meta["namespace"], meta["name"], restated(body), subresource="status")
            return
        except Conflict:  # also when it was written and the answer was lost
            return
        except (Transient, OutcomeUnknown):
            await asyncio.sleep(PAUSE)


async def main(config: Path) -> None:
    """Until SIGTERM."""
    began, stop = time.monotonic(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    api, changed, known = KubernetesClient(kubeconfig.from_file(config)), asyncio.Queue[Body](), dict[str, Body]()

    def see(body: Body) -> None:
        known[body["metadata"]["uid"]] = body
        if unsettled(body):
            changed.put_nowait(body)

    async def work() -> None:
        while True:
            await settle(api, await changed.get())

    try:
        async with following(api, INSTANCE, None, see):
            await until_stopped(stop, work, f"synced {time.monotonic() - began:.3f} {len(known)}")
    finally:
        await api.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1])))
