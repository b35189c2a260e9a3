"""Whether the real operator keeps anything of what is gone: memory, open files, threads, series of metrics.

Each cycle orders simulated servers, waits until they run, deletes them with approval, and puts played SSH hosts
(`bench.farm`) into the inventory of a Provider and out of it. The first cycles warm up; measured is what the last ones
add.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import Annotation
from bench.figures import Figure
from bench.following import Body, Follow, following, holds
from bench.machines import Child, child
from bench.objects import INSTANCE, PROVIDER, create_cloud, in_parallel, instance, names
from bench.processes import rss_mb
from bench.stage import Stage

NAMESPACE, INVENTORY = "leaks", "lab"
SERVERS, HOSTS = 50, 20
CYCLES, WARM_UP = 10, 4
WITHIN = 180.0
RSS_BUDGET = 0.5
"""MiB for each cycle after the warm-up: 50 servers and 20 hosts come and go in it."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a process has, with nothing to do."""

    files: int
    threads: int
    rss_mb: float
    series: int
    """Of its metrics."""


async def measure(stage: Stage, *, cycles: int = CYCLES) -> list[Figure]:
    """The operator is started unless it runs, and left running."""
    await stage.start_operator()
    admin, editor = stage.client("admin"), stage.client("editor")
    await create_cloud(admin, NAMESPACE)
    bodies: dict[str, Body] = {}
    inventory: list[Body] = []
    async with AsyncExitStack() as parts:
        provider = await parts.enter_async_context(following(admin, PROVIDER, NAMESPACE, inventory.append))
        key = await _inventory(editor, provider, inventory)
        hosts = await _hosts(await parts.enter_async_context(child("bench.farm", str(HOSTS), key)))
        taken = []
        for number in range(cycles):
            stage.say(f"cycle {number + 1} of {cycles}: {SERVERS} servers and {HOSTS} hosts come and go")
            await _servers(stage, bodies, number)
            with_hosts = await _come_and_go(stage, editor, provider, inventory, hosts)
            taken.append(await _kept(stage))
    return _figures(taken, with_hosts)


def _figures(taken: Sequence[Kept], with_hosts: int) -> list[Figure]:
    first, last = taken[min(WARM_UP, len(taken)) - 1], taken[-1]
    count = max(1, len(taken) - WARM_UP)
    note = f"{count} cycles of {SERVERS} servers and {HOSTS} hosts after {WARM_UP} to warm up"
    return [
        Figure(name="open files more after cycles", value=last.files - first.files, unit="", budget=0,
               note=f"{note}; {last.files} files, {with_hosts} while the hosts are connected"),
        Figure(name="threads more after cycles", value=last.threads - first.threads, unit="", budget=0),
        Figure(name="series of metrics more after cycles", value=last.series - first.series, unit="", budget=0),
        Figure(name="RSS more for each cycle", value=(last.rss_mb - first.rss_mb) / count, unit="MiB",
               budget=RSS_BUDGET, note=f"{first.rss_mb:.0f} MiB, {last.rss_mb:.0f} MiB in the end"),
    ]  # fmt: skip


async def _inventory(editor: KubeApi, follow: Follow, seen: list[Body]) -> str:
    """A Provider of SSH hosts without any yet; the public key that it will log in with."""
    spec = {"type": "SSH", "ssh": {"hosts": []}}
    await editor.create(PROVIDER, {"metadata": {"name": INVENTORY, "namespace": NAMESPACE}, "spec": spec})
    await follow.until(
        lambda: bool(_mine(seen).get("publicKey")), within=WITHIN, what=lambda: "the inventory has a key"
    )
    return str(_mine(seen)["publicKey"])


def _mine(seen: list[Body]) -> dict[str, Any]:
    """The newest status of the inventory."""
    bodies = [body for body in seen if body["metadata"]["name"] == INVENTORY]
    return (bodies[-1].get("status") or {}) if bodies else {}


async def _hosts(farm: Child) -> list[dict[str, Any]]:
    played = await farm.hear(WITHIN)
    return [
        {"name": f"host-{number}", "address": "127.0.0.1", "port": port, "hostKey": key}
        for number, (port, key) in enumerate(played)
    ]


