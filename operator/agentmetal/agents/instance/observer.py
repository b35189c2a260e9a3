"""How an Instance is looked at: the provider, our Secret, the host itself. Called by the agent; reads only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from agentmetal.agents.instance import userdata
from agentmetal.agents.instance.api import Instance, host_key_secret_name, server_name
from agentmetal.agents.instance.observation import InstanceObservation, Reach, hostname_of
from agentmetal.agents.instance.siblings import Siblings, provider_key
from agentmetal.agents.provider.api import Provider, key_secret_name
from agentmetal.clients.keys import fingerprint
from agentmetal.core.condition import ConditionType, Reason
from agentmetal.core.errors import (
    AgentMetalError,
    AuthenticationFailed,
    Forbidden,
    HostKeyMismatch,
    Invalid,
    NotFound,
    NotInInventory,
    Unavailable,
)
from agentmetal.core.machine import OwnerTag, Server, ServerProvider
from agentmetal.core.ports import Ports
from agentmetal_tools.hosts import HOST_PUBLIC, HOST_SERVER, Boot, pinned
from agentmetal_tools.looks import UNKNOWN, Look, look
from agentmetal_tools.servers import by_id, locate

SILENT_AFTER = timedelta(seconds=20)
"""A host that has not answered for so long is taken for dead; shorter silence is a boot or a hiccup."""
LONGEST_GAP = timedelta(seconds=90)
"""Between two looks at something that is so all the time: longer than the engine ever waits for the next one, late."""
LOOK_TIMEOUT = 10.0
EVIDENCE_TIMEOUT = 5.0
"""For what is only told to people."""
STEADY = 0.999
"""A host's seconds are at least so long. A boot must never seem to move to before the time it was asked for."""


class Spells:
    """For how long something has been so, without a gap between two looks. Memory only: forgetting delays, no more.

    By the event loop's time: whoever sets the clock of our machine neither kills a host nor keeps a dead one.
    """

    def __init__(self) -> None:
        self._spells: dict[str, tuple[float, float]] = {}

    def lasts(self, uid: str) -> timedelta:
        """It is so now: for how long? After too long a gap between two looks nobody knows what was in between."""
        now = asyncio.get_running_loop().time()
        began, last = self._spells.get(uid, (now, now))
        began = began if now - last <= LONGEST_GAP.total_seconds() else now
        self._spells[uid] = (began, now)
        return timedelta(seconds=now - began)

    def end(self, uid: str) -> None:
        """It is not so."""
        self._spells.pop(uid, None)


