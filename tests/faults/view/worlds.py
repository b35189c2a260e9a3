"""Worlds of the sweeps whose operator sees badly. It is started again when it ends itself, as a Deployment would.

`ViewWorld` is a `SweepWorld` (Instances) and `ViewGadgets` a `GadgetWorld`: the same stories, people and laws. Beside
them stands the second net that the process has: a comparison every five minutes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.faults.view.lying import LyingApi, Rumours
from tests.support.system import NAMESPACE, Process, TestLeader
from tests.sweep.decisions import GadgetWorld
from tests.sweep.mortal import Crash, Life
from tests.sweep.world import SweepWorld

from agentmetal.app import Core, Parts, World
from agentmetal.core.errors import AgentMetalError, Gone, StaleLeader
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import Annotation
from agentmetal.core.risk import Risk
from agentmetal.core.tool import ToolContext
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.permission import GO_LASTS
from agentmetal.kube.memory.admission import CONTROLLER_MANAGER
from agentmetal.process import COMPARE_EVERY

AT_ONCE = 400
"""Calls in one moment of virtual time: more is a loop that waits for nothing."""
RESTARTS_AFTER = 2.0


@dataclass(frozen=True, kw_only=True)
class Read:
    """One answer to a read of an object."""

    number: int
    """How many calls there were."""
    at: float
    body: dict[str, Any]


@dataclass(kw_only=True)
class Heard:
    """What the operator asked and was answered, in order."""

    calls: list[str] = field(default_factory=list)
    at_once: Counter[float] = field(default_factory=Counter)
    hot: list[str] = field(default_factory=list)
    """What was asked when it went round and round."""
    reads: dict[str, Read] = field(default_factory=dict)
    """The newest read of an object by each task that carries an operation out; by the task's name."""
    policies: list[dict[str, Any]] | None = None
    """What the newest LIST of policies held."""


