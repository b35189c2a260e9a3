"""What the Instance agent sees: the observation, and how it is made from provider and host. Reads only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from agentmetal.agents.instance.api import Instance, host_key_secret_name, hostname, server_name
from agentmetal.agents.provider.api import key_secret_name
from agentmetal.clients.keys import fingerprint
from agentmetal.core.errors import AuthenticationFailed, Forbidden, HostKeyMismatch, NotFound, Unavailable
from agentmetal.core.machine import Capabilities, OwnerTag, Server, ServerProvider, ServerState
from agentmetal.core.ports import Ports
from agentmetal.engine.agent import Volatile
from agentmetal_tools.hosts import HOST_PUBLIC, Boot, pinned
from agentmetal_tools.looks import UNKNOWN, Look, Vitals, look
from agentmetal_tools.servers import locate

SILENT_AFTER = timedelta(seconds=20)
"""A host that has not answered for so long is taken for dead; shorter silence is a boot or a hiccup."""
LONGEST_GAP = timedelta(seconds=60)
LOOK_TIMEOUT = 10.0
WITH_HOSTS = Capabilities(hosts=True)
STEADY = 0.999
"""A host's seconds are at least so long. A boot must never seem to move to before the time it was asked for."""


class Reach(StrEnum):
    """How the host behind a server answers."""

    NOT_APPLICABLE = "NotApplicable"  # no server, not running, or a provider without hosts
    ANSWERING = "Answering"
    QUIET = "Quiet"  # no answer, but not for long
    SILENT = "Silent"  # no answer for SILENT_AFTER
    WRONG_HOST_KEY = "WrongHostKey"
    REFUSED = "Refused"  # it refuses our key
    NO_KEY = "NoKey"  # a Secret that is needed to ask it is missing


@dataclass(frozen=True, kw_only=True)
class InstanceObservation:
    """One look at a server and its host."""

    at: Annotated[datetime, Volatile]
    tag: OwnerTag
    """Ours."""
    host_key: str = ""
    """The pinned public host key; empty: none was made, so nothing was ever ordered, or all is torn down."""
    fingerprint: str = ""
    """Of the host key."""
    server: Server | None = None
    missing: bool = False
    """The server we had does not exist any more; lists may still hide a newer one of its name."""
    certainly_gone: bool = False
    """It is missing, and for so long that lists would show a newer one."""
    capabilities: Capabilities = WITH_HOSTS
    """What can be done to servers of this provider."""
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

    @property
    def targets(self) -> Mapping[str, str]:
        """Plans are bound to the very server."""
        return {"serverID": self.server.id if self.server else ""}

    @property
    def hosts(self) -> bool:
        """Do servers of this provider have hosts that answer SSH?"""
        return self.capabilities.hosts

    @property
    def foreign(self) -> str:
        """The owner of a server that has our name and is not ours; empty when all is well."""
        if self.server is None or self.server.owner == self.tag:
            return ""
        return str(self.server.owner or "nobody we know")

    @property
    def claimed_by_other(self) -> str:
        """Whom the host belongs to by its claim, when that is not us."""
        claimed_by = self.look.claimed_by if self.look else ""
        return claimed_by if claimed_by != str(self.tag) else ""

    @property
    def running(self) -> bool:
        """Does the provider say that it runs?"""
        return self.server is not None and self.server.state is ServerState.RUNNING

    @property
    def off(self) -> bool:
        """Does the provider say that it is off?"""
        return self.server is not None and self.server.state is ServerState.STOPPED


class Spells:
    """Since when something has been so, without a gap between two looks. Memory only: forgetting delays, no more."""

    def __init__(self) -> None:
        self._spells: dict[str, tuple[datetime, datetime]] = {}

    def since(self, uid: str, now: datetime) -> datetime:
        """It is so now: since when? After too long a gap between two looks nobody knows what was in between."""
        began, last = self._spells.get(uid, (now, now))
        began = began if now - last <= LONGEST_GAP else now
        self._spells[uid] = (began, now)
        return began

    def end(self, uid: str) -> None:
        """It is not so."""
        self._spells.pop(uid, None)


