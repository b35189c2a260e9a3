"""The world of the sweeps: it survives while operator processes come, die and come again. Used by all tests here.

It keeps a diary of what must be judged later: every state an Operation was in, every destructive call, every approval.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.system import NAMESPACE, Silent, System, TestLeader, story
from tests.sweep.mortal import API_READS, Life, Mortal, MortalMachines
from tests.sweep.virtual import PROCESS

from agentmetal.agents import AGENTS
from agentmetal.agents.instance.api import Instance
from agentmetal.app import Core, Parts, World, compose
from agentmetal.core.errors import NotFound, StaleLeader
from agentmetal.core.operation import Operation
from agentmetal.core.resource import Annotation
from agentmetal.engine.agent import AnyAgent
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import WorkQueue
from agentmetal.providers.ssh.memory import SshProviders

DESTRUCTIVE = ("rebuild_server", "decommission_server")
POLL = 0.25


@dataclass(frozen=True, kw_only=True)
class Acted:
    """A destructive call, and what the journal said at that moment."""

    method: str
    running: tuple[Operation, ...]


@dataclass(kw_only=True)
class Diary:
    """What happened."""

    operations: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    """Every state of every Operation, in order."""
    acted: list[Acted] = field(default_factory=list)
    approved: set[str] = field(default_factory=set)
    """The digests that a human approved."""
    rejected: set[str] = field(default_factory=set)


class SweepWorld(System):
    """A world on which processes die."""

    def __init__(
        self,
        *,
        parts: Parts = Parts(),
        agents: tuple[type[AnyAgent], ...] = AGENTS,
        kind: Any = Instance,
        settles_after: float = 0.0,
    ) -> None:
        super().__init__(boot_seconds=1.0, settles_after=settles_after, agents=agents)
        self.kind = kind
        self.diary = Diary()
        self.parts = parts
        self.life = Life()
        self.lives: list[Life] = []
        self.cluster.checkpoint = self._note

    # ---- processes

    def stand_on(self, leader: TestLeader, metrics: Metrics, lost: Callable[[StaleLeader], None]) -> World:
        """Every port can be the last thing a process ever used."""
        life = PROCESS.get()  # not `self.life`: whoever stands by is made while another one leads
        assert isinstance(life, Life)
        world = super().stand_on(leader, metrics, lost)
        cloud = Mortal("cloud", self.cloud, life, witness=self._witness)
        machines = MortalMachines(self.hosts, life)
        return World(
            api=Mortal("api", world.api, life, uncounted=API_READS),
            audit=Mortal("audit", world.audit, life),
            machines=machines,
            factories={"Fake": lambda _account: cloud, "SSH": SshProviders(machines, cluster=world.cluster)},
            leader=leader,
            cluster=world.cluster,
            clock=world.clock,
            metrics=metrics,
            announcer=Silent(),
            lost=lost,
        )

    def wire(self, world: World, queue: WorkQueue) -> Core:
        """With the rules of this world."""
        return compose(world, self.agents, queue, self.parts)

    async def live_through(self, lives: Iterable[Life]) -> None:
        """One process after the other; each begins when the one before has died."""
        for life in lives:
            self.life = life
            self.lives.append(life)
            life.run(self.start)
            try:
                await life.died.wait()
            finally:
                if not life.died.is_set():
                    life.die()
                await life.bury()

    # ---- the diary

    def _note(self, label: str) -> None:
        """After each write: which Operation is in which state now, wherever it is kept."""
        when, verb, plural, name, *_ = [*label.split(" "), "", ""]
        if when != "after" or verb == "delete":
            return
        if plural == Operation.info.plural:
            if body := self.cluster.peek(Operation.info.type, NAMESPACE, name):
                self._keep(Operation.model_validate(body))
        elif plural == self.kind.info.plural:
            self._note_object(self.cluster.peek(self.kind.info.type, NAMESPACE, name) or {})

    def _note_object(self, body: dict[str, Any]) -> None:
        for name, kept in (body.get("status", {}).get("teardown") or {}).get("operations", {}).items():
            self._keep(Operation.model_validate({"metadata": {"name": name, "namespace": NAMESPACE}, **kept}))
        verb, _, rest = body.get("metadata", {}).get("annotations", {}).get(Annotation.DECISION, "").partition(" ")
        noted = {"approve": self.diary.approved, "reject": self.diary.rejected}
        if verb in noted:
            noted[verb].add(rest.partition(" ")[0])

    def _keep(self, operation: Operation) -> None:
        states = self.diary.operations[operation.metadata.name]
        if not states or states[-1].status != operation.status:
            states.append(operation)

    def _witness(self, method: str) -> None:
        if method in DESTRUCTIVE:
            latest = [states[-1] for states in self.diary.operations.values()]
            running = tuple(op for op in latest if op.phase == "Running")
            self.diary.acted.append(Acted(method=method, running=running))

    # ---- what people do

    async def settled(self, name: str = "web-1") -> None:
        """An Instance that is Ready, before anything is counted."""
        await self.provider()
        await self.instance(name)
        await self.ready(name)
        await self.quiet(name)

    async def quiet(self, name: str = "web-1") -> Any:
        """The object is as it should be, and its status says so."""
        return await self.until(lambda: self.is_quiet(name), why=f"{name} settles")

    def begin(self) -> None:
        """From here on crashes count."""
        self.life.armed = True

    def told(self, type: str, reason: str, name: str = "web-1") -> bool:
        """Does status say so?"""
        seen = self.see(name)
        conditions = seen.status.conditions if seen else ()
        return any(c.type == type and c.status == "True" and c.reason == reason for c in conditions)

    def awaits(self, name: str = "web-1") -> str | None:
        """The digest that waits for a decision at the newest generation."""
        seen = self.see(name)
        if seen is None or not seen.status.plan or seen.status.observed_generation != seen.metadata.generation:
            return None
        return seen.status.plan.digest if self.told("AwaitingApproval", "ApprovalRequired", name) else None

    def is_quiet(self, name: str = "web-1") -> Any:
        """The object if it is as it should be and its status says so."""
        seen = self.see(name)
        conditions = {c.type: c for c in seen.status.conditions} if seen else {}
        fine = conditions and seen.status.observed_generation == seen.metadata.generation and seen.status.plan is None
        ready = fine and conditions["Ready"].status == "True" and conditions["Reconciling"].status != "True"
        return seen if ready else None

    async def until(self, what: Callable[[], Any], *, timeout: float = 3600.0, why: str = "") -> Any:
        """Wait until something is so."""
        try:
            async with asyncio.timeout(timeout):
                while not (found := what()):  # noqa: ASYNC110 - virtual time; the world has no events to await
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise AssertionError(f"it never came to it: {why or what!r}; {story(self.see())}") from None
        return found

    async def approve_until(self, what: Callable[[], Any], name: str = "web-1") -> None:
        """A human approves whatever waits, as often as it takes."""
        await self._decide_until(what, name, "approve")

    async def reject_until(self, what: Callable[[], Any], name: str = "web-1") -> None:
        """A human refuses whatever waits, as often as it takes."""
        await self._decide_until(what, name, "reject")

    async def _decide_until(self, what: Callable[[], Any], name: str, verb: str) -> None:
        try:
            async with asyncio.timeout(3600):
                while not what():
                    await self._decide(name, verb)
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise AssertionError(f"{verb} did not help: {story(self.see(name))}") from None

    async def _decide(self, name: str, verb: str) -> None:
        digest = self.awaits(name)
        if not digest or digest in self.see(name).annotation(Annotation.DECISION):
            return
        with contextlib.suppress(NotFound):
            if self.see(name).annotation(f"agentmetal.io/{verb}") == digest:  # refused then: status was not current
                await self.annotate(name, as_=self.ann, **{verb: None})
            await self.annotate(name, as_=self.ann, **{verb: digest})


@asynccontextmanager
async def inhabited(
    lives: Iterable[Life], made: type[SweepWorld] = SweepWorld, **options: Any
) -> AsyncIterator[SweepWorld]:
    """A world in which these processes follow each other."""
    world = made(**options)
    supervisor = asyncio.create_task(world.live_through(lives))
    await asyncio.sleep(0)  # the first process is there
    try:
        yield world
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
