"""What people can do to a plan, in every order: the actions, the law they make, and who breaks it.

The law knows nothing of the engine: it reads the API server and remembers what people did. Each Dangerous step is
judged at the moment it acts. Used by `test_decisions.py` and by the broken variants.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from tests.support.system import NAMESPACE, TestLeader
from tests.sweep.gadget import STEP_SECONDS, Gadget, GadgetAgent, Shelf
from tests.sweep.mortal import Life
from tests.sweep.oracles import NEXT
from tests.sweep.sweeping import Crew
from tests.sweep.virtual import live
from tests.sweep.world import SweepWorld

from agentmetal.app import Parts, World
from agentmetal.core.audit import AuditAction, Verified, verify
from agentmetal.core.errors import NotFound, StaleLeader
from agentmetal.core.operation import ApprovalPolicy, Operation, OperationPhase
from agentmetal.core.resource import Annotation
from agentmetal.core.risk import Risk
from agentmetal.core.tool import ToolContext
from agentmetal.engine.metrics import Metrics

NAME = "box-1"
TTL = 3600.0
SETTLE = 1.5
"""Seconds after each action: all that is decided at once is decided then, and a step is still under way."""
LONG = 2 * STEP_SECONDS + 20.0


@dataclass
class ShelfPort:
    """The shelf as the port `machines`."""

    shelf: Shelf


@dataclass(kw_only=True)
class Law:
    """What people said, as far as it decides what may run."""

    approved_at: dict[str, float] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    """Digests whose operation was over once: superseded, rejected, expired, used up. Nothing brings them back."""
    begun: dict[tuple[str, str], int] = field(default_factory=dict)
    """Intents seen, (digest, tool), and the epoch of the leader that wrote them."""
    let_go: set[str] = field(default_factory=set)
    """Digests that were rightly or wrongly begun."""
    acted: list[tuple[str, str]] = field(default_factory=list)
    """What was done: (digest, tool)."""
    broken: list[str] = field(default_factory=list)


class GadgetWorld(SweepWorld):
    """One box, its people, and a law."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts=parts, agents=(GadgetAgent,), kind=Gadget)
        self.shelf, self.law = Shelf(), Law()
        self.shelf.acted = self._judge
        self.began_at = 0.0
        self.shown: list[str] = []
        """Every digest that ever waited, in order."""
        self.chapters: list[dict[str, list[Operation]]] = []
        """The diary's operations until each restore."""
        self.waiting_backup: Any = None
        self.running_backup: Any = None

    def stand_on(self, leader: TestLeader, metrics: Metrics, lost: Callable[[StaleLeader], None]) -> World:
        machines: Any = ShelfPort(self.shelf)
        return replace(super().stand_on(leader, metrics, lost), machines=machines)

    @property
    def box(self) -> Gadget | None:
        """The object."""
        return self.see(NAME, kind=Gadget)  # type: ignore[no-any-return] # `see` serves every kind

    @property
    def policies(self) -> int:
        """How many policies there are."""
        return sum(place[0] == ApprovalPolicy.info.type for place in self.cluster.contents(NAMESPACE))

    def waits(self) -> str | None:
        """The digest that status shows as waiting."""
        box = self.box
        shown = box.status.plan.digest if box and box.status.plan else None
        conditions = box.status.conditions if box else ()
        awaiting = any(c.type == "AwaitingApproval" and c.status == "True" for c in conditions)
        return shown if awaiting else None

    async def settle(self, seconds: float = SETTLE) -> None:
        """Let the operator do what it will, and keep the books."""
        await asyncio.sleep(seconds)
        if (digest := self.waits()) and digest not in self.shown:
            self.shown.append(digest)
        if self.waiting_backup is None and digest:
            self.waiting_backup = self.cluster.backup(NAMESPACE)
        if self.running_backup is None and any(op.phase == "Running" for op in self.latest()):
            self.running_backup = self.cluster.backup(NAMESPACE)

    async def replaced(self, backup: Any = None) -> None:
        """The process dies and another one takes over; meanwhile the API's state may go back to a backup."""
        self.life.die()
        await self.life.bury()
        if backup is not None:
            self.cluster.restore(NAMESPACE, backup)
            # What was still open went back in time with all that was said of it; what was over stays over.
            self.law.rejected &= self.law.closed
            self.law.acted = [(digest, tool) for digest, tool in self.law.acted if digest in self.law.closed]
            self.chapters.append(self.diary.operations)
            self.diary.operations = defaultdict(list)
            for operation in self.operations():
                super()._keep(operation)
        self.take_over()

    def take_over(self) -> None:
        """A new process starts."""
        self.life, self.began_at = Life(armed=False), asyncio.get_running_loop().time()
        self.life.run(self.start)

    def latest(self) -> list[Operation]:
        """The newest state of each operation that was ever seen."""
        return [states[-1] for states in self.diary.operations.values()]

    def hear(self, stamp: str) -> None:
        """Take note of a decision that the API server has stamped."""
        verb, _, rest = stamp.partition(" ")
        digest = rest.partition(" ")[0]
        if verb == "approve":
            self.law.approved_at[digest] = asyncio.get_running_loop().time()
        elif verb == "reject":
            self.law.rejected.add(digest)

    def _keep(self, operation: Operation) -> None:
        super()._keep(operation)
        law = self.law
        if operation.phase.closed:
            law.closed.add(operation.digest)
            return
        for step, status in zip(operation.spec.steps, operation.status.steps, strict=True):
            begun = (operation.digest, step.tool)
            if status.state == "Running" and step.risk is Risk.DANGEROUS and begun not in law.begun:
                law.begun[begun] = operation.status.epoch
                law.broken += [f"{step.tool} of {operation.metadata.name}: {w}" for w in self._against(operation)]

    # ---- the judge

    def _judge(self, tool: str, ctx: ToolContext) -> None:
        """A Dangerous step acts, now. It was judged when its leader wrote its intent; is there one?"""
        body = self.cluster.peek(Operation.info.type, NAMESPACE, ctx.operation)
        if body is None:
            self.law.broken.append(f"{tool}: no journal")
            return
        operation = Operation.model_validate(body)
        # An intent counts for the leader that wrote it; another one begins the step anew.
        by_another = self.law.begun.get((operation.digest, tool)) != ctx.epoch
        found = self._against(operation) if by_another else []
        status = operation.status.steps[ctx.step - 1]
        if operation.phase != "Running" or status.state != "Running" or status.attempt != ctx.attempt:
            found.append(f"its intent is not in the journal ({operation.phase}, {status.state}, {status.attempt})")
        if (operation.digest, tool) in self.law.acted:
            found.append("it was done before")
        if operation.status.epoch != ctx.epoch:
            found.append(f"the journal belongs to leader {operation.status.epoch}, not {ctx.epoch}")
        told = [record.entry for record in self.audit.trail if record.entry.digest == operation.digest]
        if not any(entry.action is AuditAction.APPROVE for entry in told):
            found.append("the trail has no decision")
        self.law.broken += [f"{tool} of {ctx.operation}: {what}" for what in found]
        self.law.acted.append((operation.digest, tool))

    def _against(self, operation: Operation) -> list[str]:
        """What forbids, at this moment, that a Dangerous step of it begins (or is taken up by a new leader)."""
        law, box, digest = self.law, self.box, operation.digest
        if box is None or box.uid != operation.spec.resource_ref.uid:
            return ["its object does not exist"]
        found = [*self._against_decision(operation)]
        if digest in law.rejected:
            found.append("it was rejected")
        if digest in law.closed:
            found.append("it was over before")
        if box.paused:
            found.append("the object is paused")
        if box.deleting != operation.spec.while_deleting:
            found.append("the object is being deleted" if box.deleting else "the object is not being deleted")
        wanted = [step.parameters["content"] for step in operation.spec.steps if "content" in step.parameters]
        if wanted and wanted[-1] != box.spec.content:
            found.append("the spec has changed")
        return found

    def _against_decision(self, operation: Operation) -> list[str]:
        """A policy counts when the plan begins; a human's word too, and it grows old until then."""
        law, digest = self.law, operation.digest
        if digest in law.let_go:
            return []
        law.let_go.add(digest)
        if self.policies:
            return []
        if digest not in law.approved_at:
            return ["nobody approved it"]
        late = asyncio.get_running_loop().time() - law.approved_at[digest] > TTL
        return ["its approval had expired"] if late else []

    async def judge_the_end(self) -> None:
        """What must be so after every sequence, whatever was done in it."""
        self._judge_ways()
        self._judge_names()
        anchors = {op.status.audit_head: op.metadata.name for op in self.latest() if op.status.audit_head}
        verdict = await verify(self.audit.records(), anchors)
        if not isinstance(verdict, Verified):
            self.law.broken.append(str(verdict))
        running = [op.metadata.name for op in self.operations() if op.phase == "Running"]
        if running and not (self.box and self.box.paused):
            self.law.broken.append(f"{running} never ends")

    def _judge_ways(self) -> None:
        """Between two restores every operation goes a way of the table.

        A creation that was given up may arrive when the Operation is over and was collected: that is another object
        of the name. It begins the table anew, and may only end.
        """
        for number, chapter in enumerate((*self.chapters, self.diary.operations)):
            for name, states in chapter.items():
                begun: list[Operation | None] = [None] if number == 0 else []
                late = False
                for one, next in pairwise([*begun, *states]):
                    came = bool(one and next and one.phase.closed and one.metadata.uid != next.metadata.uid)
                    late = late or came
                    before = one.phase if one and not came else None
                    if next and next.phase not in NEXT.get(before, frozenset({before})):
                        self.law.broken.append(f"{name} went from {before} to {next.phase}")
                    if late and next and next.phase is OperationPhase.RUNNING:
                        self.law.broken.append(f"{name} was over, was created late, and runs")

    def _judge_names(self) -> None:
        """A name stands for one plan and a digest for one operation, also when the past comes back."""
        plans, names = defaultdict(set), defaultdict(set)
        for chapter in (*self.chapters, self.diary.operations):
            for name, states in chapter.items():
                plans[name].add(states[0].digest)
                names[states[0].digest].add(name)
        if twice := [name for name, digests in plans.items() if len(digests) > 1]:
            self.law.broken.append(f"{twice} stands for two plans")
        if shared := [digest for digest, owners in names.items() if len(owners) > 1]:
            self.law.broken.append(f"{shared} stands for two operations")

    # ---- where it is

    def place(self) -> tuple[Any, ...]:
        """Everything that decides how it can go on, so that equal situations are explored once."""
        box, shelf, now = self.box, self.shelf.box, asyncio.get_running_loop().time()
        seen: tuple[Any, ...] = ()
        if box is not None:
            stamp = box.annotation(Annotation.DECISION).split(" ")
            said = (stamp[0], *(self._digest(digest) for digest in stamp[1:2]))
            told = tuple(c.type for c in box.status.conditions if c.status == "True")
            seen = (box.spec.content, box.deleting, box.paused, said, told, self._digest(self.waits() or ""))
        busy = (shelf.doing, round(shelf.until - now)) if now < shelf.until else ()
        old = self._digest(self.shown[0]) if self.shown else ()
        running = self.running_backup and tuple(self._digest(d) for d in self._open_in(self.running_backup))
        ways = tuple(sorted(self._digest(op.digest) for op in self.operations() if not op.phase.closed))
        ended = tuple(sorted({op.phase.value for op in self.latest() if op.phase.closed}))
        fresh = now - self.began_at < 2 * SETTLE
        return (
            seen,
            shelf.exists,
            shelf.on,
            shelf.content,
            busy,
            old,
            running,
            ways,
            ended,
            (self.policies > 0, self.cluster.faults.drop_events > 0, fresh),
        )

    def _open_in(self, backup: Any) -> list[str]:
        return [item["spec"]["digest"] for item in backup.values() if item["kind"] == "Operation"]

    def _digest(self, digest: str) -> tuple[Any, ...]:
        """What is known of a digest, without its name."""
        latest = [op for op in self.latest() if op.digest == digest]
        if not latest:
            return (bool(digest),)
        operation, law = latest[0], self.law
        contents = tuple(str(step.parameters.get("content")) for step in operation.spec.steps)
        steps = tuple(step.state.value for step in operation.status.steps)
        noted = operation.status.decision.verdict if operation.status.decision else ""
        said = (digest in law.approved_at, digest in law.rejected, digest in law.closed)
        now = asyncio.get_running_loop().time()
        late = now - law.approved_at.get(digest, now) > TTL
        return (operation.phase.value, operation.spec.cause.trigger.value, contents, steps, noted, *said, late)