class Observer:
    """Looks at servers and hosts."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._silence = Spells()
        self._absence = Spells()

    async def observe(self, resource: Instance) -> InstanceObservation:
        """One look. Raises what the provider raises; a host that does not answer is part of the observation."""
        host_key = await self._pinned(resource)
        seen = InstanceObservation(
            at=self._ports.clock.now(),
            tag=self._tag(resource),
            host_key=host_key,
            fingerprint=fingerprint(host_key) if host_key else "",
        )
        provider = await self._provider(resource, ever_ordered=bool(host_key))
        if provider is None:
            self._silence.end(resource.uid)
            self._absence.end(resource.uid)
            return seen
        known = resource.status.provider_id
        server = await locate(provider, server_name(resource), known)
        seen = replace(seen, server=server, capabilities=provider.capabilities)
        if server is None:
            return self._absent(resource, seen, settles_after=timedelta(seconds=provider.capabilities.settles_after))
        self._absence.end(resource.uid)
        if seen.running and not seen.foreign and seen.hosts:
            return await self._reach(resource, server, seen)
        self._silence.end(resource.uid)
        return seen

    def _absent(
        self, resource: Instance, seen: InstanceObservation, *, settles_after: timedelta
    ) -> InstanceObservation:
        self._silence.end(resource.uid)
        missing = resource.status.provider_id is not None
        if not missing or (resource.deleting and not seen.host_key):  # never ordered, or all torn down
            self._absence.end(resource.uid)
            return replace(seen, missing=missing)
        lasted = seen.at - self._absence.since(resource.uid, seen.at)
        return replace(seen, missing=True, certainly_gone=lasted >= settles_after)

    async def _reach(self, resource: Instance, server: Server, seen: InstanceObservation) -> InstanceObservation:
        """Ask the host itself."""
        if not seen.host_key:
            missing = f"Secret {host_key_secret_name(resource.metadata.name)!r} with its host key does not exist"
            return replace(seen, reach=Reach.NO_KEY, evidence=missing)
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                answer = await self._look(resource, server, seen.host_key)
        except (Unavailable, TimeoutError) as error:
            return self._silent(resource, seen, str(error) or f"no answer within {LOOK_TIMEOUT:g} s")
        except HostKeyMismatch as error:
            seen = replace(seen, reach=Reach.WRONG_HOST_KEY, evidence=error.message)
        except AuthenticationFailed as error:
            seen = replace(seen, reach=Reach.REFUSED, evidence=error.message)
        except NotFound as error:
            seen = replace(seen, reach=Reach.NO_KEY, evidence=error.message)
        else:
            seen = replace(seen, reach=Reach.ANSWERING)
            if not server.rescue:  # a rescue system says nothing about the host's own
                seen = self._told(resource, seen, answer)
        self._silence.end(resource.uid)
        return seen

    def _told(self, resource: Instance, seen: InstanceObservation, answer: Look) -> InstanceObservation:
        """What an answering host says about itself."""
        lacks = _unprepared(answer, seen.tag, hostname(resource))
        booted = booted_at(answer.boot, self._ports.clock.now())
        seen = replace(seen, unprepared=lacks, booted_at=booted)
        return replace(seen, look=replace(answer, vitals=UNKNOWN), vitals=answer.vitals)

    async def _look(self, resource: Instance, server: Server, host_key: str) -> Look:
        client_key_secret = key_secret_name(resource.spec.provider_ref.name)
        host = await self._ports.machines.connect(pinned(server, resource.key, host_key, client_key_secret))
        return await look(host, self._ports.clock)

    def _silent(self, resource: Instance, seen: InstanceObservation, evidence: str) -> InstanceObservation:
        since = self._silence.since(resource.uid, seen.at)
        reach = Reach.SILENT if seen.at - since >= SILENT_AFTER else Reach.QUIET
        return replace(seen, reach=reach, silent_since=since, evidence=evidence)

    def _tag(self, resource: Instance) -> OwnerTag:
        return OwnerTag(cluster=self._ports.cluster, namespace=resource.metadata.namespace, uid=resource.uid)

    async def _pinned(self, resource: Instance) -> str:
        meta = resource.metadata
        try:
            held = await self._ports.secrets.read(meta.namespace, host_key_secret_name(meta.name))
        except NotFound:
            return ""
        return held.get(HOST_PUBLIC, b"").decode("ascii", "replace").strip()

    async def _provider(self, resource: Instance, *, ever_ordered: bool) -> ServerProvider | None:
        """The provider; None when the object is being deleted and goes without asking it.

        The host key is stored before the first order: without it there cannot be a server.
        """
        if resource.deleting and not ever_ordered and resource.status.provider_id is None:
            return None
        try:
            return await self._ports.providers.of(resource.metadata.namespace, resource.spec.provider_ref.name)
        except (NotFound, Forbidden):
            if resource.deleting and resource.releases:
                return None
            raise


def booted_at(boot: Boot, read_at: datetime) -> datetime | None:
    """When a host booted, at the latest: an unsteady clock there makes it younger by a thousandth at most."""
    return read_at - timedelta(seconds=boot.up_seconds * STEADY) if boot.id else None


def _unprepared(answer: Look, tag: OwnerTag, wanted_name: str) -> tuple[str, ...]:
    lacks = {
        "our claim": answer.claimed_by != str(tag),
        "the command wrapper": not answer.wrapper,
        f"the hostname {wanted_name!r}": answer.hostname != wanted_name,
    }
    return tuple(what for what, missing in lacks.items() if missing)
