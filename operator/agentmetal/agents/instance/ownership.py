"""Whose a server is, and what follows: order, adopt, pin, or leave it alone and say why. Pure; asked by the agent.

Nothing is done on a server that carries another mark, on a host whose key the inventory contradicts, or on a machine
that is another one than before.
"""

from __future__ import annotations

from agentmetal.agents.instance.api import Instance, server_name
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.core.condition import Condition, ConditionType, Reason
from agentmetal.core.machine import Server
from agentmetal.core.plan import Change

SEEN = (Reach.ANSWERING, Reach.NOT_APPLICABLE)
"""A server is taken over only when its host proved who it is, or where there is nothing to prove."""


def left_alone(observed: InstanceObservation) -> bool:
    """Is there nothing that may be done to the server now, whatever is wanted?"""
    return bool(observed.foreign) or observed.replaced or observed.repinned_elsewhere or observed.unread


def changes(resource: Instance, observed: InstanceObservation) -> tuple[Change, ...]:
    """What is to be done until the server is ours. Something that is adopted is never ordered instead."""
    server = observed.server
    if server is None:
        if observed.adopts or (observed.missing and not observed.certainly_gone):
            return ()
        return (Change(field="server", desired=server_name(resource), actual="none"),)
    if observed.takeable and not _obstacle(observed):
        return (Change(field="owner", desired="this Instance", actual=str(server.owner or "nobody")),)
    if observed.unpinned:
        return (Change(field="hostKey", desired=observed.vouched, actual="none"),)
    return ()


def _obstacle(observed: InstanceObservation) -> bool:
    unknown = observed.hosts and not observed.vouched
    return unknown or observed.reach not in SEEN or bool(observed.claimed_by_other or observed.twin)


def ready(resource: Instance, observed: InstanceObservation) -> Condition | None:
    """Why it is not ready, as far as that is a question of whose it is."""
    if observed.foreign:
        return _not(Reason.CLAIMED_BY_OTHER, _belongs(observed))
    if observed.server is None:
        return _absent(resource, observed)
    if observed.replaced:
        return _not(Reason.GONE, _replaced(resource, observed))
    if observed.takeable and observed.reach in SEEN:
        return _to_be_taken(resource, observed, observed.server)
    return None


def _belongs(observed: InstanceObservation) -> str:
    server = observed.server.id if observed.server else ""
    if observed.held_by:
        return (
            f"server {server!r} belongs to Instance {observed.held_by!r}, which exists: set its deletionPolicy to"
            " Retain and delete that first"
        )
    if observed.adopts or observed.inventory:
        return f"server {server!r} belongs to {observed.foreign}: it is left alone until whoever that is releases it"
    return f"a server of its name belongs to {observed.foreign}: rename the Instance"


def _absent(resource: Instance, observed: InstanceObservation) -> Condition | None:
    if not observed.missing:
        return None
    server = resource.spec.adopt or resource.status.provider_id
    if observed.inventory:
        nowhere = f"is not in the inventory of Provider {resource.spec.provider_ref.name!r}"
        way_out = "put its entry back, or set deletionPolicy Retain and delete this Instance"
        if resource.status.provider_id is None and not observed.ordered:
            way_out = "add its entry, or delete this Instance and name a host that is listed"
            return _not(Reason.NOT_IN_INVENTORY, f"host {server!r}, which spec.adopt names, {nowhere}: {way_out}")
        return _not(Reason.NOT_IN_INVENTORY, f"host {server!r} {nowhere} any more: {way_out}")
    if observed.adopts:
        return _not(Reason.GONE, f"server {server!r}, which spec.adopt names, does not exist; no other one is ordered")
    return None


def _to_be_taken(resource: Instance, observed: InstanceObservation, server: Server) -> Condition | None:
    if observed.hosts and not observed.vouched:
        message = f"the provider knows no host key of server {server.id!r}: it cannot be known who answers there"
        return _not(Reason.NOT_SUPPORTED, message)
    if observed.claimed_by_other:
        return None  # said of every host alike
    if observed.twin:
        return _not(Reason.DUPLICATE_MACHINE, _cloned(observed))
    whose = f"carries the mark of {server.owner}" if server.owner else "is nobody's"
    if resource.observe_only:
        message = f"server {server.id!r} {whose}; it is only looked at: with management.mode Manage it is taken over"
        return _not(Reason.OBSERVE_ONLY, message)
    return _not(Reason.PLAN_PENDING, f"server {server.id!r} {whose}: it is to be taken over")


def degraded(resource: Instance, observed: InstanceObservation) -> tuple[Condition, ...]:
    """A machine that is not the one it was, or not the only one that says so."""
    if observed.replaced:
        return (Condition.true(ConditionType.DEGRADED, Reason.GONE, _replaced(resource, observed)),)
    if observed.twin:
        return (Condition.true(ConditionType.DEGRADED, Reason.DUPLICATE_MACHINE, _cloned(observed)),)
    return ()


def _replaced(resource: Instance, observed: InstanceObservation) -> str:
    server, now = observed.server.id if observed.server else "", observed.look.machine_id if observed.look else ""
    return (
        f"host {server!r} shows the pinned host key and is another machine: its machine-id was"
        f" {observed.machine_before} and is {now}. Nothing is done on it. If that is right, set deletionPolicy Retain,"
        f" delete Instance {resource.metadata.name!r} and create it anew"
    )


def _cloned(observed: InstanceObservation) -> str:
    machine_id = observed.look.machine_id if observed.look else ""
    return (
        f"its machine-id {machine_id} is also that of {observed.twin}: one was cloned from the other. Give one of them"
        " a new one (remove /etc/machine-id there and run systemd-machine-id-setup)"
    )


def mismatch(resource: Instance, observed: InstanceObservation) -> tuple[Condition, ...]:
    """Before anything is pinned: who answers is not who the provider vouches for."""
    if observed.reach is not Reach.WRONG_HOST_KEY:
        return ()
    message = (
        f"Provider {resource.spec.provider_ref.name!r} says {observed.vouched}; {observed.evidence}. The machine was"
        " replaced, or somebody is in between: find out, and correct hostKey in the inventory. It is not taken over"
    )
    return (Condition.true(ConditionType.HOST_KEY_MISMATCH, Reason.HOST_KEY_MISMATCH, message),)


def _not(reason: Reason, message: str) -> Condition:
    return Condition.false(ConditionType.READY, reason, message)
