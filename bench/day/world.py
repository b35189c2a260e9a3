"""The operator in that weather: ports that fail, watches with gaps, processes that end and follow each other.

Used by `story`. The world (API server, cloud, hosts, audit store) survives; what it remembers of the past is dropped
every hour, so that memory which grows is the operator's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from tests.support.system import CLUSTER, NAMESPACE, Process, Silent, System, TestLeader
from tests.sweep.mortal import API_READS, Life, Mortal, MortalMachines

from agentmetal.agents import AGENTS
from agentmetal.agents.instance.api import Instance
from agentmetal.app import World
from agentmetal.core.audit import Head, follow
from agentmetal.core.errors import AgentMetalError, Gone, StaleLeader
from agentmetal.core.operation import Operation
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import Annotation
from agentmetal.engine.metrics import Metrics
from agentmetal.process import COMPARE_EVERY, DRAIN_SECONDS, GRACE_SECONDS
from agentmetal.providers.ssh.memory import SshProviders
from bench.day.diary import Diary
from bench.day.weather import Troubled, Weather

WORKERS = 32
START_AGAIN = 5.0
"""Seconds until a process that could not start, or whose watch was refused, tries again."""
TOOLS = {tool.name: tool for agent in AGENTS for tool in agent.tools()}


class DayWorld(System):
    """A world for a day."""

    def __init__(self, dice: Random) -> None:
        super().__init__(boot_seconds=10.0)
        self.weather = Weather(dice=dice)
        self.diary = Diary(now=lambda: asyncio.get_running_loop().time(), leaves_after=_leaves_after)
        self.cluster.checkpoint = self._note
        self.life = Life(armed=False)
        self.restarts: Counter[str] = Counter()
        self._dice = dice
        self._verified = Head()

    @property
    def process(self) -> Process | None:
        """Who leads now; None while nobody does."""
        return self.processes[-1] if self.processes else None

    # ---- processes

    def stand_on(self, leader: TestLeader, metrics: Metrics, lost: Callable[[StaleLeader], None]) -> World:
        """Every port is in the weather, and ends with its process."""
        life = self.life
        machines = MortalMachines(self.hosts, life)
        cloud = Mortal("cloud", Troubled("cloud", self.cloud, self.weather), life)
        return World(
            api=Mortal("api", Troubled("api", self.operator_api, self.weather), life, uncounted=API_READS),
            audit=Mortal("audit", self.audit, life),
            machines=machines,
            factories={"Fake": lambda _account: cloud, "SSH": SshProviders(machines, cluster=CLUSTER)},
            leader=leader,
            cluster=CLUSTER,
            clock=self.clock,
            metrics=metrics,
            announcer=Silent(),
            lost=lost,
        )

    async def keep_led(self) -> None:
        """Until cancelled: one process after the other, each until somebody ends it."""
        while True:
            self.life = life = Life(armed=False)
            life.run(self._begin)
            try:
                await life.died.wait()
            finally:
                if not life.died.is_set():
                    life.die()
                await life.bury()
                self.processes.clear()

    async def _begin(self) -> None:
        try:
            process = await self.start(workers=WORKERS)
        except AgentMetalError:  # a process that cannot start ends, with all that it had begun
            await asyncio.sleep(START_AGAIN)
            self.life.die()
            return
        process.tasks.append(asyncio.create_task(self._compare(process)))

    async def end_process(self, *, orderly: bool) -> None:
        """As SIGTERM ends it, or kill -9."""
        self.restarts["SIGTERM" if orderly else "kill -9"] += 1
        if orderly and self.process:
            core = self.process.core
            await core.executor.drain(DRAIN_SECONDS, grace=GRACE_SECONDS)
            await core.status.flush(3.0)
        self.life.die()

    def check_alive(self) -> None:
        """A task of the process that has ended is a bug: nothing ends it but the process's own end."""
        for process in self.processes:
            for task in process.tasks:
                if task.done() and not task.cancelled():
                    self.diary.complain(f"{task.get_coro()} of the operator ended: {task.exception()!r}")

    async def _watch(self, core: Any, api: KubeApi, kind: Any) -> None:
        """As the edge does it: list, watch from there, list again when the server has forgotten."""
        while True:
            try:
                listing = await api.list(kind)
            except AgentMetalError:
                await asyncio.sleep(START_AGAIN)
                continue
            for body in listing.items:
                core.event(None, body)
            await self._watch_from(core, api, kind, listing.resource_version)

    async def _watch_from(self, core: Any, api: KubeApi, kind: Any, version: str) -> None:
        while True:
            try:
                async for event in api.watch(kind, resource_version=version):
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type != "BOOKMARK":
                        core.event(event.type, event.object)
            except Gone:
                return
            await asyncio.sleep(1.0)

    async def _compare(self, process: Process) -> None:
        while True:
            await asyncio.sleep(COMPARE_EVERY)
            try:
                await process.core.cache.compare()
            except AgentMetalError:
                continue

    # ---- what the world remembers

    def _note(self, label: str) -> None:
        when, verb, plural, name, *_ = [*label.split(" "), "", ""]
        if when != "after":
            return
        if plural == Operation.info.plural:
            self.diary.operation(name, self.cluster.peek(Operation.info.type, NAMESPACE, name))
        elif plural == Instance.info.plural and verb != "dry-run":
            body = self.cluster.peek(Instance.info.type, NAMESPACE, name)
            if body is not None:
                self.diary.decision(body["metadata"].get("annotations", {}).get(Annotation.DECISION, ""))
                self.diary.orders(body)

    def judge_and_forget(self) -> None:
        """What the last hour has left in the world is judged, and dropped."""
        self.check_alive()
        self._judge_trail()
        self._judge_units()
        self._judge_servers()
        gone = {name for name in self.diary.states if not self.cluster.peek(Operation.info.type, NAMESPACE, name)}
        for name in gone:
            self.diary.operation(name, None)
        self.cluster.requests.clear()
        self.cloud.calls.clear()
        self.cloud._gone.clear()  # lists show them no more: it settles at once
        for place in [place for place in self.hosts._hosts if place[0] not in self.cloud._servers]:
            del self.hosts._hosts[place]
        self._seen.clear()

    def _judge_trail(self) -> None:
        for record in self.audit.trail:
            if record.sequence <= self._verified.sequence:
                continue
            if follow(self._verified, record.entry) != record:
                self.diary.complain(f"record {record.sequence} of the audit trail does not follow the one before it")
            self._verified = Head(sequence=record.sequence, hash=record.hash)
        del self.audit.trail[:-1]

    def _judge_units(self) -> None:
        """Attempts of one hour and the one before: nothing comes back after so long."""
        twice = [name for name, count in Counter(run.name for run in self.hosts.journal).items() if count > 1]
        if twice:
            self.diary.complain(f"these units ran twice: {twice}")
        now = asyncio.get_running_loop().time()
        self.hosts.journal[:] = [run for run in self.hosts.journal if now - run.at < 3600]

    def _judge_servers(self) -> None:
        owners = Counter(server.owner.uid for server in self.cloud._servers.values() if server.owner)
        twice = [uid for uid, count in owners.items() if count > 1]
        if twice:
            self.diary.complain(f"these objects have several servers: {twice}")


def _leaves_after(name: str) -> bool:
    return TOOLS[name].leave_after
