"""What the watch told: one parsed copy of each object. Fed by the edge and by answers to our own writes.

Planning reads it; steps read the API (`read`). It decides what is news: our own status write never wakes us.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agentmetal.core.abreast import abreast
from agentmetal.core.condition import ConditionType
from agentmetal.core.errors import NotFound, StaleLeader
from agentmetal.core.operation import ApprovalPolicy
from agentmetal.core.ports import KubeApi, ObjectList
from agentmetal.core.resource import PREFIX, AnyResource, Key, Origin
from agentmetal.core.risk import Risk
from agentmetal.engine.agent import AnyAgent
from agentmetal.engine.queue import Priority
from agentmetal.kube.lean import lean

SHARED = 0.25
"""Seconds from the beginning of one LIST of policies to the next one of the same namespace: many plans share each."""
ON_ITS_WAY = 1.0
"""Seconds: what a LIST shows and the watch says so soon afterwards was not missed."""
READS_AT_ONCE = 16
"""Of what a LIST says otherwise: a deaf watch may have missed thousands, and a takeover waits for them."""
AT_A_TIME = 50
"""Objects that are taken up without a pause: some 10 ms."""

log = logging.getLogger("agentmetal.cache")

Wake = Callable[[Key, Priority], None]


class Rewound(StaleLeader):
    """The API server shows a past that we have seen pass: its etcd was restored. What this process knows is no more."""


def _nobody(_error: StaleLeader) -> None:
    """Nobody leads here."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object as last seen."""

    resource: AnyResource
    status_json: str
    """As the server holds it: as text, for it is wanted only before a write, and parsed it is five times as large."""

    @property
    def status(self) -> Mapping[str, Any]:
        """For comparing before a write."""
        status: dict[str, Any] = json.loads(self.status_json)
        return status