class Observer:
    """Looks at servers and hosts."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._silence = Spells()
        self._absence = Spells()
        self._siblings = Siblings(ports)

    async def observe(self, resource: Instance) -> InstanceObservation:
        """One look. Raises what the provider raises; a host that does not answer is part of the observation."""
        held = await self._held(resource)
        host_key = (held or {}).get(HOST_PUBLIC, b"").decode("ascii", "replace").strip()
        seen = InstanceObservation(
            at=self._ports.clock.now(),
            tag=self._tag(resource),
            marked=held is not None,
            host_key=host_key,
            fingerprint=shown_fingerprint(host_key),
            adopts=resource.spec.adopt is not None,
        )
        provider = await self._provider(resource, ever_ordered=seen.ordered)
        if provider is None:
            self.forget(resource.uid)
            return seen
        known = _known(resource, provider, held)
        server = await self._server(provider, resource, known, pinned=bool(host_key))
        data = await userdata.find(self._ports.secrets, resource, provider, server, held or {})
        seen = replace(seen, server=server, capabilities=provider.capabilities, user_data=data)
        if server is None:
            settles_after = timedelta(seconds=provider.capabilities.settles_after)
            return _wait_if_deleting(
                resource, self._absent(resource, seen, known=known is not None, settles_after=settles_after)
            )
        self._absence.end(resource.uid)
        seen = self._related(resource, server, seen)
        if not (seen.running and not seen.foreign and seen.hosts):
            self._silence.end(resource.uid)
            return seen
        return _wait_if_deleting(resource, await self._reach(resource, server, seen))

    async def _server(
        self, provider: ServerProvider, resource: Instance, known: str | None, *, pinned: bool
    ) -> Server | None:
        """Until a key is pinned only the very server counts that is to be adopted: any host can say that it is ours."""
        if resource.spec.adopt is not None and not pinned:
            return await by_id(provider, resource.spec.adopt)
        return await locate(provider, server_name(resource), known)

    def _related(self, resource: Instance, server: Server, seen: InstanceObservation) -> InstanceObservation:
        """With what the cache knows about the server: who else has it, which machine it was, what to leave on it."""
        other = server.owner if seen.adopts and not seen.ours else None
        near = other is not None and (other.cluster, other.namespace) == (seen.tag.cluster, seen.tag.namespace)
        seen = replace(
            seen,
            vouched=shown_fingerprint(server.host_key),
            held_by=self._siblings.living(other) if other and near else "",
        )
        if not seen.inventory:
            return replace(seen, types=self._types(resource) if server.type != resource.spec.type else ())
        given = self._ports.lookup.get(provider_key(resource)) if resource.deleting else None
        wipe = given.spec.ssh.wipe if isinstance(given, Provider) and given.spec.ssh else None
        return replace(seen, machine_before=_machine_before(resource, seen), wipe=wipe)

    def _types(self, resource: Instance) -> tuple[str, ...]:
        provider = self._ports.lookup.get(provider_key(resource))
        return tuple(type.name for type in provider.status.types) if isinstance(provider, Provider) else ()

    def forget(self, uid: str) -> None:
        """It has no server, or does not exist any more."""
        self._silence.end(uid)
        self._absence.end(uid)
        self._siblings.forget(uid)

    def _absent(
        self, resource: Instance, seen: InstanceObservation, *, known: bool, settles_after: timedelta
    ) -> InstanceObservation:
        self._silence.end(resource.uid)
        self._siblings.forget(resource.uid)
        missing = known
        if seen.inventory:  # who is not listed may still run
            self._absence.end(resource.uid)
            return replace(seen, missing=missing)
        if not missing or (resource.deleting and not seen.ordered):  # never ordered, or all torn down
            self._absence.end(resource.uid)
            return replace(seen, missing=missing)
        certain = self._absence.lasts(resource.uid) >= settles_after
        return replace(seen, missing=True, certainly_gone=certain)

    async def _reach(self, resource: Instance, server: Server, seen: InstanceObservation) -> InstanceObservation:
        """Ask the host itself; with the key that the provider vouches for where none is to be pinned yet."""
        host_key = seen.host_key or (server.host_key if seen.takeable or seen.unpinned or seen.unread else "")
        if not host_key:
            missing = f"Secret {host_key_secret_name(resource.metadata.name)!r} with its host key does not exist"
            return replace(seen, reach=Reach.NO_KEY, evidence=missing)
        if seen.repinned_elsewhere:
            self._silence.end(resource.uid)
            evidence = f"the inventory of Provider {resource.spec.provider_ref.name!r} says {seen.vouched}"
            return await self._doubted(resource, server, seen, evidence)
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                answer = await self._look(resource, server, host_key)
        except (Unavailable, TimeoutError) as error:
            return self._silent(resource, seen, str(error) or f"no answer within {LOOK_TIMEOUT:g} s")
        except HostKeyMismatch as error:
            seen = await self._doubted(resource, server, seen, error.message)
        except AuthenticationFailed as error:
            seen = replace(seen, reach=Reach.REFUSED, evidence=error.message)
        except Forbidden as error:
            seen = replace(seen, reach=Reach.NO_ROOT, evidence=error.message)
        except NotFound as error:
            seen = replace(seen, reach=Reach.NO_KEY, evidence=error.message)
        else:
            seen = replace(seen, reach=Reach.ANSWERING)
            if not server.rescue:  # a rescue system says nothing about the host's own
                seen = self._told(resource, server, seen, answer)
        self._silence.end(resource.uid)
        return seen

    def _told(self, resource: Instance, server: Server, seen: InstanceObservation, answer: Look) -> InstanceObservation:
        """What an answering host says about itself."""
        known = seen.ours or seen.takeable
        twin = self._siblings.twin(resource, server.id, answer.machine_id) if known else ""
        lacks = _unprepared(answer, seen.tag, hostname_of(resource, seen)) if not seen.takeable else ()
        booted = booted_at(answer.boot, self._ports.clock.now())
        seen = replace(seen, unprepared=lacks, booted_at=booted, twin=twin)
        return replace(seen, look=replace(answer, vitals=UNKNOWN), vitals=answer.vitals)

    async def _look(self, resource: Instance, server: Server, host_key: str) -> Look:
        client_key_secret = key_secret_name(resource.spec.provider_ref.name)
        host = await self._ports.machines.connect(pinned(server, resource.key, host_key, client_key_secret))
        return await look(host, self._ports.clock)

    async def _doubted(
        self, resource: Instance, server: Server, seen: InstanceObservation, evidence: str
    ) -> InstanceObservation:
        """With the key that is shown, for people and for what one of them named; nobody logs in with it."""
        client_key_secret = key_secret_name(resource.spec.provider_ref.name)
        identity = pinned(server, resource.key, seen.host_key, client_key_secret)
        try:
            shown = shown_fingerprint(await self._ports.machines.shown_host_key(identity))
        except Unavailable:
            shown = ""
        seen = replace(seen, reach=Reach.WRONG_HOST_KEY, evidence=evidence, shown=shown)
        vouched = seen.inventory and shown == seen.vouched
        return replace(seen, shown_by=await self._machine_id(resource, server)) if vouched else seen

    async def _machine_id(self, resource: Instance, server: Server) -> str:
        """Of who shows the key that the provider vouches for; empty when it does not say."""
        try:
            async with asyncio.timeout(EVIDENCE_TIMEOUT):
                return (await self._look(resource, server, server.host_key)).machine_id
        except (AgentMetalError, TimeoutError):
            return ""

    def _silent(self, resource: Instance, seen: InstanceObservation, evidence: str) -> InstanceObservation:
        lasts = self._silence.lasts(resource.uid)
        reach = Reach.SILENT if lasts >= SILENT_AFTER else Reach.QUIET
        return replace(seen, reach=reach, silent_since=seen.at - lasts, evidence=evidence)

    def _tag(self, resource: Instance) -> OwnerTag:
        return OwnerTag(cluster=self._ports.cluster, namespace=resource.metadata.namespace, uid=resource.uid)

    async def _held(self, resource: Instance) -> Mapping[str, bytes] | None:
        """What our Secret holds; None when there is none."""
        meta = resource.metadata
        try:
            return await self._ports.secrets.read(meta.namespace, host_key_secret_name(meta.name))
        except NotFound:
            return None

    async def _provider(self, resource: Instance, *, ever_ordered: bool) -> ServerProvider | None:
        """The provider; None when the object is being deleted and goes without asking it.

        Our Secret is stored before the first order or claim: without it there cannot be a server of ours.
        """
        shown_only = resource.status.provider_id is None or resource.spec.adopt is not None
        if resource.deleting and not ever_ordered and shown_only:
            return None
        try:
            return await self._ports.providers.of(resource.metadata.namespace, resource.spec.provider_ref.name)
        except (NotFound, Forbidden):
            if resource.deleting and resource.releases:
                return None
            raise


def _known(resource: Instance, provider: ServerProvider, held: Mapping[str, bytes] | None) -> str | None:
    """The id of the server; where hosts say themselves whose they are, none that was only seen before it was pinned."""
    noted = (held or {}).get(HOST_SERVER, b"").decode("ascii", "replace")
    only_seen = held is not None and not held.get(HOST_PUBLIC) and not provider.capabilities.makes_servers
    return resource.spec.adopt or noted or (None if only_seen else resource.status.provider_id)


def booted_at(boot: Boot, read_at: datetime) -> datetime | None:
    """When a host booted, at the latest: an unsteady clock there makes it younger by a thousandth at most."""
    return read_at - timedelta(seconds=boot.up_seconds * STEADY) if boot.id else None


def shown_fingerprint(host_key: str) -> str:
    """The fingerprint of a public key that others wrote; nothing they write may stop a look."""
    try:
        return fingerprint(host_key) if host_key else ""
    except Invalid:
        return "a host key that cannot be read"


def _machine_before(resource: Instance, seen: InstanceObservation) -> str:
    """The machine-id that was shown with the pinned key. Whoever had a cloned one was asked to give it another one."""
    degraded = resource.condition(ConditionType.DEGRADED)
    cloned = degraded is not None and degraded.reason == Reason.DUPLICATE_MACHINE
    told = seen.host_key and resource.status.host_key_fingerprint == seen.fingerprint
    return resource.status.machine_id or "" if told and not cloned else ""


def _wait_if_deleting(resource: Instance, seen: InstanceObservation) -> InstanceObservation:
    """Only a host that answers can be let go of for certain. Raises NotInInventory, Unavailable.

    Raised and not planned: there is nothing to be done, and nothing to be approved, until that changes.
    """
    if not seen.inventory or not seen.ordered or not resource.deleting or resource.releases:
        return seen
    way_out = "to let go of it as it is, set spec.management.deletionPolicy to Retain"
    if seen.server is None and seen.missing:
        provider, host = resource.spec.provider_ref.name, resource.status.provider_id or resource.spec.adopt
        raise NotInInventory(
            f"host {host!r} is not in the inventory of Provider {provider!r} any more: put its entry back; {way_out}"
        )
    name = seen.server.id if seen.server else ""
    if seen.reach in (Reach.QUIET, Reach.SILENT):
        raise Unavailable(f"deleting waits until host {name!r} answers; {way_out}")
    if seen.server is not None and seen.unread:
        raise Unavailable(f"deleting waits until it is known whose host {name!r} is: {seen.server.silent}; {way_out}")
    if seen.replaced:
        raise Unavailable(f"deleting waits: host {name!r} is another machine than before; {way_out}")
    return seen


def _unprepared(answer: Look, tag: OwnerTag, wanted_name: str) -> tuple[str, ...]:
    lacks = {
        "our claim": answer.claimed_by != str(tag),
        "the command wrapper": not answer.wrapper,
        f"the hostname {wanted_name!r}": wanted_name not in ("", answer.hostname),
    }
    return tuple(what for what, missing in lacks.items() if missing)
