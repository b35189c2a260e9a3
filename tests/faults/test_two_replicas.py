"""The leader of two replicas is killed, frozen and ended in the middle of plans on real machines.

Judged by the machines' own records: what their systemd started, and the lines that the commands themselves wrote.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.devsystem import new_name
from tests.support.faults import NAMESPACE, Story
from tests.support.rack import RAN, Rack, plain_hosts, rack_of, record
from tests.support.replicas import PROMISED, Takeover, replicas
from tests.support.seeds import everything

from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.operation import Operation, OperationPhase
from agentmetal.dev.hosts import PlainHost
from agentmetal.dev.watching import Body, follow, holds

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.long, pytest.mark.needs_machines]

COMMANDS = 4
BUSY_MACHINE = 3.0
"""Seconds that a computer with other work may add to a takeover; the table shows what it was."""
DAILY = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL)
MANY = (signal.SIGKILL,) * 20 + (signal.SIGSTOP,) * 10 + (signal.SIGTERM,) * 5


@dataclass
class Lives:
    """Instances that come and go on each host, for as long as there are faults."""

    rack: Rack
    api: KubernetesClient
    until: asyncio.Event
    """Begin no further one."""
    expected: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """What must stand in each host's record."""
    names: set[str] = field(default_factory=set)

    async def on(self, host: PlainHost) -> None:
        """One after the other: taken, run, Ready, let go."""
        while not self.until.is_set():
            story = Story(self.rack.dev, self.api, new_name())
            self.names.add(story.name)
            lines = [f"{story.name} {number}" for number in range(1, COMMANDS + 1)]
            self.expected[host.name] += lines
            await self.rack.take(story.name, host, [_slowly(line) for line in lines])
            await story.until(_done, "ready, its user data run", within=180)
            await story.dev.kubectl("delete", "instance", story.name, "--timeout=180s")


def _slowly(line: str) -> tuple[str, ...]:
    return ("sh", "-c", f"sleep 0.2; echo {line} >>{RAN}; sleep 0.3")


def _done(body: Body) -> bool:
    data = (body.get("status") or {}).get("userData") or {}
    return data.get("state") == "Done" and holds(body, "Ready")


async def ends(api: KubernetesClient, seen: dict[str, Operation]) -> None:
    """Every Operation as it was last seen, also of those that are gone since."""
    async with aclosing(follow(api, Operation.info.type, NAMESPACE)) as changes:
        async for objects in changes:
            seen.update({name: Operation.model_validate(body) for name, body in objects.items()})


async def suffer(
    story: Story, directory: Path, store_url: str, faults: Sequence[signal.Signals], *, seed: int, hosts: int
) -> list[Takeover]:
    """Faults at seeded moments while plans run; then look at what the hosts say."""
    dev, api = story.dev, story.api
    chance, seen = random.Random(seed), dict[str, Operation]()  # noqa: S311 - a story that can be told again
    await dev.system.operator.stop()
    async with plain_hosts(directory / "hosts", hosts) as plain, replicas(dev, directory, store_url) as both:
        rack = await rack_of(dev, api, plain)
        lives, watching = Lives(rack, api, asyncio.Event()), asyncio.create_task(ends(api, seen))
        living = [asyncio.create_task(lives.on(host)) for host in plain]
        try:
            for number in chance.sample(faults, len(faults)):
                await both.settled()
                await asyncio.sleep(chance.uniform(0.2, 2.5))
                await both.fault(number)
            lives.until.set()
            await asyncio.gather(*living)
        finally:
            for task in (watching, *living):
                task.cancel()
            await asyncio.gather(watching, *living, return_exceptions=True)
        await judge(plain, lives.expected)
    mine = [operation for operation in seen.values() if operation.spec.resource_ref.name in lives.names]
    ended = [operation for operation in mine if operation.phase is OperationPhase.SUCCEEDED]
    frozen = signal.SIGSTOP in faults
    assert not [one.wire() for one in mine if one not in ended and not (frozen and overtaken(one, ended))]
    return both.takeovers


def overtaken(operation: Operation, ended: Sequence[Operation]) -> bool:
    """Its creation was on its way when its leader was frozen, and arrived when the next one had planned the same."""
    same = [done for done in ended if done.spec.plan_hash == operation.spec.plan_hash]
    later = any(done.spec.number > operation.spec.number for done in same)
    # One that arrived after the last takeover waits for the comparison that withdraws it, or supersedes it by then.
    closed = operation.phase in (OperationPhase.WITHDRAWN, OperationPhase.SUPERSEDED)
    unused = closed or operation.phase.waiting
    return unused and operation.status.started_at is None and later


async def judge(hosts: Sequence[PlainHost], expected: Mapping[str, list[str]]) -> None:
    """No unit started twice, no command ran twice, none is missing."""
    for host in hosts:
        found = await record(host)
        assert Counter(found.ran) == Counter(expected[host.name])
        assert set(found.starts.values()) == {1}
        assert len(found.starts) == len(found.ran)


def table(takeovers: Sequence[Takeover]) -> list[str]:
    """What is printed."""
    lines = ["| fault | takeovers | fastest | median | slowest | promised |", "|---|---|---|---|---|---|"]
    for fault, promised in PROMISED.items():
        if times := sorted(takeover.seconds for takeover in takeovers if takeover.fault is fault):
            shown = (times[0], times[len(times) // 2], times[-1], promised)
            lines.append(f"| {fault.name} | {len(times)} | {' | '.join(f'{seconds:.2f} s' for seconds in shown)} |")
    return lines


def tell(takeovers: Sequence[Takeover], record_property: Callable[[str, object], None]) -> None:
    """Print the times."""
    print("\n".join(("", *table(takeovers))))  # noqa: T201 - the point of it
    record_property("points", len(takeovers))
    record_property("table", "\n".join(table(takeovers)))


def late(takeovers: Sequence[Takeover]) -> list[Takeover]:
    """Those that took longer than promised."""
    return [takeover for takeover in takeovers if takeover.seconds > PROMISED[takeover.fault] + BUSY_MACHINE]


@pytest.mark.timeout(600)  # the system is made within it, too
async def test_whatever_ends_a_leader_no_command_runs_twice_and_no_plan_is_lost(
    story: Story, tmp_path: Path, store_url: str, record_property: Callable[[str, object], None]
) -> None:
    takeovers = await suffer(story, tmp_path, store_url, DAILY, seed=1, hosts=2)
    tell(takeovers, record_property)
    assert late(takeovers) == []


@everything
@pytest.mark.timeout(2400)
async def test_thirty_five_leaders_end_in_the_middle_of_plans(
    story: Story, tmp_path: Path, store_url: str, record_property: Callable[[str, object], None]
) -> None:
    takeovers = await suffer(story, tmp_path, store_url, MANY, seed=5, hosts=3)
    tell(takeovers, record_property)
    assert late(takeovers) == []
