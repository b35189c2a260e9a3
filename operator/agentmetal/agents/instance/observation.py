"""What the Instance agent sees: the observation, and what follows from it at once. Plain data; `observer` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from agentmetal.agents.instance.api import Instance, hostname
from agentmetal.agents.instance.userdata import NONE, UserData
from agentmetal.agents.provider.api import WipeSpec
from agentmetal.core.machine import Capabilities, OwnerTag, Server, ServerState
from agentmetal.engine.agent import Volatile
from agentmetal_tools.looks import UNKNOWN, Look, Vitals
from agentmetal_tools.servers import NOBODY, differ, unread

WITH_HOSTS = Capabilities(hosts=True)


class Reach(StrEnum):
    """How the host behind a server answers."""

    NOT_APPLICABLE = "NotApplicable"  # no server, not running, or a provider without hosts
    ANSWERING = "Answering"
    QUIET = "Quiet"  # no answer, but not for long
    SILENT = "Silent"  # no answer for SILENT_AFTER
    WRONG_HOST_KEY = "WrongHostKey"
    REFUSED = "Refused"  # it refuses our key
    NO_ROOT = "NoRoot"  # who logs in there cannot become root
    NO_KEY = "NoKey"  # a Secret that is needed to ask it is missing


@dataclass(frozen=True, kw_only=True)
class InstanceObservation:
    """One look at a server and its host."""

    at: Annotated[datetime, Volatile]
    tag: OwnerTag
    """Ours."""
    marked: bool = False
    """Our Secret exists: something may have been ordered or claimed. It goes when all is torn down."""
    host_key: str = ""
    """The pinned public host key; empty: none was made or taken over yet, or all is torn down."""
    fingerprint: str = ""
    """Of the host key."""
    adopts: bool = False
    """The spec names the very server, which we did not make."""
    server: Server | None = None
    missing: bool = False
    """The server we had does not exist any more; lists may still hide a newer one of its name."""
    certainly_gone: bool = False
    """It is missing, and for so long that lists would show a newer one."""
    capabilities: Capabilities = WITH_HOSTS
    """What can be done to servers of this provider."""
    types: tuple[str, ...] = ()
    """The types that the provider offers, asked for when the server has another one than is wanted."""
    reach: Reach = Reach.NOT_APPLICABLE
    silent_since: Annotated[datetime | None, Volatile] = None
    evidence: Annotated[str, Volatile] = ""
    """What the host or the connection said, for people."""
    look: Look | None = None
    """What the host says about itself, when it answers; its numbers stand in `vitals`."""
    vitals: Annotated[Vitals, Volatile] = UNKNOWN
    """The numbers of the look."""
    booted_at: Annotated[datetime | None, Volatile] = None
    """When it booted by our clock, rather too late than too early: see `agents.instance.power`."""
    unprepared: tuple[str, ...] = ()
    """What an answering host lacks: claim, wrapper, hostname."""
    shown: str = ""
    """Fingerprint of the key that the host shows, where the pinned one is in doubt; empty: not known."""
    shown_by: Annotated[str, Volatile] = ""
    """The machine-id of who shows it, where the inventory vouches for that key; evidence, no more."""
    vouched: str = ""
    """Fingerprint of the host key that the provider vouches for; empty when it knows none."""
    held_by: str = ""
    """The Instance that still exists and whose mark a server carries that is to be adopted."""
    machine_before: str = ""
    """The machine-id that the host of an inventory must have; empty when it is not known yet."""
    twin: str = ""
    """Another Instance whose host says the same machine-id."""
    user_data: UserData = NONE
    """What is to run once on a new disk."""
    wipe: WipeSpec | None = None
    """What is to be removed from the host before it is let go of."""

    @property
    def targets(self) -> Mapping[str, str]:
        """Plans are bound to the very server."""
        return {"serverID": self.server.id if self.server else ""}

    @property
    def hosts(self) -> bool:
        """Do servers of this provider have hosts that answer SSH?"""
        return self.capabilities.hosts

    @property
    def inventory(self) -> bool:
        """Do the provider's servers exist anyway, so that they are claimed and let go of, never made and deleted?"""
        return not self.capabilities.makes_servers

    @property
    def ordered(self) -> bool:
        """Something may have been ordered or claimed."""
        return self.marked or bool(self.host_key)

    @property
    def ours(self) -> bool:
        """Does the server carry our mark?"""
        return self.server is not None and self.server.owner == self.tag

    @property
    def unread(self) -> bool:
        """Whose the server is stands on its host, and that cannot be read now."""
        return self.server is not None and unread(self.server)

    @property
    def takeable(self) -> bool:
        """It is to be ours and nothing forbids that: nobody's, or a dead Instance's of our namespace."""
        server = self.server
        if server is None or self.ours or self.unread or not (self.adopts or (self.inventory and self.ordered)):
            return False
        if server.owner is None:
            return True
        near = (server.owner.cluster, server.owner.namespace) == (self.tag.cluster, self.tag.namespace)
        return self.adopts and near and not self.held_by

    @property
    def foreign(self) -> str:
        """The owner of a server that has our name and is not ours; empty when all is well."""
        if self.server is None or self.ours or self.unread or self.takeable:
            return ""
        return str(self.server.owner or NOBODY)

    @property
    def claimed_by_other(self) -> str:
        """Whom the host belongs to by its claim, when that is not us, nor whom it is taken over from."""
        claimed_by = self.look.claimed_by if self.look else ""
        taken_from = str(self.server.owner) if self.server and self.takeable else ""
        return claimed_by if claimed_by not in (str(self.tag), taken_from) else ""

    @property
    def unpinned(self) -> bool:
        """It was claimed, and its host key is to be stored yet."""
        exists = self.adopts or self.inventory
        return self.ours and self.hosts and exists and self.marked and not self.host_key and bool(self.vouched)

    @property
    def repinned_elsewhere(self) -> bool:
        """The inventory vouches for another key than the pinned one: nothing is done on the host until that is decided.

        Who makes servers knows the key of the order only, which a human may have replaced since.
        """
        return self.inventory and self.server is not None and differ(self.server.host_key, self.host_key)

    @property
    def replaced(self) -> bool:
        """The host proves to be the one we know by its key, and is another machine."""
        machine_id = self.look.machine_id if self.look else ""
        return bool(self.machine_before and machine_id) and machine_id != self.machine_before

    @property
    def running(self) -> bool:
        """Does the provider say that it runs?"""
        return self.server is not None and self.server.state is ServerState.RUNNING

    @property
    def off(self) -> bool:
        """Does the provider say that it is off?"""
        return self.server is not None and self.server.state is ServerState.STOPPED


def hostname_of(resource: Instance, observed: InstanceObservation) -> str:
    """What the host shall call itself; empty: as it does, for we did not make it."""
    return "" if observed.adopts or observed.inventory else hostname(resource)