# ---- actions


async def _approve(world: GadgetWorld) -> None:
    if digest := world.waits():
        await _say(world, approve=digest)


async def _approve_paused(world: GadgetWorld) -> None:
    """In one request: it is approved, and may not begin."""
    if digest := world.waits():
        await _say(world, approve=digest, paused="true")


async def _approve_old(world: GadgetWorld) -> None:
    if world.shown:
        await _say(world, approve=world.shown[0])


async def _reject(world: GadgetWorld) -> None:
    box = world.box
    if box and box.status.plan and box.status.plan.digest:
        await _say(world, reject=box.status.plan.digest)


async def _say(world: GadgetWorld, **annotations: str | None) -> None:
    await world.annotate(NAME, as_=world.ann, kind=Gadget, **dict.fromkeys(annotations))
    await world.annotate(NAME, as_=world.ann, kind=Gadget, **annotations)
    if box := world.box:
        world.hear(box.annotation(Annotation.DECISION))


async def _edit(world: GadgetWorld) -> None:
    await world.edit(NAME, kind=Gadget, content="c")


async def _edit_back(world: GadgetWorld) -> None:
    box = world.box
    await world.edit(NAME, kind=Gadget, content="a" if box and box.spec.content == "b" else "b")


async def _drift(world: GadgetWorld) -> None:
    world.shelf.box.on = False
    await world.annotate(NAME, kind=Gadget, as_=world.erin, reconcile_at=f"t{asyncio.get_running_loop().time()}")


