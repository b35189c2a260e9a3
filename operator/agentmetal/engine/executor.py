"""The executor: carries approved operations out, one step at a time, as tasks outside the workers. Called by the loop.

It has each step permitted, writes the intent before the effect, and gives every ending as a value. After a
crash the loop starts it again on the same operation; a step that cannot be repeated safely is then in doubt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from weakref import WeakValueDictionary

from agentmetal.core.clock import Clock
from agentmetal.core.condition import Reason
from agentmetal.core.errors import AgentMetalError, StaleLeader
from agentmetal.core.operation import ApprovalPolicy, Operation, OperationPhase, StepState
from agentmetal.core.resource import AnyResource, ApiModel, Key
from agentmetal.core.risk import Risk
from agentmetal.core.tool import AnyTool, InDoubt, Result, StepEnd
from agentmetal.engine.agent import AnyAgent, Observed
from agentmetal.engine.approval import Approved, Decide, Rejected, Verdict, decide
from agentmetal.engine.attempts import Attempts
from agentmetal.engine.explain import taken_up
from agentmetal.engine.fit import StillFits, still_fits
from agentmetal.engine.gate import Gate, Hold, Objects, Stop
from agentmetal.engine.ledger import DigestUsed, Ledger
from agentmetal.engine.locks import Locks
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.permission import Permission
from agentmetal.engine.run import (
    AUDIT_LOOK,
    AskAgain,
    Contexts,
    Draining,
    Ending,
    Left,
    Outgrown,
    Run,
    StepFailed,
    look,
)
from agentmetal.engine.trail import AuditUnavailable

FRESH = timedelta(seconds=5)
"""A Safe or Moderate plan may begin on an observation this young."""
CLEAN_UP = 10.0
"""Seconds for dropping what recovery no longer needs: the next plan waits for it, maybe a teardown."""

log = logging.getLogger("agentmetal.executor")


class Executor:
    """Carries operations out. Starting one that runs is harmless."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        gate: Gate,
        objects: Objects,
        tools: Mapping[str, AnyTool],
        contexts: Contexts,
        policies: Callable[[str], Iterable[ApprovalPolicy]],
        clock: Clock,
        metrics: Metrics,
        wake: Callable[[Key, float], None],
        lost: Callable[[StaleLeader], None],
        parallel: int = 64,
        decide: Decide = decide,
        still_fits: StillFits = still_fits,
    ) -> None:
        self._ledger = ledger
        self._decide = decide
        self._still_fits = still_fits
        self.permission = Permission(gate, tools)
        self._objects = objects
        self._tools = tools
        self._contexts = contexts
        self._policies = policies
        self._clock = clock
        self._metrics = metrics
        self._wake = wake
        self._lost = lost
        self._parallel = parallel
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """By provider account: one that is silent must not hold up what others are asked."""
        self._locks = Locks()
        self._runs: dict[str, Run] = {}

    def run_of(self, uid: str) -> Run | None:
        """What is being carried out for an object."""
        return self._runs.get(uid)

    def start(
        self, agent: AnyAgent, resource: AnyResource, operation: Operation, observed: Observed | None = None
    ) -> None:
        """Begin or resume an operation. Does nothing when the object's operation runs already, or at shutdown."""
        if resource.uid in self._runs or self.permission.draining:
            return
        run = Run(
            key=resource.key,
            agent=agent,
            resource=resource,
            operation=operation,
            observed=observed,
            wake=self._wake,
        )
        self._runs[resource.uid] = run
        run.task = asyncio.create_task(self._run(run), name=f"operation {operation.metadata.name}")

    def nudge(self, uid: str, *, stop: str = "") -> None:
        """Something changed (deleted, paused, approved, rejected, edited): look at once, not at the next turn."""
        if run := self._runs.get(uid):
            run.stop_request = stop or run.stop_request
            run.nudge.set()

    async def drain(self, timeout: float, *, grace: float) -> None:
        """Begin no further step, and let current ones end by their nature.

        What can be called again has `grace` seconds and is then left to the next leader: its command lives on at its
        host. What cannot be called again is waited for, `timeout` seconds at most.
        """
        self.permission.draining = True
        for run in self._runs.values():
            run.nudge.set()
        await self._leave_after(grace, lambda run: not run.bound)
        await self._leave_after(timeout - grace, lambda run: True)

    async def _leave_after(self, seconds: float, which: Callable[[Run], bool]) -> None:
        """Wait for all, then end those."""
        running = {run.task: run for run in self._runs.values() if run.task}
        if not running:
            return
        _, pending = await asyncio.wait(running, timeout=max(0.0, seconds))
        left = [task for task in pending if which(running[task])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # ---- one operation

    async def _run(self, run: Run) -> None:
        delay = 0.0
        try:
            if not run.operation.phase.waiting or await self._admitted(run):
                await self._carry_out(run)
                await self._clean_up(run)
        except Draining:
            await self._hand_over(run)
        except StaleLeader as error:
            self._lost(error)
        except AgentMetalError as error:  # the edge: no answer means no step; the loop tries again
            log.warning("%s of %s waits: %s", run.operation.metadata.name, run.key, error)
            delay = 2.0
        except Exception as error:
            log.exception("%s of %s ended by a bug", run.operation.metadata.name, run.key)
            delay = await self._end_by_bug(run, error)
        finally:
            self._runs.pop(run.resource.uid, None)
            self._wake(run.key, delay)

    async def _end_by_bug(self, run: Run, error: Exception) -> float:
        """Close it, if nobody else has; when to look at the object again."""
        if run.operation.phase.closed:  # what is over stays as it ended
            return 0.0
        message = f"bug: {type(error).__name__}: {error}"
        try:
            run.operation = await self._ledger.close(run.operation, OperationPhase.FAILED, message)
        except StaleLeader as stale:
            self._lost(stale)
        except AgentMetalError as refused:
            log.error("%s stays open: %s", run.operation.metadata.name, refused)
            return 2.0
        return 0.0

    async def _hand_over(self, run: Run) -> None:
        """What this process knows of the operation is written: the next leader calls nothing that has ended."""
        log.info("%s is left for the next leader", run.operation.metadata.name)
        try:
            run.operation = await self._ledger.keep(run.operation)
        except AgentMetalError as error:
            log.warning("%s is left as its journal says: %s", run.operation.metadata.name, error)

    async def _admitted(self, run: Run) -> bool:
        """Begin as soon as the audit trail can record it."""
        while True:
            try:
                return await self._admit(run)
            except AuditUnavailable as error:
                run.hold(Hold(reason=Reason.AUDIT_UNAVAILABLE, message=error.message))
            run.nudge.clear()
            await run.pause(AUDIT_LOOK)

    async def _admit(self, run: Run) -> bool:
        """Look at everything once more, freshly, before the first step; then use the approval up."""
        operation = run.operation
        resource = await self._objects.read(run.key)
        if resource is None or resource.uid != operation.spec.resource_ref.uid:
            await self._ledger.supersede(operation, "the object does not exist any more")
            return False
        verdict = await self._verdict(operation, resource)
        if resource.paused or not isinstance(verdict, Approved):
            return False
        run.resource = resource
        observed = await self._fresh(run)
        if not self._still_fits(run.agent, operation, resource, observed):
            same_spec = resource.metadata.generation == operation.spec.generation
            why = "the world has changed since it was planned" if same_spec else "the spec has changed"
            await self._ledger.supersede(operation, why, counts=same_spec)
            return False
        if self.permission.draining:  # an approval that is used up now would be lost to the next leader
            raise Draining
        try:
            run.operation = await self._ledger.begin(operation, verdict)
        except DigestUsed as error:
            await self._ledger.supersede(operation, error.message)
            return False
        return True

    async def _verdict(self, operation: Operation, resource: AnyResource) -> Verdict:
        """What lets it run. What policies say of it (approve, or demand a human) is read anew: a watch may be late."""
        namespace, now = resource.metadata.namespace, self._clock.now()
        verdict = self._decide(operation, resource, self._policies(namespace), now)
        by_policy = verdict.via != "Annotation" if isinstance(verdict, Approved) else False
        if by_policy and operation.spec.risk.exceeds(Risk.SAFE):
            return self._decide(operation, resource, await self._objects.read_policies(namespace), now)
        return verdict

    async def _fresh(self, run: Run) -> Observed:
        seen = run.observed
        risky = run.operation.spec.risk.exceeds(Risk.MODERATE)
        if seen is not None and not risky and timedelta(0) <= self._clock.now() - seen.at < FRESH:
            return seen
        return await look(run.agent, run.resource)

    async def _carry_out(self, run: Run) -> None:
        for index, step in enumerate(run.operation.spec.steps):
            if run.operation.status.steps[index].state in (StepState.SUCCEEDED, StepState.SKIPPED):
                continue
            began = asyncio.get_running_loop().time()
            ending = await self._step(run, index)
            self._metrics.stepped(step.tool, type(ending).__name__, asyncio.get_running_loop().time() - began)
            if not await self._go_on(run, index, ending):
                return
        count = len(run.operation.spec.steps)
        last = run.operation.status.steps[-1].result or ""
        done = f"{count} of {count} steps done{taken_up(run.operation)}. {last}".strip()
        run.operation = await self._ledger.close(run.operation, OperationPhase.SUCCEEDED, done)

    async def _clean_up(self, run: Run) -> None:
        """Drop what recovery no longer needs, once the journal says that the operation is closed. Best effort."""
        if not run.operation.phase.closed:
            return
        for index, spec in enumerate(run.operation.spec.steps):
            tool = self._tools.get(spec.tool)
            if tool is None or tool.clean_up is None or run.operation.status.steps[index].state is StepState.PENDING:
                continue
            context = self._contexts(run.resource, run.operation, index + 1, 0)
            try:
                async with asyncio.timeout(CLEAN_UP):
                    await tool.clean_up(context, tool.parse(spec.parameters))
            except (AgentMetalError, TimeoutError) as error:
                log.info("units of %s stay on the host: %s", run.operation.metadata.name, error)

    async def _go_on(self, run: Run, index: int, ending: Ending) -> bool:
        """Record how a step ended. True: the next one follows."""
        ledger, operation = self._ledger, run.operation
        match ending:
            case Result(message=message):
                run.operation = ledger.stepped(operation, index, StepState.SUCCEEDED, message)
                return True
            case StepFailed(message=message):
                run.operation = ledger.stepped(operation, index, StepState.FAILED, message)
                if operation.spec.steps[index].optional:
                    return True
                text = f"step {index + 1}, {operation.spec.steps[index].description}: {message}"
                run.operation = await ledger.close(run.operation, OperationPhase.FAILED, text)
            case InDoubt(message=message):
                run.operation = await ledger.block(operation, index, message)
            case Left(stop=stop):
                run.operation = await self._leave(operation, stop)
            case Outgrown(message=message):
                run.operation = await ledger.supersede(operation, message)
        return False

    async def _leave(self, operation: Operation, stop: Stop) -> Operation:
        # What the journal says, not `operation`, which was let begin: a step whose intent was taken back is Pending.
        begun = self._ledger.running(operation.spec.resource_ref.uid) is not None
        if stop.rejected_by:
            phase = OperationPhase.CANCELLED if begun else OperationPhase.REJECTED
            note = self._goes_on(operation)
            return await self._ledger.reject(operation, Rejected(by=stop.rejected_by), phase, note=note)
        if begun:
            return await self._ledger.close(
                operation, OperationPhase.CANCELLED, stop.message + self._goes_on(operation)
            )
        return await self._ledger.supersede(operation, stop.message)

    def _goes_on(self, operation: Operation) -> str:
        """What a human must know of a step that is left in its middle; empty when nothing of it can be on a host."""
        for number, (spec, step) in enumerate(zip(operation.spec.steps, operation.status.steps, strict=True), start=1):
            tool = self._tools.get(spec.tool)
            if step.state is StepState.RUNNING and tool is not None and tool.clean_up is not None:
                units = f"agentmetal-{operation.metadata.name}-{number}-*"
                return f"; step {number} had begun, a command of it may still run: see systemctl status '{units}' there"
        return ""

    # ---- one step

    async def _step(self, run: Run, index: int) -> Ending:
        spec, status = run.operation.spec.steps[index], run.operation.status.steps[index]
        run.note = ""  # what the step before waited for is no trouble of this one
        tool, begun = self._tools.get(spec.tool), status.state is StepState.RUNNING
        if tool is None:
            return _foreign(f"this version has no tool {spec.tool!r}", begun=begun)
        if begun and not tool.idempotent:
            return InDoubt(message=f"{spec.description}: it was begun, and whether it was done cannot be known")
        try:
            params = tool.parse(spec.parameters)
        except AgentMetalError as error:
            return _foreign(error.message, begun=begun)
        return await Attempts(self, run, index, tool, params, begun=begun).until_ended()

    async def call(
        self, run: Run, index: int, tool: AnyTool, params: ApiModel, attempt: int, *, begun: bool
    ) -> StepEnd | StepFailed | Outgrown | AskAgain:
        """One call of the tool; unless it was begun before, on fresh facts and after its intent was written."""
        context = self._contexts(run.resource, run.operation, index + 1, attempt)
        async with asyncio.timeout(tool.timeout):
            if not begun:
                facts = await tool.read(context, params)
                risk, approved = tool.risk(params, facts), run.operation.spec.steps[index].risk
                if risk.exceeds(approved):
                    return Outgrown(message=f"{tool.name} is {risk} now, {approved} was approved: {facts}")
                if refusal := tool.holds(params, facts):
                    return StepFailed(message=refusal.message)
        if not begun:
            bound, run.bound = run.bound, run.bound or not tool.idempotent
            try:
                run.operation = await self._ledger.intend(run.operation, index, attempt, error=run.note or None)
            except AuditUnavailable:  # then nothing was written either
                run.bound = bound
                raise
            if not await self.permission.still_goes(run, index):
                run.operation = await self._ledger.take_back(run.operation, index)
                run.bound = False
                return AskAgain()
            run.bound = not tool.idempotent
        async with asyncio.timeout(tool.timeout):
            return await tool.run(context, params)

    @asynccontextmanager
    async def held(self, run: Run, tool: AnyTool, params: ApiModel) -> AsyncIterator[None]:
        """A place among the parallel calls, and the locks of the step."""
        account = f"{run.key.namespace}/{getattr(params, 'provider', '')}"
        slots = self._slots.setdefault(account, asyncio.Semaphore(self._parallel))  # as long as anybody uses them
        async with self._locks.hold((f"resource/{run.resource.uid}", *tool.locks(params))), slots:
            yield


def _foreign(why: str, *, begun: bool) -> StepFailed | InDoubt:
    """A step that another version planned and this one cannot call. What that version began may still be going on."""
    if begun:
        return InDoubt(message=f"another version began it, and whether it was done cannot be known here: {why}")
    return StepFailed(message=f"{why}: annotate agentmetal.io/replan")
