"""The operator's side of many hosts, alone in a process: connections that are kept, and looks through the work queue.

    python -m bench.looker

Reads one JSON line: private key, hosts as [address, port, host key], the directory of real machines, how many workers.
Then obeys lines on stdin, each answered by one JSON line: `connect`, `look SECONDS` (every host once each 30 s, for so
long), `end`. Everything on the way is the operator's own code: SshMachines, the queue, the one command that looks.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any

import uvloop

from agentmetal.clients.ssh import SshMachines
from agentmetal.clients.ssh.dialling import connected
from agentmetal.core.clock import SystemClock
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.machine import MachineIdentity, SecretKey
from agentmetal.core.resource import Key
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import TICK, Priority, WorkQueue
from agentmetal.providers.nspawn.fleet import Fleet
from agentmetal.providers.nspawn.record import NETWORK
from agentmetal_tools.looks import look
from bench.processes import rss_mb

EVERY = 30.0
SECRET = SecretKey(namespace="bench", name="bench", key="key")


@dataclass(kw_only=True)
class Looker:
    """What the process keeps."""

    identities: dict[Key, MachineIdentity]
    machines: SshMachines
    workers: int
    queue: WorkQueue = field(init=False)
    """Of the looks that are under way; whose connection is lost is woken, as in the operator."""
    late: dict[Key, list[float]] = field(default_factory=dict)
    """For each host: seconds from when a look was due until it ended well."""
    failed: dict[Key, int] = field(default_factory=dict)

    async def connect(self) -> dict[str, Any]:
        """Connect to all of them. The first one brings the libraries in and is not counted."""
        first, *others = self.identities.values()
        await self.machines.connect(first)
        before, began, cpu = _resident(), time.monotonic(), time.process_time()
        slots = asyncio.Semaphore(self.workers)

        async def one(identity: MachineIdentity) -> None:
            async with slots:
                await self.machines.connect(identity)

        await asyncio.gather(*map(one, others))
        took, spent = time.monotonic() - began, time.process_time() - cpu
        return {"count": len(others), "seconds": took, "cpu": spent, "resident_before": before}

    async def look(self, seconds: float) -> dict[str, Any]:
        """Look at each host every 30 s, as the queue gets to it; the beginnings are spread over the 30 s."""
        self.late, self.failed = {key: [] for key in self.identities}, dict.fromkeys(self.identities, 0)
        self.queue = queue = WorkQueue(Metrics("bench"), jitter=lambda delay: delay)
        loop, due = asyncio.get_running_loop(), dict[Key, float]()

        def again(key: Key, delay: float) -> None:
            due[key] = loop.time() + delay
            queue.add_after(key, delay, Priority.RESYNC)

        async def work(key: Key) -> None:
            was, on_time = due[key], due[key] <= loop.time() + TICK
            if on_time:
                again(key, was + EVERY - loop.time())
            try:
                await look(await self.machines.connect(self.identities[key]), SystemClock())
            except AgentMetalError:
                self.failed[key] += 1
                return
            if on_time:
                self.late[key].append(loop.time() - was)

        for number, key in enumerate(self.identities):
            again(key, EVERY * number / len(self.identities))
        began, cpu = time.monotonic(), time.process_time()
        running = asyncio.create_task(queue.run(work, self.workers))
        await asyncio.sleep(seconds)
        took, spent = time.monotonic() - began, time.process_time() - cpu
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        told = [[self.late[key], self.failed[key]] for key in self.identities]
        return {"seconds": took, "cpu": spent, "resident": _resident(), "hosts": told}


def _resident() -> float:
    """KiB, after what is garbage is gone."""
    gc.collect()
    return rss_mb(os.getpid()) * 1024


def looker(settings: dict[str, Any]) -> Looker:
    """As the parent wants it."""
    fleet = Fleet(Path(settings["machines"]))

    async def load_key(place: SecretKey) -> str:
        return str(settings["key"])

    async def dial(address: str, port: int, timeout: float) -> socket:
        """Machines are in a network of their own; as in development."""
        inside = ipaddress.ip_address(address) in NETWORK
        return await (fleet.dial if inside else connected)(address, port, timeout)

    def wake(owner: Key, reason: str) -> None:
        one.queue.add(owner)

    machines = SshMachines(load_key, dial, wake, cluster="bench")
    one = Looker(identities=_identities(settings["hosts"]), machines=machines, workers=settings["workers"])
    return one


def _identities(hosts: Sequence[Sequence[Any]]) -> dict[Key, MachineIdentity]:
    owners = [Key("Instance", "bench", str(number)) for number in range(len(hosts))]
    return {
        owner: MachineIdentity(
            owner=owner, server_id="", address=address, port=port, user="root", host_key=host_key, client_key=SECRET
        )
        for owner, (address, port, host_key) in zip(owners, hosts, strict=True)
    }


async def obey() -> None:
    """One order after the other."""
    loop = asyncio.get_running_loop()
    one = looker(json.loads(await loop.run_in_executor(None, sys.stdin.readline)))
    while order := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        match order:
            case ["connect"]:
                told = await one.connect()
            case ["look", seconds]:
                told = await one.look(float(seconds))
            case _:
                break
        print(json.dumps(told), flush=True)
    await one.machines.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(obey())