async def _pause(world: GadgetWorld) -> None:
    box = world.box
    await world.annotate(NAME, kind=Gadget, as_=world.erin, paused=None if box and box.paused else "true")


async def _policy(world: GadgetWorld) -> None:
    if world.policies:
        await world.ann.delete(ApprovalPolicy.info.type, NAMESPACE, "all")
    else:
        await world.apply("ApprovalPolicy", "all", {"resources": ["gadgets"], "maxRisk": "Dangerous"}, api=world.ann)


async def _delete(world: GadgetWorld) -> None:
    await world.delete(NAME, kind=Gadget)


async def _restart(world: GadgetWorld) -> None:
    await world.replaced()


async def _restore_waiting(world: GadgetWorld) -> None:
    await world.replaced(world.waiting_backup)


async def _restore_running(world: GadgetWorld) -> None:
    if world.running_backup is not None:
        await world.replaced(world.running_backup)


async def _blind(world: GadgetWorld) -> None:
    """The watch dies: from now on the operator is told nothing."""
    world.cluster.faults.drop_events = 1_000_000


async def _late(world: GadgetWorld) -> None:
    await asyncio.sleep(TTL + 60.0)


async def _wait(world: GadgetWorld) -> None:
    await asyncio.sleep(STEP_SECONDS)


