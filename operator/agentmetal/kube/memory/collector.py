"""The garbage collector and the namespace controller, as kube-controller-manager runs them. Driven by `cluster`.

Acts a moment after the change that calls for it, as its own principal: the admission rules hold for it too. What is
refused is tried again when the object changes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from agentmetal.core.errors import Conflict, Permanent
from agentmetal.core.kubetypes import NAMESPACE
from agentmetal.core.resource import ResourceType
from agentmetal.kube.memory.admission import CONTROLLER_MANAGER
from agentmetal.kube.memory.rbac import MASTERS, Principal

if TYPE_CHECKING:
    from agentmetal.kube.memory.cluster import MemoryCluster

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
_SELF = Principal(CONTROLLER_MANAGER, frozenset({MASTERS}))


class Place(NamedTuple):
    """Where an object is."""

    type: ResourceType
    namespace: str
    name: str


class Collector:
    """Deletes what nobody owns any more, and what is in a namespace that goes."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self._places: dict[str, Place] = {}
        self._dependents: dict[str, set[Place]] = {}
        self._pending: dict[Place, None] = {}

    def changed(self, type: ResourceType, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        """An object was stored (new) or removed (None)."""
        item = new or old or {}
        metadata = item["metadata"]
        place = Place(type, metadata.get("namespace", ""), metadata["name"])
        before, after = _owners(old), _owners(new)
        for uid in before - after:
            self._dependents[uid].discard(place)
        for uid in after - before:
            self._dependents.setdefault(uid, set()).add(place)
        concerned = self._concerned(place, metadata, old, new)
        if concerned:
            self._pending |= dict.fromkeys(concerned)
            asyncio.get_running_loop().call_soon(self._run)

    def _concerned(
        self, place: Place, metadata: dict[str, Any], old: dict[str, Any] | None, new: dict[str, Any] | None
    ) -> list[Place]:
        """Whose fate may depend on this change."""
        uid = metadata["uid"]
        going = new is None or "deletionTimestamp" in metadata
        if new is None:
            self._places.pop(uid, None)
        else:
            self._places[uid] = place
        concerned = [place] if new is not None and (going or _owners(new)) else []
        if going:
            concerned += sorted(self._dependents.get(uid, ()), key=lambda dependent: dependent[1:])
        if new is None:
            concerned += [self._places[owner] for owner in _owners(old) if owner in self._places]
        if place.namespace and self._cluster.terminating(place.namespace):
            concerned.append(Place(NAMESPACE, "", place.namespace))
        return concerned

    def _run(self) -> None:
        while self._pending:
            place = next(iter(self._pending))
            del self._pending[place]
            item = self._cluster.peek(*place)
            if item is not None:
                try:
                    self._attend(place, item)
                except (Permanent, Conflict):
                    continue  # refused by a rule: it comes back when the object changes

    def _attend(self, place: Place, item: dict[str, Any]) -> None:
        going = "deletionTimestamp" in item["metadata"]
        finalizers = item["metadata"].get("finalizers") or []
        if place.type == NAMESPACE:
            if going:
                self._empty(place)
        elif going and ORPHAN in finalizers:
            self._orphan(place, item)
        elif going and FOREGROUND in finalizers:
            self._foreground(place, item)
        elif not going and _owners(item):
            self._collect(place, item)

    def _collect(self, place: Place, item: dict[str, Any]) -> None:
        """Delete an object whose owners are all gone (or wait in the foreground); forget owners that are gone."""
        references = item["metadata"]["ownerReferences"]
        solid = [owner for owner in references if self._living(place, owner["uid"])]
        if not solid:
            waiting = any(self._waits(owner["uid"]) for owner in references)
            cascade = waiting and bool(self._dependents.get(item["metadata"]["uid"]))
            self._cluster.delete(_SELF, *place, propagation="Foreground" if cascade else "Background")
        elif len(solid) < len(references):
            self._cluster.patch(_SELF, *place, {"metadata": {"ownerReferences": solid}})

    def _foreground(self, place: Place, item: dict[str, Any]) -> None:
        """Let an owner go when nothing that blocks it is left."""
        uid = item["metadata"]["uid"]
        if not any(self._blocks(dependent, uid) for dependent in self._dependents.get(uid, ())):
            self._unfinalize(place, item, FOREGROUND)

    def _orphan(self, place: Place, item: dict[str, Any]) -> None:
        """Let an owner go when no object names it any more."""
        uid = item["metadata"]["uid"]
        for dependent in sorted(self._dependents.get(uid, ()), key=lambda dependent: dependent[1:]):
            found = self._cluster.peek(*dependent)
            if found is not None:
                rest = [owner for owner in found["metadata"]["ownerReferences"] if owner["uid"] != uid]
                self._cluster.patch(_SELF, *dependent, {"metadata": {"ownerReferences": rest}})
        self._unfinalize(place, item, ORPHAN)

    def _empty(self, namespace: Place) -> None:
        """Delete what a namespace holds, and then itself."""
        left = list(self._cluster.contents(namespace.name))
        for place in left:
            item = self._cluster.peek(*place)
            if item is not None and "deletionTimestamp" not in item["metadata"]:
                try:
                    self._cluster.delete(_SELF, *place)
                except Permanent:
                    continue  # protected: the namespace waits for it
        if not any(True for _ in self._cluster.contents(namespace.name)):
            self._cluster.forget(*namespace)

    def _unfinalize(self, place: Place, item: dict[str, Any], finalizer: str) -> None:
        rest = [name for name in item["metadata"]["finalizers"] if name != finalizer]
        self._cluster.patch(_SELF, *place, {"metadata": {"finalizers": rest}})

    def _owner(self, uid: str) -> dict[str, Any] | None:
        place = self._places.get(uid)
        return self._cluster.peek(*place) if place else None

    def _waits(self, uid: str) -> bool:
        """Is it an owner that waits for its dependents to go first?"""
        owner = self._owner(uid)
        return owner is not None and FOREGROUND in (owner["metadata"].get("finalizers") or [])

    def _living(self, dependent: Place, uid: str) -> bool:
        owner = self._owner(uid)
        if owner is None or self._waits(uid):
            return False
        return owner["metadata"].get("namespace", "") in ("", dependent.namespace)

    def _blocks(self, dependent: Place, uid: str) -> bool:
        item = self._cluster.peek(*dependent)
        owners = item["metadata"].get("ownerReferences", ()) if item else ()
        return any(owner["uid"] == uid and owner.get("blockOwnerDeletion") for owner in owners)


def _owners(item: dict[str, Any] | None) -> set[str]:
    """uids of the owners."""
    return {owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()} if item else set()
