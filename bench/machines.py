"""A thousand machines: what it costs to keep a connection to each, to look at each every 30 s, and what dead ones cost.

As many real machines as this computer carries, the rest played by `bench.farm`; the operator's side is `bench.looker`.
Each is a process of its own, so CPU and memory are those of the operator's code alone. Needs no control plane.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from agentmetal.clients.keys import KeyPair, make_key_pair
from agentmetal.core.errors import AgentMetalError, LimitReached
from agentmetal.core.machine import OwnerTag, ServerSpec
from agentmetal.dev.requirements import missing
from agentmetal.providers.nspawn.fleet import Fleet
from agentmetal.settings import Settings
from bench.farm import LOOPBACK
from bench.figures import Figure, percentile

Say = Callable[[str], None]
Host = tuple[str, int, str]
"""Address, port, public host key."""

MACHINES = 1000
DEAD = 50
REAL = 12
"""At most; a smaller computer carries fewer."""
BOOTS_WITHIN = 60.0
STEADY = 45.0
"""Seconds: each host is looked at once or twice."""
LINE = 2**24
CONNECTION_KIB = 60.0
CORES = 0.5
DELAYED = 0.1
"""Seconds that the looks at the living may be later because others are dead, at the 99th percentile."""


class Child:
    """One of our processes: a line there, a line back."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def say(self, line: str) -> None:
        """One line there."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    async def ask(self, line: str, within: float) -> Any:
        """Say a line and wait for the answer to it."""
        await self.say(line)
        return await self.hear(within)

    async def hear(self, within: float) -> Any:
        """The next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(within):
            line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the measurement ended with {await self.process.wait()}: see above")
        return json.loads(line)


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[Child]:
    """A process that ends with the block, also when it is stopped."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments), stdin=pipe, stdout=pipe, limit=LINE
    )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def real_machines(count: int, client: KeyPair, say: Say) -> AsyncIterator[tuple[Path, Sequence[Host]]]:
    """So many real machines or fewer, and where they live; none where machines cannot run. All are gone in the end."""
    with tempfile.TemporaryDirectory(prefix="agentmetal-bench-machines-") as directory:
        fleet = Fleet(Path(directory) / "machines")
        if why := missing():
            say(f"no real machines: {why}")
            yield fleet.directory, ()
            return
        try:
            await fleet.ensure_image("bookworm", say)
            booting = [await _boot(fleet, number, client) for number in range(count)]
            hosts = [host for host in booting if host is not None]
            answered = await asyncio.gather(*(_answers(fleet, host) for host in hosts))
            yield fleet.directory, [host for host, there in zip(hosts, answered, strict=True) if there]
        finally:
            await fleet.down()


async def _boot(fleet: Fleet, number: int, client: KeyPair) -> Host | None:
    """Switch one on; None when the computer carries no more."""
    key, name = make_key_pair("real"), f"real-{number}"
    spec = ServerSpec(
        name=name,
        owner=OwnerTag(cluster="bench", namespace="bench", uid=name),
        type="small",
        image="bookworm",
        authorized_keys=(client.public_line,),
        host_key=key.private_openssh,
    )
    try:
        machine = await fleet.create(spec)
    except LimitReached:
        return None
    return machine.record.address, 22, key.public_line


async def _answers(fleet: Fleet, host: Host) -> bool:
    """Whether its sshd speaks in time. A machine that boots tells nobody: it is tried again."""
    loop = asyncio.get_running_loop()
    until = loop.time() + BOOTS_WITHIN
    while loop.time() < until:
        try:
            (await fleet.dial(host[0], host[1], 2.0)).close()
        except AgentMetalError:
            await asyncio.sleep(0.2)
        else:
            return True
    return False


async def measure(say: Say) -> list[Figure]:
    """All of it: about two and a half minutes."""
    client = make_key_pair("bench")
    async with AsyncExitStack() as parts:
        directory, real = await parts.enter_async_context(real_machines(REAL, client, say))
        say(f"{len(real)} real machines answer")
        living = await parts.enter_async_context(
            child("bench.farm", str(MACHINES - DEAD - len(real)), client.public_line)
        )
        mortal = await parts.enter_async_context(child("bench.farm", str(DEAD), client.public_line))
        lasting = [*real, *await _hosts(living)]
        dying = await _hosts(mortal)
        order = random.Random(0).sample([*lasting, *dying], MACHINES)  # noqa: S311 - as uids spread them, no secret
        looker = await parts.enter_async_context(child("bench.looker"))
        settings = {
            "key": client.private_openssh,
            "hosts": order,
            "machines": str(directory),
            "workers": Settings().workers,
        }
        await looker.say(json.dumps(settings))
        dead = frozenset(number for number, host in enumerate(order) if host in dying)
        return await _all(looker, mortal, len(real), dead, say)


async def _hosts(farm: Child) -> list[Host]:
    return [(LOOPBACK, port, key) for port, key in await farm.hear(60.0)]


async def _all(looker: Child, mortal: Child, real: int, dead: frozenset[int], say: Say) -> list[Figure]:
    say(f"connecting to {MACHINES} hosts")
    connected = await looker.ask("connect", 120.0)
    say(f"looking at each every 30 s, for {STEADY:g} s")
    well = await looker.ask(f"look {STEADY}", 2 * STEADY)
    say(f"the same while {DEAD} of them are dead")
    mortal.process.send_signal(signal.SIGSTOP)
    ill = await looker.ask(f"look {STEADY}", 2 * STEADY)
    return figures(connected, well, ill, real, dead)


def figures(
    connected: dict[str, Any], well: dict[str, Any], ill: dict[str, Any], real: int, dead: frozenset[int]
) -> list[Figure]:
    """What the processes told."""
    alive, before = _latenesses(ill, dead), _latenesses(well, dead)
    p99_before, p99 = percentile(before, 0.99), percentile(alive, 0.99)
    lost = sum(failed for _, failed in well["hosts"])
    missed = sum(failed for number, (_, failed) in enumerate(ill["hosts"]) if number not in dead)
    name = f"{MACHINES:,} machines"
    return [
        Figure(
            name=f"{name}: connect to all",
            value=connected["seconds"],
            unit="s",
            note=f"{real} real, the others played on this computer; {connected['cpu']:.1f} s of CPU",
        ),
        Figure(
            name=f"{name}: memory for each",
            value=(well["resident"] - connected["resident_before"]) / connected["count"],
            unit="KiB",
            budget=CONNECTION_KIB,
            note="a kept connection of the operator, after it was used for looks",
        ),
        Figure(
            name=f"{name}: CPU of looking at each every 30 s",
            value=well["cpu"] / well["seconds"],
            unit="cores",
            budget=CORES,
            note=f"{len(_latenesses(well, frozenset()))} looks in {well['seconds']:.0f} s, {lost} failed",
        ),
        Figure(name=f"{name}: look due → done, p99", value=p99_before, unit="s"),
        Figure(
            name=f"{name}: later because {DEAD} are dead, p99",
            value=max(0.0, p99 - p99_before),
            unit="s",
            budget=DELAYED,
            note=f"p99 {p99:.3f} s over {len(alive)} looks at the living, {missed} failed",
        ),
        Figure(name=f"{name}: CPU while {DEAD} are dead", value=ill["cpu"] / ill["seconds"], unit="cores"),
    ]


def _latenesses(told: dict[str, Any], without: frozenset[int]) -> list[float]:
    return [late for number, (lates, _) in enumerate(told["hosts"]) if number not in without for late in lates]