ACTIONS: dict[str, Callable[[GadgetWorld], Awaitable[None]]] = {
    "approve": _approve,
    "approve-paused": _approve_paused,
    "approve-old": _approve_old,
    "reject": _reject,
    "edit": _edit,
    "edit-back": _edit_back,
    "drift": _drift,
    "pause": _pause,
    "policy": _policy,
    "delete": _delete,
    "restart": _restart,
    "restore-waiting": _restore_waiting,
    "restore-running": _restore_running,
    "late": _late,
    "wait": _wait,
    "blind": _blind,
}


# ---- every order


@dataclass(frozen=True, kw_only=True)
class Went:
    """How a sequence went."""

    place: tuple[Any, ...]
    acted: tuple[str, ...]
    """The Dangerous steps that acted, in order."""
    broken: tuple[str, ...]


def go(actions: Sequence[str], parts: Parts = Parts()) -> Went:
    """A box with a plan that waits; then the actions; then what comes of it all."""

    async def went() -> Went:
        world = GadgetWorld(parts)
        try:
            return await _went(world, actions)
        finally:
            world.life.die()
            await world.life.bury()

    return live(went)


async def _went(world: GadgetWorld, actions: Sequence[str]) -> Went:
    world.take_over()
    await world.apply("Gadget", NAME, {"content": "a", "management": {"approvalTTL": f"{TTL:.0f}s"}})
    await world.settle()
    await world.edit(NAME, kind=Gadget, content="b")
    await world.settle()
    for action in actions:
        with contextlib.suppress(NotFound):  # the box is gone: nothing more can be said about it
            await ACTIONS[action](world)
        await world.settle()
    place = world.place()
    await world.settle(LONG)
    await world.judge_the_end()
    acted = tuple(tool for _, tool in world.law.acted)
    return Went(place=place, acted=acted, broken=tuple(dict.fromkeys(world.law.broken)))


def explore(
    depth: int,
    parts: Parts = Parts(),
    *,
    beginning: tuple[str, ...] = (),
    stop_at_first: bool = False,
    crew: Crew = map,
) -> tuple[int, dict[str, str]]:
    """Every sequence up to that length, equal situations once: how many were gone, and what was broken where."""
    start = go(beginning, parts)
    known, gone = {start.place}, 1
    frontier: list[tuple[str, ...]] = [beginning]
    broken: dict[str, str] = {what: " > ".join(beginning) or "at the start" for what in start.broken}
    for _ in range(depth):
        further: list[tuple[str, ...]] = []
        orders = [(*before, action) for before in frontier for action in ACTIONS]
        for actions, went in zip(orders, crew(partial(go, parts=parts), orders), strict=True):
            gone += 1
            broken |= {what: " > ".join(actions) for what in went.broken if what not in broken}
            if broken and stop_at_first:
                return gone, broken
            if went.place not in known:
                known.add(went.place)
                further.append(actions)
        frontier = further
    return gone, broken
