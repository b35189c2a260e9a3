"""The whole operator in one process: API server in memory, fake cloud and hosts, virtual time. For tests and sweeps.

`System` is the world, which survives; `start` makes an operator process on it, `crash` ends it without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agentmetal.agents import AGENTS
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.app import Core, World, compose
from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.clock import LoopClock
from agentmetal.core.errors import StaleLeader
from agentmetal.core.machine import SecretKey
from agentmetal.core.operation import ApprovalPolicy, Operation, OperationPhase
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import Annotation, AnyResource, Key
from agentmetal.engine.agent import AnyAgent
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import WorkQueue
from agentmetal.kube.memory import MemoryCluster
from agentmetal.kube.secrets import KubeSecrets
from agentmetal.kube.status import Announcer
from agentmetal.providers.fake import FakeCloud
from agentmetal.providers.fake_hosts import FakeHosts
from agentmetal.providers.ssh.memory import SshProviders
from agentmetal.store.memory import MemoryAuditStore

CLUSTER = "11111111-0000-4000-8000-000000000000"
NAMESPACE = "default"


class Silent:
    """Announces nothing."""

    def announce(self, before: AnyResource, after: AnyResource) -> None:
        """Nobody listens."""


@dataclass
class TestLeader:
    """Leads as long as the test says so."""

    __test__ = False
    epoch: int
    leads: bool = True

    def held(self) -> bool:
        return self.leads


@dataclass
class Process:
    """One operator process."""

    core: Core
    leader: TestLeader
    tasks: list[asyncio.Task[Any]]
    lost: list[StaleLeader] = field(default_factory=list)

    async def crash(self) -> None:
        """End it as kill -9 does: nothing is finished, nothing is written."""
        runs = [run.task for run in self.core.executor._runs.values() if run.task]
        writes = list(self.core.status._writing.values())
        everything = [*self.tasks, *runs, *writes]
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


class System:
    """The world around the operator."""

    def __init__(
        self,
        *,
        hosts: bool = True,
        boot_seconds: float = 5.0,
        settles_after: float = 0.0,
        agents: tuple[type[AnyAgent], ...] = AGENTS,
    ) -> None:
        self.clock = LoopClock()
        kinds = [agent.kind for agent in agents]
        self.cluster = MemoryCluster([*kinds, Operation, ApprovalPolicy, AuditCheckpoint], clock=self.clock)
        self.cluster.grant("erin", "edit")
        self.cluster.grant("ann", "approve")
        self.operator_api = self.cluster.api()
        self.erin, self.ann, self.admin = (self.cluster.api(user) for user in ("erin", "ann", "admin"))
        self.cloud = FakeCloud(self.clock, hosts=hosts, boot_seconds=boot_seconds, settles_after=settles_after)
        self.hosts = FakeHosts(self.cloud, self._load_key, clock=self.clock)
        self.audit = MemoryAuditStore()
        self.announcer: Announcer = Silent()
        """Of the processes started from now on."""
        self.agents = agents
        self.epochs = 0
        self.processes: list[Process] = []
        self._seen: dict[tuple[Any, str], tuple[tuple[str, str], Any]] = {}

    async def _load_key(self, key: SecretKey) -> str:
        return (await KubeSecrets(self.operator_api).read(key.namespace, key.name))[key.key].decode()

    async def start(self, *, workers: int = 4) -> Process:
        """A new operator process takes the lead. Nobody else has it, so what it learns is new enough."""
        return await self.lead(await self.stand_by(), workers=workers)

    async def step_up(self, standing_by: Process) -> Process:
        """Who stood by takes the lead."""
        await standing_by.core.catch_up()
        return await self.lead(standing_by)

    async def stand_by(self) -> Process:
        """A new operator process knows what is there, and follows it."""
        leader, metrics = TestLeader(epoch=0, leads=False), Metrics()
        lost: list[StaleLeader] = []
        world = self.stand_on(leader, metrics, lost.append)
        core = self.wire(world, WorkQueue(metrics, jitter=lambda delay: delay))
        await core.learn()
        kinds = [agent.kind.info.type for agent in self.agents] + [ApprovalPolicy.info.type]
        tasks = [asyncio.create_task(self._watch(core, world.api, kind)) for kind in kinds]
        return Process(core=core, leader=leader, tasks=tasks, lost=lost)

    async def lead(self, process: Process, *, workers: int = 4) -> Process:
        """A process that knows enough begins to act."""
        self.epochs = await self.audit.next_epoch(self.epochs + 1)
        process.leader.epoch, process.leader.leads = self.epochs, True
        core = process.core
        await core.begin()
        process.tasks.append(asyncio.create_task(core.queue.run(core.work, workers)))
        self.processes.append(process)
        return process

    def stand_on(self, leader: TestLeader, metrics: Metrics, lost: Callable[[StaleLeader], None]) -> World:
        """What a new process stands on."""
        return World(
            api=self.operator_api,
            audit=self.audit,
            machines=self.hosts,
            factories={
                "Fake": lambda _account: self.cloud,
                "Nspawn": lambda _account: self.cloud,
                "SSH": SshProviders(self.hosts, cluster=CLUSTER),
            },
            leader=leader,
            cluster=CLUSTER,
            clock=self.clock,
            metrics=metrics,
            announcer=self.announcer,
            lost=lost,
        )

    def wire(self, world: World, queue: WorkQueue) -> Core:
        """The parts of a new process."""
        return compose(world, self.agents, queue)

    async def _watch(self, core: Core, api: KubeApi, kind: Any) -> None:
        listing = await api.list(kind)
        for body in listing.items:
            core.event(None, body)
        async for event in api.watch(kind, resource_version=listing.resource_version):
            if event.type != "BOOKMARK":
                core.event(event.type, event.object)

    async def close(self) -> None:
        """End every process."""
        for process in self.processes:
            await process.crash()

    # ---- what people do

    async def apply(
        self, kind: str, name: str, spec: dict[str, Any], *, api: KubeApi | None = None, **meta: Any
    ) -> dict[str, Any]:
        """Create an object as an editor."""
        model = {agent.kind.info.kind: agent.kind for agent in self.agents} | {"ApprovalPolicy": ApprovalPolicy}
        body = {
            "apiVersion": "agentmetal.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, **meta},
            "spec": spec,
        }
        return await (api or self.erin).create(model[kind].info.type, body)

    async def provider(self, name: str = "cloud") -> None:
        """A Provider that is about to be Ready."""
        await self.apply("Provider", name, {"type": "Fake", "fake": {}})

    async def instance(self, name: str = "web-1", **spec: Any) -> None:
        """An Instance of that Provider."""
        wanted = {"providerRef": {"name": "cloud"}, "type": "small", "image": "bookworm", **spec}
        await self.apply("Instance", name, wanted)

    async def annotate(
        self, name: str, *, as_: KubeApi | None = None, kind: Any = Instance, **annotations: str | None
    ) -> None:
        """Set annotations of ours, as the approver by default."""
        wire = {f"agentmetal.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
        patch = {"metadata": {"annotations": wire}}
        await (as_ or self.ann).patch(kind.info.type, NAMESPACE, name, patch)

    async def edit(self, name: str, *, kind: Any = Instance, **spec: Any) -> None:
        """Change the spec as an editor."""
        await self.erin.patch(kind.info.type, NAMESPACE, name, {"spec": spec})

    async def delete(self, name: str, *, kind: Any = Instance, **options: Any) -> None:
        """Delete as an editor."""
        await self.erin.delete(kind.info.type, NAMESPACE, name, **options)

    # ---- what people see

    def see(self, name: str = "web-1", *, kind: Any = Instance) -> Any:
        """The object as it is now, or None."""
        body = self.cluster.peek(kind.info.type, NAMESPACE, name)
        if body is None:
            return None
        version = body["metadata"]["uid"], body["metadata"]["resourceVersion"]
        known = self._seen.get((kind, name))
        if known is None or known[0] != version:  # asked for thousands of times, it changes a few times
            known = self._seen[kind, name] = version, kind.model_validate({"status": {}, **body})
        return known[1]

    def operations(self) -> list[Operation]:
        """All operations, in the order of their creation."""
        places = [place for place in self.cluster.contents(NAMESPACE) if place[0] == Operation.info.type]
        found = [Operation.model_validate(self.cluster.peek(*place)) for place in places]
        return sorted(
            found, key=lambda op: int(op.metadata.resource_version) and (op.spec.resource_ref.uid, op.spec.number)
        )

    def plans(self, phase: OperationPhase | None = None) -> list[Operation]:
        """The operations of Instances, in a phase."""
        return [op for op in self.operations() if op.spec.resource_ref.kind == "Instance" and phase in (None, op.phase)]

    async def until(self, what: Callable[[], Any], *, timeout: float = 600.0, why: str = "") -> Any:
        """Wait, in virtual time, until something is so."""
        async with asyncio.timeout(timeout):
            while not (found := what()):  # noqa: ASYNC110 - virtual time; part of the world has no events to await
                await asyncio.sleep(0.05)
        return found

    async def ready(self, name: str = "web-1", *, kind: Any = Instance, timeout: float = 600.0) -> Any:
        """Wait until an object is Ready at its generation."""
        try:
            return await self.until(lambda: _ready(self.see(name, kind=kind)), timeout=timeout)
        except TimeoutError:
            raise AssertionError(f"{name} is not Ready: {story(self.see(name, kind=kind))}") from None

    async def awaiting(self, name: str = "web-1", *, kind: Any = Instance, timeout: float = 600.0) -> str:
        """Wait until a plan waits for approval; returns its digest."""
        try:
            return str(await self.until(lambda: _awaiting(self.see(name, kind=kind)), timeout=timeout))
        except TimeoutError:
            raise AssertionError(f"no plan of {name} waits: {story(self.see(name, kind=kind))}") from None

    async def gone(self, name: str = "web-1", *, kind: Any = Instance, timeout: float = 600.0) -> None:
        """Wait until an object does not exist any more."""
        try:
            await self.until(lambda: self.see(name, kind=kind) is None, timeout=timeout)
        except TimeoutError:
            raise AssertionError(f"{name} is still there: {story(self.see(name, kind=kind))}") from None


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[System]:
    """A system with one operator process and a Provider that is Ready."""
    system = System(**options)
    try:
        await system.start()
        await system.provider()
        await system.ready("cloud", kind=Provider)
        yield system
    finally:
        await system.close()


def story(resource: Any) -> str:
    """The conditions of an object, for failure messages."""
    if resource is None:
        return "it does not exist"
    told = [f"{c.type}={c.status} {c.reason} {c.message!r}" for c in resource.status.conditions if c.message]
    return f"phase {resource.status.phase}, plan {resource.status.plan}, " + "; ".join(told)


def _ready(resource: Any) -> Any:
    if resource is None:
        return None
    ready = [c for c in resource.status.conditions if c.type == "Ready" and c.status == "True"]
    return resource if ready and ready[0].observed_generation == resource.metadata.generation else None


def _awaiting(resource: Any) -> str | None:
    if resource is None or resource.status.observed_generation != resource.metadata.generation:
        return None
    waits = [c for c in resource.status.conditions if c.type == "AwaitingApproval" and c.status == "True"]
    return resource.status.plan.digest if waits and resource.status.plan else None


__all__ = ["Annotation", "Awaitable", "Key", "System", "running", "story"]
