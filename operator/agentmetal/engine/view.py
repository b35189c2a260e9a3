"""What one pass saw, and how an error reads as an outcome. Filled by the loop, read by the status composer."""

from __future__ import annotations

from dataclasses import dataclass

from agentmetal.core.condition import Condition, Reason
from agentmetal.core.errors import AgentMetalError, Transient
from agentmetal.core.outcome import Failed
from agentmetal.engine.agent import Observed

RETRY_OBSERVATION = 15.0
"""Seconds after which a failed look at the world is tried again."""
RETRY_PERMANENT = 300.0
"""Seconds after which something that needs a human is looked at anyway: the human may have acted elsewhere."""

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

    observed: Observed | None = None
    missing: Condition | None = None


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