async def _come_and_go(
    stage: Stage, editor: KubeApi, follow: Follow, seen: list[Body], hosts: list[dict[str, Any]]
) -> int:
    """The inventory gets its hosts, until all are known, and loses them; files open in between."""
    await _edit(editor, follow, seen, hosts, lambda met: met == len(hosts))
    files = _files(stage)
    await _edit(editor, follow, seen, [], lambda met: met == 0)
    return files


async def _edit(editor: KubeApi, follow: Follow, seen: list[Body], hosts: list[dict[str, Any]], fine: Any) -> None:
    await editor.patch(PROVIDER, NAMESPACE, INVENTORY, {"spec": {"ssh": {"hosts": hosts}}})

    def there() -> bool:
        bodies = [body for body in seen if body["metadata"]["name"] == INVENTORY]
        newest = bodies[-1]
        del seen[:-1]
        fresh = newest["status"].get("observedGeneration") == newest["metadata"]["generation"]
        return bool(fresh and holds(newest, "Ready") and fine(_met(newest)))

    await follow.until(there, within=WITHIN, what=lambda: f"{len(hosts)} hosts are logged in to: {_mine(seen)}")


def _met(body: Body) -> int:
    """How many hosts were logged in to: a played one says the same to everything, so its claim cannot be read."""
    unusable = body["status"].get("unusable") or ()
    return sum(one["reason"] == "ClaimedByOther" for one in unusable)


async def _servers(stage: Stage, bodies: dict[str, Body], cycle: int) -> None:
    """Simulated servers run, and go after an approval each."""
    admin, editor, approver = (stage.client(user) for user in ("admin", "editor", "approver"))
    wanted = names(f"web-{cycle}", SERVERS)

    def see(body: Body) -> None:
        bodies[body["metadata"]["name"]] = body

    def ready() -> int:
        return sum(name in bodies and holds(bodies[name], "Ready") for name in wanted)

    def asking() -> int:
        return sum(bool(_digest(bodies[name])) for name in wanted)

    async def create(name: str) -> None:
        await editor.create(INSTANCE, instance(NAMESPACE, name))

    async def delete(name: str) -> None:
        await editor.delete(INSTANCE, NAMESPACE, name)

    async def approve(name: str) -> None:
        patch = {"metadata": {"annotations": {Annotation.APPROVE: _digest(bodies[name])}}}
        await approver.patch(INSTANCE, NAMESPACE, name, patch)

    async with following(admin, INSTANCE, NAMESPACE, see) as follow:
        await in_parallel(create, wanted)
        await follow.until(lambda: ready() == SERVERS, within=WITHIN, what=lambda: f"{ready()} of {SERVERS} run")
        await in_parallel(delete, wanted)
        await follow.until(lambda: asking() == SERVERS, within=WITHIN, what=lambda: f"{asking()} teardowns wait")
        await in_parallel(approve, wanted)
    bodies.clear()
    async with asyncio.timeout(WITHIN):
        while (await admin.list(INSTANCE, NAMESPACE)).items:  # noqa: ASYNC110 - asked a few times, at the end of a cycle
            await asyncio.sleep(0.5)


def _digest(body: Body) -> str:
    status = body.get("status") or {}
    return str((status.get("plan") or {}).get("digest") or "") if holds(body, "AwaitingApproval") else ""


async def _kept(stage: Stage) -> Kept:
    pid, port = stage.operator_pid, stage.operator.metrics_port
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return Kept(
        files=_files(stage),
        threads=_threads(pid),
        rss_mb=rss_mb(pid),
        series=sum(NAMESPACE in line for line in lines),
    )


def _files(stage: Stage) -> int:
    """But for connections to the API server: those are pooled, as many as were wanted at once, for a minute each."""
    process = Path(f"/proc/{stage.operator_pid}")
    pooled = sockets_to(stage.plane.ports().api, (process / "net" / "tcp").read_text())
    return sum(link not in pooled for file in (process / "fd").iterdir() if (link := _link(file)))


def _link(file: Path) -> str:
    try:
        return str(file.readlink())
    except FileNotFoundError:  # closed since it was listed
        return ""


def sockets_to(port: int, table: str) -> set[str]:
    """The sockets that a /proc/net/tcp shows connected to that port, as links of open files name them."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}")}


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
