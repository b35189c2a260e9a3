"""What is wanted of a server's power, size and boots, and what its provider cannot do. Pure; asked by the agent.

A reboot is asked for by a time: the host is rebooted once if it booted before that, whenever this is looked at. So the
annotation may stay, also in Git, and a value that was carried out never is again.
"""

from __future__ import annotations

from datetime import UTC, datetime

from agentmetal.agents.instance.api import Instance, PowerState
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.core.clock import rfc3339
from agentmetal.core.condition import Condition, ConditionType, Reason
from agentmetal.core.machine import Server, ServerState
from agentmetal.core.plan import Change
from agentmetal.core.resource import Annotation

SETTLED = (ServerState.RUNNING, ServerState.STOPPED)
"""On its way from one state to another a server is left alone."""


def changes(resource: Instance, observed: InstanceObservation) -> tuple[Change, ...]:
    """Another power state, another type, another boot; the first one is to be made first."""
    server = observed.server
    if server is None or server.state not in SETTLED:
        return ()
    wanted = (_power(resource, server, observed), _size(resource, server, observed), _boot(resource, observed))
    return tuple(change for change in wanted if change is not None)


def _power(resource: Instance, server: Server, observed: InstanceObservation) -> Change | None:
    wanted = resource.spec.power_state
    actual = PowerState.OFF if observed.off else PowerState.RESCUE if server.rescue else PowerState.ON
    if actual is wanted or not observed.capabilities.power or no_such_power(resource, observed):
        return None
    return Change(field="powerState", desired=wanted, actual=actual)


def _size(resource: Instance, server: Server, observed: InstanceObservation) -> Change | None:
    """A server that nobody can reach is not switched off on top of that."""
    unsure = observed.running and observed.reach not in (Reach.ANSWERING, Reach.NOT_APPLICABLE)
    if server.type == resource.spec.type or not observed.capabilities.resize or server.rescue or unsure:
        return None
    if unknown_type(resource, observed):
        return None
    return Change(field="type", desired=resource.spec.type, actual=server.type)


def _boot(resource: Instance, observed: InstanceObservation) -> Change | None:
    asked, booted = reboot_asked(resource), observed.booted_at
    if asked is None or booted is None or not booted < asked <= observed.at or _older(asked, resource):
        return None
    ours = not observed.claimed_by_other and not observed.unprepared
    if resource.spec.power_state is not PowerState.ON or resource.observe_only or not ours:
        return None
    return Change(field="boot", desired=f"after {rfc3339(asked)}", actual="before that")


def _older(asked: datetime, resource: Instance) -> bool:
    """Was it asked of an earlier object? Whoever takes a machine over from a manifest asks for no reboot of it."""
    created = resource.metadata.creation_timestamp
    return created is not None and asked < created


def reboot_asked(resource: Instance) -> datetime | None:
    """From when on the host must have booted; None: nobody asks, or not in a way that is understood."""
    return reboot_time(resource.annotation(Annotation.REBOOT_AT))


def reboot_time(text: str) -> datetime | None:
    """A time with its zone, in UTC; None for anything else."""
    try:
        asked = datetime.fromisoformat(text)
        return asked.astimezone(UTC) if asked.tzinfo else None
    except (ValueError, OverflowError):
        return None


def reboot_due_in(resource: Instance, observed: InstanceObservation) -> float | None:
    """Seconds until a reboot that is asked for in the future."""
    asked = reboot_asked(resource)
    left = (asked - observed.at).total_seconds() if asked else 0.0
    return left if left > 0 else None


def misunderstood(resource: Instance) -> tuple[Condition, ...]:
    """An annotation that says nothing we can act on. It disturbs nothing else."""
    value = resource.annotation(Annotation.REBOOT_AT)
    if not value or reboot_asked(resource):
        return ()
    message = (
        f"annotation {Annotation.REBOOT_AT} is {value[:64]!r}, so nothing is rebooted: write a time with its zone, like"
        " 2026-01-31T03:00:00Z, or remove it"
    )
    return (Condition.true(ConditionType.DEGRADED, Reason.INVALID_ANNOTATION, message),)


def rescue(resource: Instance, server: Server) -> tuple[Reason, str] | None:
    """Why a server that has to do with its rescue system is not Ready: whatever it serves does not run there."""
    wanted = resource.spec.power_state is PowerState.RESCUE
    if wanted and server.rescue:
        message = "it runs its rescue system, as powerState says, its disks below /mnt: set it back to 'On' to leave it"
        return Reason.AS_SPECIFIED, message
    if wanted or server.rescue:
        return Reason.PLAN_PENDING, "it should run " + ("its rescue system" if wanted else "its own system again")
    return None


# What cannot be done, in sentences.


def no_such_power(resource: Instance, observed: InstanceObservation) -> str:
    """A power state that this provider does not have; empty when it does."""
    wanted, can = resource.spec.power_state, observed.capabilities
    able = {PowerState.ON: True, PowerState.OFF: can.power, PowerState.RESCUE: can.power and can.rescue}
    if able[wanted]:
        return ""
    return f"powerState {wanted} is not possible at Provider {_provider(resource)}: set it back to 'On'"


def no_such_size(resource: Instance, observed: InstanceObservation) -> str:
    """A type that the server does not have and cannot get; empty when all is well."""
    server = observed.server
    if server is None or server.type == resource.spec.type or observed.capabilities.resize:
        return ""
    return f"type cannot be changed at Provider {_provider(resource)}: set it back to {server.type!r}"


def unknown_type(resource: Instance, observed: InstanceObservation) -> bool:
    """Is a type wanted that the provider does not offer? Nothing is switched off for that."""
    return bool(observed.types) and resource.spec.type not in observed.types


def no_fence(resource: Instance, observed: InstanceObservation) -> str:
    """Why power cannot keep this server off; empty when it can."""
    if observed.capabilities.power:
        return ""
    host = observed.server.id if observed.server else resource.status.provider_id
    return f"host {host!r} has no power control: it cannot be fenced by power, and may run"


def no_reset(resource: Instance, observed: InstanceObservation) -> str:
    """What a silent server's Ready says beside that it is silent."""
    if observed.capabilities.power:
        return ""
    return f"; Provider {_provider(resource)} cannot switch its power: somebody must look at the machine"


def _provider(resource: Instance) -> str:
    return repr(resource.spec.provider_ref.name)