class Cache:
    """Implements `core.ports.Lookup` and `engine.gate.Objects`.

    `lost` is told when the API server's history went back: watches from a version of the future say nothing then, and
    everything newer than the restored state would be kept for ever. The process starts over.
    """

    def __init__(self, api: KubeApi, wake: Wake, lost: Callable[[StaleLeader], None] = _nobody) -> None:
        self.asleep = False
        """While its process stands by: nobody is woken. Whoever takes over looks at everything."""
        self._api = api
        self._rouse = wake
        self._lost = lost
        self._newest: dict[str, int] = defaultdict(int)
        """The newest version seen of each kind."""
        self._asked = 0
        self._answered: dict[str, int] = defaultdict(int)
        self._listed: dict[str, float] = {}
        """When the last LIST of policies of a namespace began, by the event loop's time."""
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._agents: dict[str, AnyAgent] = {}
        self._entries: dict[Key, Entry] = {}
        self._leaving: set[Key] = set()
        """Those with a journal of their teardown in their own status; few, and asked for with every new object."""
        self._gone: dict[str, int] = {}
        self._policies: dict[str, dict[str, ApprovalPolicy]] = defaultdict(dict)
        self._references: dict[Key, tuple[Key, ...]] = {}
        self._referrers: dict[Key, set[Key]] = defaultdict(set)

    def serve(self, agents: Iterable[AnyAgent]) -> None:
        """The agents whose kinds are kept. They are built with this cache as their lookup, so they come later."""
        self._agents = {agent.kind.info.kind: agent for agent in agents}

    # ---- reading

    def get(self, key: Key) -> AnyResource | None:
        """The object as last seen, or None."""
        entry = self._entries.get(key)
        return entry.resource if entry else None

    cached = get

    def entry(self, key: Key) -> Entry | None:
        """The object and its status as the server holds it."""
        return self._entries.get(key)

    def all_keys(self) -> tuple[Key, ...]:
        """All objects."""
        return tuple(self._entries)

    def with_teardown(self) -> tuple[Key, ...]:
        """The objects whose status holds the journal of their teardown."""
        return tuple(self._leaving)

    def find(self, uid: str) -> AnyResource | None:
        """The object of that uid as last seen, or None."""
        return next((entry.resource for entry in self._entries.values() if entry.resource.uid == uid), None)

    def referrers(self, key: Key) -> tuple[Key, ...]:
        """The objects whose agent named this one among its references."""
        return tuple(sorted(self._referrers.get(key, ())))

    def policies(self, namespace: str) -> tuple[ApprovalPolicy, ...]:
        """The approval policies of a namespace, by name."""
        return tuple(policy for _, policy in sorted(self._policies.get(namespace, {}).items()))

    async def read(self, key: Key) -> AnyResource | None:
        """The object read with quorum; None when it does not exist."""
        info, before = self._agents[key.kind].kind.info, self._entries.get(key)
        try:
            body = await self._api.get(info.type, key.namespace, key.name)
        except NotFound:
            return None
        if before is not None:
            self._check_history(key, _version(body), int(before.resource.metadata.resource_version))
        self.put(body)
        kept = self._entries.get(key)
        if kept and kept.resource.uid == _uid(body) and _age(kept.resource) == _version(body):
            return kept.resource  # the very same: parsing is half of what a read costs us
        return self._parse(key.kind, body)

    async def read_policies(self, namespace: str) -> tuple[ApprovalPolicy, ...]:
        """The approval policies of a namespace, read with quorum; from then on also what `policies` says.

        Who asks while a LIST is under way, or soon after one began, shares the next one with all who wait: it begins
        after they asked.
        """
        self._asked += 1
        mine = self._asked
        async with self._turns[namespace]:
            if self._answered[namespace] < mine:
                clock = asyncio.get_running_loop().time
                await asyncio.sleep(self._listed.get(namespace, float("-inf")) + SHARED - clock())
                began, self._listed[namespace] = self._asked, clock()
                self._take_policies(await self._api.list(ApprovalPolicy.info.type, namespace), namespace)
                self._answered[namespace] = began
        return self.policies(namespace)

    def _check_history(self, what: object, shown: int, seen: int) -> None:
        """A read with quorum shows all that was seen before it was sent; raises Rewound when it does not."""
        if shown < seen:
            error = Rewound(
                f"{what} was seen at version {seen} and is now at {shown}: etcd was restored, we start over"
            )
            self._lost(error)
            raise error

    # ---- feeding

    async def prime(self) -> Mapping[str, str]:
        """List every kind; for each plural the version that was listed."""
        versions = {}
        for agent in self._agents.values():
            listing = await self._api.list(agent.kind.info.type)
            versions[agent.kind.info.plural] = listing.resource_version
            self._note_version(agent, listing)
            bodies = [*reversed(listing.items)]
            del listing
            while bodies:  # each goes as soon as it is taken up: ten thousand are 110 MiB
                self.put(bodies.pop(), quiet=True)
                if len(bodies) % AT_A_TIME == 0:
                    await asyncio.sleep(0)  # ten thousand take seconds, and the Lease wants to be renewed meanwhile
        policies = await self._api.list(ApprovalPolicy.info.type)
        self._take_policies(policies)
        return {**versions, ApprovalPolicy.info.plural: policies.resource_version}

    def put(self, body: Mapping[str, Any], *, quiet: bool = False) -> None:
        """An object as the server just showed it, from whatever source; an older one is ignored."""
        key = _key(body)
        old = self._entries.get(key)
        version = _version(body)
        self._newest[key.kind] = max(self._newest[key.kind], version)
        if self._gone.get(_uid(body), -1) >= 0 or (old and version <= int(old.resource.metadata.resource_version)):
            return
        resource = self._parse(key.kind, body)
        if resource is None:
            return
        self._entries[key] = Entry(resource=resource, status_json=json.dumps(body.get("status") or {}))
        (self._leaving.add if resource.status.teardown else self._leaving.discard)(key)
        self._index(key, resource)
        if not quiet:
            self._tell(key, old.resource if old else None, resource)

    def drop(self, body: Mapping[str, Any]) -> None:
        """An object that is gone. One of the same name made since then stays."""
        key = _key(body)
        old = self._entries.get(key)
        self._remember_gone(_uid(body), _version(body))
        if old is None or (_uid(body) and old.resource.uid != _uid(body)):
            return
        del self._entries[key]
        self._leaving.discard(key)
        self._wake(key, Priority.CHANGE)
        for reference in self._references.pop(key, ()):
            self._unrefer(reference, key)
            self._wake(reference, Priority.CHANGE)
        self._wake_all(self._referrers.get(key, ()))

    def put_policy(self, body: Mapping[str, Any], *, gone: bool = False) -> None:
        """An approval policy; objects of its namespace with a plan are looked at again. What is older is ignored."""
        key = _key(body)
        known, name = self._policies[key.namespace], key.name
        old = known.get(name)
        if old and not gone and _version(body) == _age(old):  # listed again as it was, as nearly always
            return
        policy = self._parse_policy(body)
        if (not gone and policy.uid in self._gone) or (old and _age(policy) < _age(old)):
            return
        if gone:
            self._remember_gone(policy.uid, _version(body))
            known.pop(name, None)
        else:
            known[name] = policy
        if gone or old is None or old.spec != policy.spec:
            self._look_at_plans(policy.metadata.namespace)

    def _look_at_plans(self, namespace: str) -> None:
        self._wake_all(k for k, e in self._entries.items() if k.namespace == namespace and e.resource.status.plan)

    def _take_policies(self, listing: ObjectList, namespace: str | None = None) -> int:
        """What a LIST says of a namespace, or of all; how many differed. What is younger than the LIST stays."""
        before = {(space, name): _age(p) for space, known in self._policies.items() for name, p in known.items()}
        there = {(body["metadata"]["namespace"], body["metadata"]["name"]) for body in listing.items}
        for body in listing.items:
            self.put_policy(body)
        for space, name in before.keys() - there:
            if namespace in (None, space) and _age(self._policies[space][name]) <= int(listing.resource_version):
                del self._policies[space][name]
                self._look_at_plans(space)
        now = {(space, name): _age(p) for space, known in self._policies.items() for name, p in known.items()}
        return len(set(before.items()) ^ set(now.items()))

    async def compare(self, *, patient: bool = True) -> int:
        """The second net: LIST, drop what the watch never said was gone, look at what it never said had changed.

        Returns how many differences were found; 0 when the watch is sound. `patient`: what is on its way is not missed.
        """
        found = 0
        for agent in self._agents.values():
            seen = self._newest[agent.kind.info.kind]
            listing = await self._api.list(agent.kind.info.type, metadata_only=True)
            self._check_history(agent.kind.info.plural, int(listing.resource_version), seen)
            self._note_version(agent, listing)
            listed = {Key(agent.kind.info.kind, *_place(body)): _version(body) for body in listing.items}
            if patient and self._behind(agent, listed, int(listing.resource_version)):
                await asyncio.sleep(ON_ITS_WAY)
            behind = self._behind(agent, listed, int(listing.resource_version))
            found += sum(await abreast(READS_AT_ONCE, self._recheck, behind))
        return found + self._take_policies(await self._api.list(ApprovalPolicy.info.type))

    def _note_version(self, agent: AnyAgent, listing: ObjectList) -> None:
        kind = agent.kind.info.kind
        self._newest[kind] = max(self._newest[kind], int(listing.resource_version))

    def _behind(self, agent: AnyAgent, listed: Mapping[Key, int], version: int) -> list[Key]:
        """Of what a LIST of that version says otherwise than the cache: where the cache is older."""
        kind = agent.kind.info.kind
        gone = [key for key in self._entries if key.kind == kind and key not in listed and self._seen(key) <= version]
        return gone + [key for key, shown in listed.items() if self._seen(key) < shown]

    def _seen(self, key: Key) -> int:
        entry = self._entries.get(key)
        return int(entry.resource.metadata.resource_version) if entry else -1

    async def _recheck(self, key: Key) -> int:
        """Only what a read of its own confirms counts: the list may be older than the cache.

        What is not valid for this version is not gone: it stays as it was known.
        """
        before = self.get(key)
        try:
            body = await self._api.get(self._agents[key.kind].kind.info.type, key.namespace, key.name)
        except NotFound:
            if before is None:
                return 0
            self.drop({"kind": key.kind, "metadata": {"namespace": key.namespace, "name": key.name, "uid": before.uid}})
            return 1
        if before is not None:
            self._check_history(key, _version(body), _age(before))
        self.put(body)
        return int(self.get(key) is not before)

    # ---- news

    def _tell(self, key: Key, old: AnyResource | None, new: AnyResource) -> None:
        if old is None or old.uid != new.uid or _orders(old) != _orders(new):
            self._wake(key, Priority.DECISION)
        elif old.metadata.generation != new.metadata.generation or old.metadata.finalizers != new.metadata.finalizers:
            self._wake(key, Priority.CHANGE)
        wanted_otherwise = old is not None and old.metadata.generation != new.metadata.generation
        if old is None or wanted_otherwise or _readiness(old) != _readiness(new):
            self._wake_all(self._referrers.get(key, ()))

    def _wake(self, key: Key, priority: Priority) -> None:
        if not self.asleep:
            self._rouse(key, priority)

    def _wake_all(self, keys: Iterable[Key]) -> None:
        for key in tuple(keys):
            self._wake(key, Priority.CHANGE)

    def _index(self, key: Key, resource: AnyResource) -> None:
        references = self._agents[key.kind].references(resource)
        if references == self._references.get(key):
            return
        for reference in self._references.get(key, ()):
            self._unrefer(reference, key)
        for reference in references:
            self._referrers[reference].add(key)
        self._references[key] = references

    def _unrefer(self, reference: Key, key: Key) -> None:
        self._referrers[reference].discard(key)
        if not self._referrers[reference]:
            del self._referrers[reference]

    def _remember_gone(self, uid: str, version: int) -> None:
        """A late answer to a write must not bring a deleted object back; the newest few hundred are enough."""
        if uid:
            self._gone[uid] = version
        while len(self._gone) > 512:
            self._gone.pop(next(iter(self._gone)))

    def _parse_policy(self, body: Mapping[str, Any]) -> ApprovalPolicy:
        """One that this version cannot read may ask for a human, so it asks for one: about everything around it."""
        try:
            return ApprovalPolicy.model_validate({**body, "status": {}})
        except ValidationError as error:
            log.error("%s is not valid for this version of the operator, plans ask a human: %s", _key(body), error)
        spec = {
            "resources": [agent.kind.info.plural for agent in self._agents.values()],
            "maxRisk": Risk.DANGEROUS,
            "origins": list(Origin),
            "require": True,
        }
        return ApprovalPolicy.model_validate({**body, "spec": spec, "status": {}})

    def _parse(self, kind: str, body: Mapping[str, Any]) -> AnyResource | None:
        try:
            return lean(self._agents[kind].kind.model_validate({"status": {}, **body}))
        except ValidationError as error:
            log.error("%s is not valid for this version of the operator and is left alone: %s", _key(body), error)
            return None


def _key(body: Mapping[str, Any]) -> Key:
    meta = body["metadata"]
    return Key(body["kind"], meta.get("namespace", ""), meta["name"])


def _place(body: Mapping[str, Any]) -> tuple[str, str]:
    meta = body["metadata"]
    return meta.get("namespace", ""), meta["name"]


def _uid(body: Mapping[str, Any]) -> str:
    return str(body["metadata"].get("uid", ""))


def _version(body: Mapping[str, Any]) -> int:
    """etcd's revision. Kubernetes asks clients not to read it, except that comparing is now promised (KEP-5504)."""
    return int(body["metadata"].get("resourceVersion") or 0)


def _age(resource: AnyResource | ApprovalPolicy) -> int:
    return int(resource.metadata.resource_version or 0)


def _orders(resource: AnyResource) -> tuple[object, ...]:
    """What people say by annotation and by deleting."""
    said = {name: value for name, value in resource.metadata.annotations.items() if name.startswith(PREFIX)}
    return resource.metadata.deletion_timestamp, said


def _readiness(resource: AnyResource) -> tuple[object, ...]:
    ready = resource.condition(ConditionType.READY)
    return (ready.status if ready else None), resource.deleting
