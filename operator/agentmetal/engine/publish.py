"""After a pass: status, the next look, and the finalizer. Called by the loop; composes, and hands on to the ports."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from agentmetal.core.clock import Clock
from agentmetal.core.condition import ConditionStatus, ConditionType
from agentmetal.core.operation import Operation, OperationPhase, moment
from agentmetal.core.outcome import AwaitingApproval, Failed, Outcome, Preview, Progressing, Settled
from agentmetal.core.plan import Trigger
from agentmetal.core.resource import AnyResource, Key
from agentmetal.engine.agent import Report
from agentmetal.engine.ledger import Ledger
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import Priority, WorkQueue
from agentmetal.engine.status import Story, compose, handled
from agentmetal.engine.view import View

SOON = 3.0
"""Seconds until the next look when there is nothing to do and it is not ready: the world is on its way."""
LATEST = 60.0
"""What stays as it is is looked at less and less often, after a tenth of the time it has been so."""


class StatusPort(Protocol):
    """The one writer of status."""

    def submit(self, resource: AnyResource, make: Callable[[AnyResource], dict[str, Any]]) -> None:
        """Write what `make` says of the object as it is then, as far as it differs. Never waits."""


class Finalizers(Protocol):
    """Lets go of objects."""

    async def release(self, resource: AnyResource) -> None:
        """Take our finalizer off. Raises Transient errors."""


class Publisher:
    """Makes outcomes visible and sees to it that the next pass comes."""

    def __init__(
        self,
        *,
        status: StatusPort,
        finalizers: Finalizers,
        queue: WorkQueue,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._status = status
        self._finalizers = finalizers
        self._queue = queue
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics

    async def settled(self, resource: AnyResource) -> Settled:
        """There is nothing left to do: what waits is not needed any more, and an object that may go, goes."""
        await self._ledger.withdraw(resource.uid)
        if resource.deleting:
            await self._finalizers.release(resource)
            self._ledger.forget(resource.uid)
        return Settled(gone=resource.deleting)

    def publish(self, resource: AnyResource, view: View, outcome: Outcome) -> None:
        """Make the outcome visible and set the timer."""
        report = view.report
        if isinstance(outcome, Settled) and outcome.gone:
            self._metrics.hide(resource.key)
            return
        if report is not None or isinstance(outcome, Failed):  # what could not be looked at has no numbers
            self._metrics.show(resource.key, report.gauges if report else {})
        story, now = self._story(resource, view, report, outcome), self._clock.now()
        self._status.submit(resource, lambda current: compose(current, story, now))
        self._queue.add_after(resource.key, _again_in(resource, outcome, report, now), Priority.RESYNC)

    def gone(self, key: Key) -> None:
        """The object does not exist any more."""
        self._queue.forget(key)
        self._metrics.hide(key)

    def _story(self, resource: AnyResource, view: View, report: Report | None, outcome: Outcome) -> Story:
        refused = self._refused(resource, outcome)
        return Story(
            outcome=outcome,
            report=report,
            missing=view.missing,
            waiting=self._waiting(resource, outcome),
            last=self._ledger.last_closed(resource.uid),
            refused_hash=refused[0],
            refused_by=refused[1],
            handled=handled(resource),
        )

    def _waiting(self, resource: AnyResource, outcome: Outcome) -> Operation | None:
        """What a human can decide about now: also while another plan runs, or while the very same one is held."""
        waiting = [op for op in self._ledger.waiting(resource.uid) if op.phase is OperationPhase.AWAITING_APPROVAL]
        if isinstance(outcome, Preview):
            shown = outcome.plan.hash_for(resource.key, resource.uid)
            deletion = Trigger.DELETION
            waiting = [op for op in waiting if op.spec.plan_hash == shown or op.spec.cause.trigger is deletion]
        if isinstance(outcome, Progressing) and isinstance(outcome.operation, Operation):
            waiting = [op for op in waiting if op.metadata.name != outcome.operation.metadata.name]
        return waiting[-1] if waiting else None

    def _refused(self, resource: AnyResource, outcome: Outcome) -> tuple[str, str]:
        """The refusal to be remembered: of the plan just previewed, or, while another one runs, the noted one."""
        noted = resource.status.rejected
        if isinstance(outcome, Preview):
            plan_hash = outcome.plan.hash_for(resource.key, resource.uid)
            by = self._ledger.refused(resource, plan_hash)
            return (plan_hash, by) if by is not None else ("", "")
        if noted is None or noted.generation != resource.metadata.generation or isinstance(outcome, Settled):
            return "", ""
        taken_up = [*self._ledger.waiting(resource.uid), getattr(outcome, "operation", None)]
        if any(op and op.spec.plan_hash == noted.plan_hash for op in taken_up):  # somebody asked for it again
            return "", ""
        return noted.plan_hash, noted.by


def _again_in(resource: AnyResource, outcome: Outcome, report: Report | None, now: datetime) -> float:
    usual = _usually_again_in(resource, outcome, report, now)
    return usual if report is None or report.again_in is None else min(usual, report.again_in)


def _usually_again_in(resource: AnyResource, outcome: Outcome, report: Report | None, now: datetime) -> float:
    match outcome:
        case Progressing(again_in=again) | Failed(again_in=again) if again is not None:
            return again
        case Settled() if report and not _ready(report):
            return min(max(SOON, _unready_for(resource, now) / 10), LATEST, resource.resync_seconds)
        case Settled() | Preview() | Progressing() | AwaitingApproval() | Failed():
            return resource.resync_seconds


def _unready_for(resource: AnyResource, now: datetime) -> float:
    """Seconds since it was Ready, as far as status tells."""
    ready = resource.condition(ConditionType.READY)
    since = moment(ready.last_transition_time) if ready and ready.status is not ConditionStatus.TRUE else None
    return (now - since).total_seconds() if since else 0.0


def _ready(report: Report) -> bool:
    return any(c.type is ConditionType.READY and c.status is ConditionStatus.TRUE for c in report.conditions)
