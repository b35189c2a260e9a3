"""Hosts of an inventory that nobody has and nobody can get: claimed by an Instance that exists no more.

Asked by `agent.py`. So ends a release of a host that did not answer, or a finalizer that somebody removed by force.
"""

from __future__ import annotations

from collections.abc import Set

from agentmetal.agents.provider.api import Provider
from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.condition import Reason
from agentmetal.core.errors import Unavailable
from agentmetal.core.machine import ServerProvider, Unusable
from agentmetal.core.ports import Ports


async def left_behind(
    ports: Ports, resource: Provider, provider: ServerProvider, *, known: Set[str]
) -> tuple[Unusable, ...]:
    """Those of this namespace; of what the provider itself has told (`known`), like silence, no more is said."""
    if provider.capabilities.makes_servers:
        return ()
    try:
        servers = await provider.list_servers()
    except Unavailable:  # not all of them were looked at yet: another time
        return ()
    referring = (ports.lookup.get(key) for key in ports.lookup.referrers(resource.key))
    living = {one.uid for one in referring if one is not None}
    near = (ports.cluster, resource.metadata.namespace)
    return tuple(
        _told(server.id, owner.uid)
        for server in servers
        if (owner := server.owner) is not None
        and (owner.cluster, owner.namespace) == near
        and not (server.id in known or server.silent or owner.uid in living or ports.lookup.find(owner.uid))
    )


def _told(server_id: str, uid: str) -> Unusable:
    message = (
        f"Instance with uid {uid!r} claims it and exists no more: take it over (spec.adopt: {server_id}), or remove"
        f" {CLAIM_PATH} there"
    )
    return Unusable(name=server_id, reason=Reason.CLAIMED_BY_OTHER, message=message)
