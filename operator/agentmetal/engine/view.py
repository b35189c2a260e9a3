"""What one pass saw, and how an error reads as an outcome. Filled by the loop, read by the publisher."""

from __future__ import annotations

from dataclasses import dataclass

from agentmetal.core.condition import Condition, Reason
from agentmetal.core.errors import AgentMetalError, Transient
from agentmetal.core.outcome import Failed
from agentmetal.core.resource import AnyResource
from agentmetal.engine.agent import AnyAgent, Observed, Report
from agentmetal.engine.metrics import GAUGES

RETRY_OBSERVATION = 15.0
"""Seconds after which a failed look at the world is tried again."""
RETRY_PERMANENT = 300.0
"""Seconds after which something that needs a human is looked at anyway: the human may have acted elsewhere."""
RETRY_BUG = 60.0

_REASONS = {
    "Unavailable": Reason.PROVIDER_UNAVAILABLE,
    "RateLimited": Reason.PROVIDER_UNAVAILABLE,
    "NotFound": Reason.WAITING_FOR_REFERENCE,
    "Forbidden": Reason.SECRET_NOT_USABLE,
    "Invalid": Reason.INVALID_SPEC,
}


@dataclass(kw_only=True)
class View:
    """What a pass saw."""

    report: Report | None = None
    missing: Condition | None = None

    def see(self, agent: AnyAgent, resource: AnyResource, observed: Observed) -> Observed:
        """Keep what the agent says of an observation. A field that status does not have would vanish without a word."""
        self.report = agent.report(resource, observed)
        known = {field.alias or name for name, field in type(resource.status).model_fields.items()}
        if unknown := sorted(self.report.fields.keys() - known):
            raise ValueError(f"{agent.name!r} reports {unknown}: status of {resource.kind} has no such fields")
        if unknown := sorted(self.report.gauges.keys() - GAUGES.keys()):
            raise ValueError(f"{agent.name!r} reports {unknown}: engine.metrics.GAUGES has no such names")
        return observed


def reason_of(error: AgentMetalError) -> Reason:
    """The condition reason for an error."""
    if error.reason in _REASONS:
        return _REASONS[error.reason]
    known = {reason.value: reason for reason in Reason}
    return known.get(error.reason, Reason.CANNOT_OBSERVE)


def failed_by(error: AgentMetalError) -> Failed:
    """An error as an outcome."""
    again = error.retry_after or (RETRY_OBSERVATION if isinstance(error, Transient) else RETRY_PERMANENT)
    return Failed(reason=reason_of(error), message=error.message, who_must_act=error.who_must_act, again_in=again)


def failed_by_bug(error: Exception) -> Failed:
    """What nobody expected, as an outcome: one object suffers from it, not all."""
    return Failed(reason=Reason.BUG, message=repr(error), who_must_act="AgentMetal's developers", again_in=RETRY_BUG)
