"""The loop: observe, diff, plan, decide. Called by the queue's workers with a key; it never awaits execution.

A pass ends in one Outcome, which `publish` turns into status. Exceptions become outcomes here and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from agentmetal.core.clock import Clock
from agentmetal.core.condition import Reason
from agentmetal.core.errors import AgentMetalError, StaleLeader
from agentmetal.core.operation import ApprovalPolicy, OperationPhase
from agentmetal.core.outcome import AwaitingApproval, Outcome, Preview, Progressing
from agentmetal.core.resource import AnyResource, Key
from agentmetal.engine import fit, run, verbs
from agentmetal.engine.agent import AnyAgent, Observed
from agentmetal.engine.approval import Approved, Decide, Expired, Rejected, Waiting, decide, without_human
from agentmetal.engine.busy import Busy
from agentmetal.engine.executor import Executor
from agentmetal.engine.gate import Objects
from agentmetal.engine.gone import Gone
from agentmetal.engine.ledger import Ledger
from agentmetal.engine.publish import Publisher
from agentmetal.engine.view import View, failed_by, failed_by_bug

log = logging.getLogger("agentmetal.reconcile")


class Reconciler:
    """One pass for one object."""

    def __init__(
        self,
        *,
        agents: Mapping[str, AnyAgent],
        objects: Objects,
        ledger: Ledger,
        executor: Executor,
        policies: Callable[[str], Iterable[ApprovalPolicy]],
        publisher: Publisher,
        clock: Clock,
        decide: Decide = decide,
    ) -> None:
        self._agents = agents
        self._objects = objects
        self._ledger = ledger
        self._executor = executor
        self._policies = policies
        self._publisher = publisher
        self._clock = clock
        self._decide = decide
        self._busy = Busy(ledger, executor)
        self._gone = Gone(agents, ledger, self._busy, publisher)

    async def reconcile(self, key: Key) -> Outcome | None:
        """Look at one object and do what it needs next. None: it is gone."""
        await self._gone.passed(key, resource := self._objects.cached(key))
        if resource is None:
            return None
        agent, view = self._agents[key.kind], View()
        try:
            outcome = await self._pass(agent, resource, view)
        except StaleLeader:
            raise
        except AgentMetalError as error:
            outcome = failed_by(error)
        except Exception as error:
            log.exception("the pass of %s ended by a bug", key)
            outcome = failed_by_bug(error)
        self._publisher.publish(resource, view, outcome)
        return outcome

    async def _pass(self, agent: AnyAgent, resource: AnyResource, view: View) -> Outcome:
        await self._ledger.catch_up(resource)
        await verbs.replan(resource, self._ledger)
        if under_way := await self._busy.forward(agent, resource):
            return under_way
        if missing := agent.waits_for(resource):
            view.missing = missing
            await verbs.note_approval(resource, self._ledger)
            return Progressing(reason=missing.reason, message=missing.message, again_in=60)
        observed = view.see(agent, resource, await run.look(agent, resource))
        policies = tuple(self._policies(resource.metadata.namespace))
        need = self._need(agent, resource, observed, policies)
        if not need.plan:
            return await self._publisher.settled(resource)
        if held := await verbs.held(resource, need.plan, self._ledger):
            return held
        if resting := verbs.resting(resource, need, self._ledger, self._clock.now()):
            return resting
        operation = await self._ledger.open(
            resource,
            need.plan,
            needs_human=isinstance(without_human(need.plan, resource, policies), Waiting),
            issue=need.issue.type.value if need.issue else None,
        )
        match self._decide(operation, resource, policies, self._clock.now()):
            case Approved():
                self._executor.start(agent, resource, operation, observed)
                return Progressing(reason=Reason.PLAN_RUNNING, message=need.plan.reasoning, operation=operation)
            case Waiting():
                return AwaitingApproval(operation=operation)
            case Rejected() as verdict:
                await self._ledger.reject(operation, verdict)
                return Preview(plan=need.plan, reason=Reason.PLAN_REJECTED, message=f"rejected by {verdict.by}")
            case Expired(by=by):
                await self._ledger.close(operation, OperationPhase.EXPIRED, f"{by}'s approval was not used in time")
                return Progressing(reason=Reason.PLAN_EXPIRED, message="it is planned anew", again_in=0)

    def _need(
        self, agent: AnyAgent, resource: AnyResource, observed: Observed, policies: Iterable[ApprovalPolicy]
    ) -> fit.Wanted:
        """The plan. While a teardown waits for a human or was refused, the object still lives, so it is healed."""
        need = fit.wanted(agent, resource, observed)
        if resource.deleting and verbs.stands(resource, need.plan, self._ledger, policies, self._clock.now()):
            return fit.repair(agent, resource, observed) or need
        return need
