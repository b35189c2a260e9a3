"""The composition root: `compose` wires the engine and the inner half of the edge. Called by `process`, and by tests
with the API server in memory and a virtual clock; everything else is the same there.

With `providing` (how servers are reached and made) and what `process` builds on, the only file that names concrete
classes. It starts nothing and waits for nothing.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentmetal.agents import AGENTS
from agentmetal.core.audit import AuditStore
from agentmetal.core.clock import Clock
from agentmetal.core.errors import StaleLeader
from agentmetal.core.machine import Machines
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.outcome import Failed, Outcome
from agentmetal.core.ports import KubeApi, Ports
from agentmetal.core.resource import AnyResource, Key
from agentmetal.core.tool import ToolContext
from agentmetal.engine.agent import AnyAgent
from agentmetal.engine.approval import Decide, decide
from agentmetal.engine.executor import Executor
from agentmetal.engine.fit import StillFits, still_fits
from agentmetal.engine.gate import Gate, Leader
from agentmetal.engine.ledger import Ledger
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.publish import Publisher
from agentmetal.engine.queue import Priority, WorkQueue
from agentmetal.engine.reconcile import Reconciler
from agentmetal.kube.cache import Cache
from agentmetal.kube.finalizers import KubeFinalizers
from agentmetal.kube.journal import KubeJournal
from agentmetal.kube.secrets import KubeSecrets
from agentmetal.kube.status import Announcer, StatusWriter
from agentmetal.providers.registry import Factory, ProviderRegistry


@dataclass(kw_only=True)
class Core:
    """The engine and the edge's inner half, wired."""

    cache: Cache
    queue: WorkQueue
    ledger: Ledger
    executor: Executor
    reconciler: Reconciler
    status: StatusWriter
    agents: tuple[AnyAgent, ...]
    providers: ProviderRegistry
    metrics: Metrics

    def event(self, type: str | None, body: dict[str, Any]) -> None:
        """What the watch says: the sink of `kube.handlers`."""
        if body.get("kind") == ApprovalPolicy.info.kind:
            self.cache.put_policy(body, gone=type == "DELETED")
        elif type == "DELETED":
            self.cache.drop(body)
        else:
            self.cache.put(body)

    async def learn(self) -> Mapping[str, str]:
        """Learn what is there: for each plural the version from which the watch goes on. Until `begin` nobody is woken.

        Whoever stands by does this long before it leads, and catches up when it does.
        """
        self.cache.asleep = True
        return await self.cache.prime()

    async def catch_up(self) -> None:
        """See what the leader before us did last: the watch may be late, and what we know as old as it is.

        A leader that does not see the machines of a Provider would change its key without telling them (found by the
        sweep of those who stand by). Whoever learned when it held the Lease already need not ask.
        """
        await self.cache.compare(patient=False)

    async def begin(self) -> None:
        """Take up what is open, and give every object its first pass: at once where something is to do."""
        self.cache.asleep = False
        for operation in await self.ledger.prime():
            ref = operation.spec.resource_ref
            if any(agent.kind.info.kind == ref.kind for agent in self.agents):  # also when the object is gone
                self.queue.add(Key(ref.kind, operation.metadata.namespace, ref.name), Priority.CHANGE)
        keys = self.cache.all_keys()
        for key in keys:
            resource = self.cache.get(key)
            if resource is None:
                continue
            if self._urgent(resource):
                self.queue.add(key, Priority.CHANGE)
            else:  # by hash, so that each restart looks at the same ones first
                share = zlib.crc32(resource.uid.encode()) / 2**32
                self.queue.add_after(key, share * first_looks_within(resource.resync_seconds, len(keys)))

    async def prime(self) -> None:
        """Learn and begin."""
        await self.learn()
        await self.begin()

    async def compare(self) -> int:
        """The second net, every few minutes: what the watch and lost answers hid. How much the watch had missed."""
        missed = await self.cache.compare()
        if self.cache.asleep:
            return missed
        for operation in await self.ledger.find_strays():
            ref = operation.spec.resource_ref
            self.queue.add(Key(ref.kind, operation.metadata.namespace, ref.name), Priority.CHANGE)
        return missed

    async def work(self, key: Key) -> None:
        """One pass, counted."""
        with self.metrics.working(key.kind):
            began = time.monotonic()
            outcome = await self.reconciler.reconcile(key)
            self.metrics.reconciled(key.kind, _result(outcome), time.monotonic() - began)

    def _urgent(self, resource: AnyResource) -> bool:
        status = resource.status
        open_one = self.ledger.running(resource.uid) or self.ledger.waiting(resource.uid)
        new = status.observed_generation != resource.metadata.generation
        return new or resource.deleting or bool(open_one) or status.plan is not None