class SeesBadly(SweepWorld):
    """What is common to both worlds. Comes first among the bases."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heard = Heard()
        self.rumours = Rumours()
        self.ended: list[str] = []
        """Why processes ended themselves."""
        touching = self.cluster.api(CONTROLLER_MANAGER)
        self.lying = LyingApi(self.cluster.api(), touching, self._hear)
        self.operator_api: KubeApi = self.lying

    def begin(self) -> None:
        """Crashes are another test's business."""

    def one_after_another(self) -> Iterator[Life]:
        """One after the other, for ever."""
        while not self.heard.hot:
            yield Life(armed=False)

    def stand_on(self, leader: TestLeader, metrics: Metrics, lost: Callable[[StaleLeader], None]) -> World:
        life = self.life

        def give_up(error: StaleLeader) -> None:
            lost(error)
            self._end(life, str(error))

        return super().stand_on(leader, metrics, give_up)

    async def start(self, *, workers: int = 4) -> Process:
        """As `process.run`: what fails while it starts, or fails at all, ends it."""
        life = self.life
        self.heard.reads.clear()
        self.heard.policies = None
        try:
            process = await super().start(workers=workers)
        except AgentMetalError as error:
            await asyncio.sleep(RESTARTS_AFTER)
            self._end(life, f"while it started: {error}")
            raise Crash from error
        process.tasks.append(asyncio.create_task(self._compare(process.core)))
        for task in process.tasks:
            task.add_done_callback(lambda task: self._failed(life, task))
        return process

    def _failed(self, life: Life, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and not life.died.is_set():
            self._end(life, repr(task.exception()))

    def _end(self, life: Life, why: str) -> None:
        if not life.died.is_set():
            self.ended.append(why)
            life.die()

    async def _compare(self, core: Core) -> None:
        """The second net under the watch, as `process` has it."""
        while True:
            await asyncio.sleep(COMPARE_EVERY)
            try:
                await core.compare()
            except AgentMetalError:
                continue

    # ---- the watch

    async def _watch(self, core: Core, api: KubeApi, kind: Any) -> None:
        """As kopf does: LIST, then WATCH from there, again from the last version when it ends, LIST after a 410."""
        true = self.cluster.api()
        while True:
            listing = await true.list(kind)
            for body in listing.items:
                core.event(None, body)
            version = listing.resource_version
            try:
                while True:
                    async for event in true.watch(kind, resource_version=version):
                        seen = event.object["metadata"]["resourceVersion"]
                        if int(seen) <= int(version):  # a server that knows only older ones says nothing of them
                            continue
                        version = seen
                        if event.type != "BOOKMARK":
                            self._spread(core, event)
            except Gone:
                continue

    def _spread(self, core: Core, event: Any) -> None:
        life, loop = self.life, asyncio.get_running_loop()

        def tell() -> None:
            if not life.died.is_set():
                core.event(event.type, event.object)

        for delay in self.rumours.deliveries(event):
            if delay:
                loop.call_later(delay, tell)
            else:
                tell()

    def tell_of_the_past(self, past: dict[Any, dict[str, Any]]) -> None:
        """A 410 and a LIST from a replica that lags: what was, as if it were now, and nothing of what is gone."""
        if self.life.died.is_set() or not self.processes:
            return
        kinds = {self.kind.info.kind, ApprovalPolicy.info.kind, "Provider"}
        for body in past.values():
            if body["kind"] in kinds:
                self.processes[-1].core.event(None, body)

    # ---- what was heard

    def _hear(self, what: str, answer: Any) -> None:
        heard, now = self.heard, asyncio.get_running_loop().time()
        if answer is None:
            heard.calls.append(what)
            heard.at_once[now] += 1
            if heard.at_once[now] > AT_ONCE:
                heard.hot.append(what)
                self.life.die()
                raise Crash(what)
        elif what.startswith(f"got {self.kind.info.plural} "):
            task = asyncio.current_task()
            assert task, "who asks?"
            heard.reads[task.get_name()] = Read(number=len(heard.calls), at=now, body=answer)
        elif what == f"listed {ApprovalPolicy.info.plural}":
            heard.policies = list(answer.items)


class ViewWorld(SeesBadly):
    """Instances and Providers."""


class ViewGadgets(SeesBadly, GadgetWorld):
    """One box in which everything can be decided."""

    def __init__(self, parts: Parts = Parts()) -> None:
        super().__init__(parts)
        self.began: set[str] = set()
        self.acts: dict[str, int] = {}
        """Digest -> how many calls there were when a Dangerous step of it last acted."""

    def take_over(self) -> None:
        """Processes follow each other by themselves here."""

    def _against(self, operation: Operation) -> list[str]:
        """What forbids the intent of a Dangerous step. The way to the act may be long: stops are judged there."""
        return [*self._against_decision(operation), *["it was over before"] * (operation.digest in self.law.closed)]

    def _judge(self, tool: str, ctx: ToolContext) -> None:
        super()._judge(tool, ctx)
        body = self.cluster.peek(Operation.info.type, NAMESPACE, ctx.operation)
        if body is not None:
            stops = self._stops(Operation.model_validate(body))
            self.law.broken += [f"{tool} of {ctx.operation}: {what}" for what in stops]

    def _stops(self, operation: Operation) -> list[str]:
        """What forbids that a Dangerous step of it acts now: by what the API server had answered to its own read.

        A stop that comes after this read is heard at the next boundary: that is all that is promised. What others of
        the process read meanwhile (for status) is not the step's own.
        """
        read = self.heard.reads.get(f"operation {operation.metadata.name}")
        before, self.acts[operation.digest] = self.acts.get(operation.digest, 0), len(self.heard.calls)
        if read is None or read.number <= before:
            return ["the object was not read with quorum before this step"]
        found = []
        if (age := asyncio.get_running_loop().time() - read.at) > GO_LASTS:
            found.append(f"the object was read {age:.1f} s ago")
        box = self.kind.model_validate({"status": {}, **read.body})
        if box.uid != operation.spec.resource_ref.uid:
            return [*found, "its object does not exist"]
        if box.annotation(Annotation.DECISION).startswith(f"reject {operation.digest} "):
            found.append("it was rejected")
        if box.paused:
            found.append("the object is paused")
        if box.deleting != operation.spec.while_deleting:
            found.append("the object is being deleted" if box.deleting else "the object is not being deleted")
        wanted = [step.parameters["content"] for step in operation.spec.steps if "content" in step.parameters]
        if wanted and wanted[-1] != box.spec.content:
            found.append("the spec has changed")
        return found

    @property
    def policies(self) -> int:
        """How many approve in advance, as the operator's own newest LIST said."""
        return sum(not body["spec"].get("require") for body in self.heard.policies or ())

    def _keep(self, operation: Operation) -> None:
        first = operation.digest not in self.began and operation.phase == "Running" and operation.spec.steps
        super()._keep(operation)
        if not first:
            return
        self.began.add(operation.digest)
        demanded = any(body["spec"].get("require") for body in self.heard.policies or ())
        if demanded and operation.spec.risk is Risk.MODERATE and operation.digest not in self.law.approved_at:
            self.law.broken.append(f"{operation.metadata.name}: a policy demands approval, and nobody gave it")


__all__ = ["NAMESPACE", "SeesBadly", "ViewGadgets", "ViewWorld"]
