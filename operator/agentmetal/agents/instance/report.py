"""What status says about an Instance: fields, conditions, and what it waits for. Pure; used by `agent.py`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentmetal.agents.instance import health, ownership, power, repin, userdata
from agentmetal.agents.instance.api import MAX_ADDRESSES, Instance, PowerState
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.agents.provider.api import Provider
from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.condition import Condition, ConditionStatus, ConditionType, Reason
from agentmetal.core.machine import Server, ServerState
from agentmetal.core.resource import Key
from agentmetal.engine.agent import Report
from agentmetal.engine.waiting import awaited
from agentmetal_tools.looks import Look

READY = ConditionType.READY
SHOWN_CHOICES = 20
WATCH_FENCED = 5.0
"""Seconds between two looks at a server that is fenced: running, it would be a second primary."""
WATCH_OFF = 15.0
"""Seconds between two looks at a server that should be off: nothing tells us that somebody powers it on."""


def report(resource: Instance, observed: InstanceObservation) -> Report:
    """Fields and conditions."""
    fields: dict[str, Any] = {"hostKeyFingerprint": observed.fingerprint or None}
    if observed.server is not None and not observed.foreign:
        fields |= _server_fields(observed.server)
    elif observed.certainly_gone:
        fields |= {"state": ServerState.TERMINATED.value, "addresses": [], "privateIP": None, "publicIP": None}
    if resource.status.host_key_fingerprint not in (None, observed.fingerprint):  # repinned: maybe another machine
        fields["machineID"] = None
    if observed.look is not None and not observed.replaced:
        fields |= _host_fields(observed, observed.look)
    fields |= userdata.fields(resource, observed)
    conditions = (ready(resource, observed), *_fenced(resource, observed), *_mismatch(resource, observed))
    conditions += _degraded(resource, observed)
    waits = (_watch(resource, observed), power.reboot_due_in(resource, observed), userdata.again_in(observed))
    soon = [wait for wait in waits if wait]
    return Report(
        fields=fields, conditions=conditions, again_in=min(soon, default=None), gauges=health.gauges(observed)
    )


def _mismatch(resource: Instance, observed: InstanceObservation) -> tuple[Condition, ...]:
    """Another key than the pinned one; or, before one is pinned, than the one that the provider vouches for."""
    unpinned = observed.takeable and not observed.host_key
    return ownership.mismatch(resource, observed) if unpinned else repin.mismatch(resource, observed)


def _degraded(resource: Instance, observed: InstanceObservation) -> tuple[Condition, ...]:
    """Which machine it is comes before how it is; what is asked for wrongly is said beside that."""
    found = ownership.degraded(resource, observed) or health.degraded(resource, observed)
    found += (*power.misunderstood(resource), *userdata.degraded(resource, observed))
    return (replace(found[0], message="; ".join(one.message for one in found)),) if found else ()


def _watch(resource: Instance, observed: InstanceObservation) -> float | None:
    """How closely a server is watched that somebody might power on; one that runs tells us itself when it is lost."""
    if observed.server is None or observed.foreign:
        return None
    if resource.fenced:
        return WATCH_FENCED
    return WATCH_OFF if resource.spec.power_state is not PowerState.ON else None


def ready(resource: Instance, observed: InstanceObservation) -> Condition:
    """Is the server as the spec says? One sentence that tells why not."""
    server = observed.server
    if observed.foreign and (whose := ownership.ready(resource, observed)):
        return whose
    if resource.spec.fence is not None:
        fence = resource.spec.fence
        held = f"kept off by {fence.holder} ({fence.reason}): only the holder lifts that"
        return _not(Reason.FENCED, power.no_fence(resource, observed) or held)
    if whose := ownership.ready(resource, observed):
        return whose
    if server is None:
        if observed.missing:
            return _not(Reason.GONE, f"server {resource.status.provider_id!r} does not exist any more")
        return _not(*(userdata.not_ready(observed) or (Reason.PLAN_PENDING, "there is no server yet")))
    if impossible := power.no_such_power(resource, observed):
        return _not(Reason.NOT_SUPPORTED, impossible)
    if resource.spec.power_state is PowerState.OFF:
        if observed.off:
            return Condition.true(READY, Reason.AS_SPECIFIED, "it is off, as powerState says")
        return _not(Reason.PLAN_PENDING, f"it is {server.state} and should be off")
    if observed.off:
        return _not(Reason.POWERED_OFF, "it is off and should run")
    if not observed.running:
        return _not(Reason.PLAN_PENDING, f"it is {server.state}")
    return _ready_running(resource, server, observed)


def _ready_running(resource: Instance, server: Server, observed: InstanceObservation) -> Condition:
    match observed.reach:
        case Reach.QUIET:
            return Condition.unknown(
                READY, Reason.UNREACHABLE, "it does not answer at the moment: booting, or in trouble"
            )
        case Reach.SILENT:
            return _not(Reason.UNREACHABLE, f"it runs and does not answer{power.no_reset(resource, observed)}")
        case Reach.WRONG_HOST_KEY:
            return _not(Reason.HOST_KEY_MISMATCH, "who answers is not the host we know: see condition HostKeyMismatch")
        case Reach.REFUSED:
            return _not(Reason.AUTHENTICATION_FAILED, f"the host refuses the Provider's key: {observed.evidence}")
        case Reach.NO_ROOT:
            return _not(Reason.NEEDS_ROOT, observed.evidence)
        case Reach.NO_KEY:
            return _not(Reason.SECRET_MISSING, observed.evidence)
        case Reach.ANSWERING | Reach.NOT_APPLICABLE:
            pass
    if rescue := power.rescue(resource, server):
        return _not(*rescue)
    if observed.claimed_by_other:
        message = f"its host is claimed by {observed.claimed_by_other}: if that is over, remove {CLAIM_PATH} there"
        return _not(Reason.CLAIMED_BY_OTHER, message)
    if observed.unprepared:
        return _not(Reason.NOT_PREPARED, f"its host lacks {', '.join(observed.unprepared)}")
    if server.image != resource.spec.image:
        message = f"it runs image {server.image!r}, wanted is {resource.spec.image!r}"
        return _not(*(userdata.not_ready(observed) or (Reason.PLAN_PENDING, message)))
    if impossible := power.no_such_size(resource, observed):
        return _not(Reason.NOT_SUPPORTED, impossible)
    if power.unknown_type(resource, observed):
        return _no_such(
            Reason.UNKNOWN_TYPE, resource.spec.provider_ref.name, "type", resource.spec.type, observed.types
        )
    if server.type != resource.spec.type:
        return _not(Reason.PLAN_PENDING, f"it is of type {server.type!r}, wanted is {resource.spec.type!r}")
    if owed := userdata.pending(resource, observed):
        return _not(*owed)
    answers = "it runs and answers" if observed.hosts else "it runs"
    return Condition.true(READY, Reason.AS_SPECIFIED, answers)


def _not(reason: Reason, message: str) -> Condition:
    return Condition.false(READY, reason, message)


def _fenced(resource: Instance, observed: InstanceObservation) -> tuple[Condition, ...]:
    """True only after the provider said that it is off, or that it does not exist any more."""
    if resource.spec.fence is None:
        return ()
    if powerless := power.no_fence(resource, observed):
        return (Condition.false(ConditionType.FENCED, Reason.NOT_SUPPORTED, powerless),)
    if observed.off or observed.certainly_gone:
        by = f"{resource.spec.fence.holder}, epoch {resource.spec.fence.epoch}"
        return (Condition.true(ConditionType.FENCED, Reason.FENCED, f"it is off and stays off, fenced by {by}"),)
    state = observed.server.state.value if observed.server else "not known"
    return (Condition.false(ConditionType.FENCED, Reason.PLAN_PENDING, f"not off yet: its state is {state}"),)


def _server_fields(server: Server) -> Mapping[str, Any]:
    private = [address for address in server.addresses if _is_private(address)]
    public = [address for address in server.addresses if address not in private]
    return {
        "providerID": server.id,
        "state": server.state.value,
        "image": server.image,
        "failureDomain": server.failure_domain or None,
        "addresses": list(server.addresses[:MAX_ADDRESSES]),
        "privateIP": private[0] if private else None,
        "publicIP": public[0] if public else None,
    }


def _is_private(address: str) -> bool:
    """Providers may give names, too: those are public."""
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        return False


def _host_fields(observed: InstanceObservation, look: Look) -> Mapping[str, Any]:
    """A host of an inventory that tells no machine-id keeps the one it had: else it could come back with another."""
    return {"machineID": look.machine_id or observed.machine_before or None, "facts": health.facts(look)}


def waits_for(resource: Instance, provider: Provider | None) -> Condition | None:
    """Why there is no use in looking or planning yet, from what the cache knows of the Provider."""
    waiting = awaited(Key("Provider", resource.metadata.namespace, resource.spec.provider_ref.name), provider)
    if provider is None:
        return waiting
    state = provider.condition(READY)
    silent = state is not None and state.status is ConditionStatus.UNKNOWN  # says nothing about its servers
    if resource.status.provider_id is not None and (provider.deleting or silent):  # it serves what it has
        waiting = None
    return waiting or _unknown_choice(resource, provider)


def _unknown_choice(resource: Instance, provider: Provider) -> Condition | None:
    """Something that the Provider does not offer; what a server already has is not asked about again."""
    spec, status, name = resource.spec, resource.status, provider.metadata.name
    images = provider.status.images
    if spec.image != status.image and spec.image not in images:
        return _no_such(Reason.UNKNOWN_IMAGE, name, "image", spec.image, images)
    if status.provider_id is not None:
        return None
    if spec.host_selector and provider.spec.ssh is None:  # neither of both can be changed: no plan could ever end well
        return _not(Reason.NOT_SUPPORTED, _without_labels(name, spec.host_selector))
    types = tuple(type.name for type in provider.status.types)
    if spec.type not in types:
        return _no_such(Reason.UNKNOWN_TYPE, name, "type", spec.type, types)
    locations = tuple(location.name for location in provider.status.locations)
    if spec.location is not None and spec.location not in locations:
        return _no_such(Reason.UNKNOWN_LOCATION, name, "location", spec.location, locations)
    domains = tuple(domain for location in provider.status.locations for domain in location.failure_domains)
    if spec.failure_domain is not None and spec.failure_domain not in domains:
        return _no_such(Reason.UNKNOWN_LOCATION, name, "failureDomain", spec.failure_domain, domains)
    return None


def _without_labels(provider: str, asked: Mapping[str, str]) -> str:
    return (
        f"servers of Provider {provider!r} have no labels, hostSelector asks for {', '.join(sorted(asked))}: delete"
        " this Instance and create another one without hostSelector, or with a Provider that has an inventory"
    )


def _no_such(reason: Reason, provider: str, what: str, value: str, known: tuple[str, ...]) -> Condition:
    shown = ", ".join(known[:SHOWN_CHOICES]) or "none"
    more = f" and {len(known) - SHOWN_CHOICES} more" if len(known) > SHOWN_CHOICES else ""
    return _not(reason, f"Provider {provider!r} has no {what} {value!r}; it has: {shown}{more}")