@dataclass(frozen=True, kw_only=True)
class World:
    """What the core stands on: real things, or fakes."""

    api: KubeApi
    audit: AuditStore
    machines: Machines
    factories: dict[str, Factory]
    leader: Leader
    cluster: str
    clock: Clock
    metrics: Metrics
    announcer: Announcer
    lost: Callable[[StaleLeader], None]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The rules the core keeps. Only proofs name others: broken ones, to see that they are caught."""

    ledger: type[Ledger] = Ledger
    gate: type[Gate] = Gate
    executor: type[Executor] = Executor
    decide: Decide = decide
    still_fits: StillFits = still_fits


def compose(
    world: World,
    agents: Iterable[type[AnyAgent]] = AGENTS,
    queue: WorkQueue | None = None,
    parts: Parts = Parts(),
) -> Core:
    """Wire everything inside the edge."""
    queue = WorkQueue(world.metrics) if queue is None else queue  # an empty queue is false
    cache = Cache(world.api, queue.add, world.lost)
    providers, secrets = ProviderRegistry(cache, world.factories), KubeSecrets(world.api)
    ports = Ports(
        cluster=world.cluster,
        machines=world.machines,
        providers=providers,
        secrets=secrets,
        lookup=cache,
        clock=world.clock,
    )
    built = tuple(agent(ports) for agent in agents)
    cache.serve(built)
    by_kind = {agent.kind.info.kind: agent for agent in built}
    journal = KubeJournal(world.api, cache)
    ledger = _ledger(world, parts, journal, by_kind)
    executor = _executor(world, parts, ports, by_kind, cache, journal, ledger, queue)
    status = StatusWriter(world.api, cache, world.announcer, leads=world.leader.held)
    publisher = Publisher(
        status=status,
        finalizers=KubeFinalizers(world.api, cache, leads=world.leader.held),
        queue=queue,
        ledger=ledger,
        clock=world.clock,
        metrics=world.metrics,
    )
    reconciler = Reconciler(
        agents=by_kind,
        objects=cache,
        ledger=ledger,
        executor=executor,
        policies=cache.policies,
        publisher=publisher,
        clock=world.clock,
        decide=parts.decide,
    )
    return Core(
        cache=cache,
        queue=queue,
        ledger=ledger,
        executor=executor,
        reconciler=reconciler,
        status=status,
        agents=built,
        providers=providers,
        metrics=world.metrics,
    )


def _ledger(world: World, parts: Parts, journal: KubeJournal, by_kind: Mapping[str, AnyAgent]) -> Ledger:
    def epoch() -> int:
        if not world.leader.held():  # whoever leads no more opens, begins and resolves nothing
            raise StaleLeader("this process no longer holds the lease")
        return world.leader.epoch

    return parts.ledger(
        journal,
        world.audit,
        world.clock,
        world.metrics,
        epoch=epoch,
        agent_name=lambda kind: by_kind[kind].name if kind in by_kind else kind.lower(),
    )


def _executor(
    world: World,
    parts: Parts,
    ports: Ports,
    by_kind: Mapping[str, AnyAgent],
    cache: Cache,
    journal: KubeJournal,
    ledger: Ledger,
    queue: WorkQueue,
) -> Executor:
    def context(resource: AnyResource, operation: Operation, step: int, attempt: int) -> ToolContext:
        return ToolContext(
            resource=resource,
            cluster=ports.cluster,
            operation=operation.metadata.name,
            step=step,
            attempt=attempt,
            epoch=world.leader.epoch,
            clock=world.clock,
            machines=ports.machines,
            providers=ports.providers,
            secrets=ports.secrets,
            lookup=ports.lookup,
        )

    return parts.executor(
        ledger=ledger,
        gate=parts.gate(cache, journal, world.leader),
        objects=cache,
        tools={tool.name: tool for agent in by_kind.values() for tool in agent.tools()},
        contexts=context,
        policies=cache.policies,
        clock=world.clock,
        metrics=world.metrics,
        wake=partial(_wake, queue),
        lost=world.lost,
        decide=parts.decide,
        still_fits=parts.still_fits,
    )


def first_looks_within(resync: float, objects: int) -> float:
    """Seconds over which a restarted operator spreads its first looks at an object like this.

    Twenty looks a second, so that a few machines are known again at once and ten thousand do not come as a herd; never
    more often than at every resync. Who asks to be looked at less than hourly is not looked at sooner by a restart.
    """
    return resync if resync > 3600 else min(resync, max(1.0, objects / 20))


def _wake(queue: WorkQueue, key: Key, delay: float) -> None:
    if delay > 0:
        queue.add_after(key, delay, Priority.CHANGE)
    else:
        queue.add(key, Priority.CHANGE)


def _result(outcome: Outcome | None) -> Any:
    return "error" if isinstance(outcome, Failed) else "success"
