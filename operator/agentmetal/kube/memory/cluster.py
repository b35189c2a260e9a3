"""The state of a Kubernetes API in process, and its rules. Tests and the crash sweep use it instead of a server.

Everything here is one synchronous step: `api` puts the awaits, the faults and the counting around it.
Objects are never changed once stored; a new version shares what it did not change with the old one.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from agentmetal.core.clock import Clock, SystemClock, rfc3339
from agentmetal.core.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from agentmetal.core.kubetypes import NAMESPACE
from agentmetal.core.ports import Json, KubeApi, ObjectList, Patch
from agentmetal.core.resource import GROUP, Resource, ResourceType
from agentmetal.kube.memory import admission
from agentmetal.kube.memory.admission import CONTROLLER_MANAGER, OPERATOR, Review
from agentmetal.kube.memory.api import MemoryApi
from agentmetal.kube.memory.collector import FOREGROUND, ORPHAN, Collector, Place
from agentmetal.kube.memory.guards import guard
from agentmetal.kube.memory.kinds import Kind, check_metadata
from agentmetal.kube.memory.patches import json_patch, merge_patch
from agentmetal.kube.memory.rbac import MASTERS, Authorizer, Principal, Role
from agentmetal.kube.memory.selectors import field_predicate, label_predicate
from agentmetal.kube.memory.watching import Entry, Faults, Feed, Request, Table

WRITES = ("create", "patch", "delete")
_NAMES = ("name", "namespace", "uid", "resourceVersion")
_BUILT_IN_NAMESPACES = ("default", "kube-system", "agentmetal-system")
_SERVER_SIDE = ("namespace", "name", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
_SERVER_SIDE_NUMBERS = ("generation", "resourceVersion")
_OMITTED_WHEN_EMPTY = ("labels", "annotations", "finalizers", "ownerReferences")


class MemoryCluster:
    """A cluster that serves the given kinds and any built-in type. One event loop, no threads."""

    def __init__(
        self,
        kinds: Sequence[type[Resource[Any, Any]]] = (),
        *,
        clock: Clock | None = None,
        history: int = 10_000,
    ) -> None:
        self.faults = Faults()
        self.requests: list[Request] = []
        self.checkpoint: Callable[[str], Awaitable[None] | None] | None = None
        """Called before and after the effect of each write with a label: `before patch operations op-1`."""
        self._clock = clock or SystemClock()
        self._authorizer = Authorizer(kinds)
        self._history = history
        self._version = 0
        self._made = 0
        self._tables: dict[ResourceType, Table] = {}
        self._collector = Collector(self)
        for model in kinds:
            self._tables[model.info.type] = Table(Kind(model.info.type, model), self.faults, history)
        self.grant(OPERATOR, "operate")
        for subject in ("admin", MASTERS, CONTROLLER_MANAGER):
            self.grant(subject, "admin")
        for name in _BUILT_IN_NAMESPACES:
            self.create_namespace(name)

    # --- for tests

    def api(self, user: str = OPERATOR, groups: Iterable[str] = ()) -> KubeApi:
        """The API as that user sees it; by default as the operator."""
        return MemoryApi(self, Principal(user, frozenset(groups)))

    def grant(self, subject: str, role: Role) -> None:
        """Give a user or group one of the roles in manifests/rbac, or admin. `admin` and the operator have theirs."""
        self._authorizer.grant(subject, role)

    @property
    def writes(self) -> list[Request]:
        """The requests that change something."""
        return [request for request in self.requests if request.verb in WRITES]

    def create_namespace(self, name: str) -> None:
        """Make a namespace there and then; also outside a loop."""
        item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "status": {"phase": "Active"}}
        item["metadata"] = {"name": name, "uid": self._uid(), "creationTimestamp": "2026-01-01T00:00:00Z"}
        self._put(self._table(NAMESPACE), None, item)

    def delete_namespace(self, name: str) -> None:
        """Let a namespace go: creates are refused, contents are deleted, finalizers hold it."""
        self.delete(Principal(CONTROLLER_MANAGER, frozenset({MASTERS})), NAMESPACE, "", name)

    def backup(self, namespace: str) -> dict[Place, dict[str, Any]]:
        """A namespace as it is now, for `restore`."""
        return {place: item for place in self.contents(namespace) if (item := self.peek(*place)) is not None}

    def restore(self, namespace: str, backup: Mapping[Place, dict[str, Any]]) -> None:
        """Put a namespace back as it was, past all rules, as a restored etcd does. Versions go on counting."""
        for place, item in self.backup(namespace).items():
            if place not in backup:
                self._drop(self._table(place.type), item)
        for place, item in backup.items():
            self._put(self._table(place.type), self.peek(*place), item)

    def compact(self) -> None:
        """Forget history: watches from older versions raise Gone."""
        for table in self._tables.values():
            table.compact(self._version)

    def bookmark(self) -> None:
        """Send a bookmark to every watch."""
        for table in self._tables.values():
            table.bookmark(self._version)

    def end_watches(self) -> None:
        """Close every watch, as the server does now and then."""
        for table in self._tables.values():
            table.end_watches()

    # --- what the server does

    def get(self, who: Principal, type: ResourceType, namespace: str, name: str) -> dict[str, Any]:
        """See `KubeApi.get`."""
        self._authorizer.check(who, "get", type, namespace, name=name)
        return self._found(type, namespace, name).copy()

    def list(
        self, who: Principal, type: ResourceType, namespace: str | None, labels: str, fields: str, metadata_only: bool
    ) -> ObjectList:
        """See `KubeApi.list`."""
        self._authorizer.check(who, "list", type, namespace or "")
        table = self._table(type)
        entries: Iterator[Entry] = table.entries(namespace)
        if labels:
            entries = filter(_over_items(label_predicate(labels)), entries)
        if fields:
            entries = filter(_over_items(field_predicate(fields, table.kind.selectable)), entries)
        view = _metadata if metadata_only else Entry.copy
        return ObjectList(items=tuple(view(entry) for entry in entries), resource_version=str(self._version))

    def subscribe(
        self, who: Principal, type: ResourceType, namespace: str | None, version: str
    ) -> tuple[Feed, Callable[[Feed], None]]:
        """An open watch and how to close it."""
        self._authorizer.check(who, "watch", type, namespace or "")
        table = self._table(type)
        since = None if version in ("", "0") else int(version)
        return table.subscribe(namespace, since), table.unsubscribe

    def create(self, who: Principal, type: ResourceType, body: Json, *, dry_run: bool = False) -> dict[str, Any]:
        """See `KubeApi.create`."""
        self._authorizer.check(who, "create", type, str((body.get("metadata") or {}).get("namespace") or ""))
        table = self._table(type)
        item = self._fresh(table.kind, json.loads(json.dumps(body)))
        metadata = item["metadata"]
        self._check_namespace(type, metadata)
        item = table.kind.completed(item)
        if type.group == GROUP:
            item = admission.mutate(Review(self._authorizer, who, type, item, None))
        check_metadata(type, item["metadata"])
        if type.group == GROUP:
            admission.validate(Review(self._authorizer, who, type, item, None))
        guard(Review(self._authorizer, who, type, item, None))
        if table.find(metadata.get("namespace", ""), metadata["name"]):
            raise AlreadyExists(f"{type.plural} {metadata['name']!r} already exists")
        return Entry(item).copy() if dry_run else self._put(table, None, item).copy()

    def patch(
        self,
        who: Principal,
        type: ResourceType,
        namespace: str,
        name: str,
        patch: Patch,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """See `KubeApi.patch`."""
        self._authorizer.check(who, "patch", type, namespace, subresource, name)
        table, entry = self._table(type), self._found(type, namespace, name)
        if subresource and not (subresource == "status" and table.kind.has_status_subresource):
            raise NotFound(f"{type.plural} have no subresource {subresource!r}")
        old = entry.item
        new = self._admitted(who, table.kind, old, _patched(old, patch), subresource)
        if new == old:
            return entry.copy()
        if _bumps_generation(table.kind, old, new):
            new = {**new, "metadata": {**new["metadata"], "generation": old["metadata"]["generation"] + 1}}
        if dry_run:
            return Entry(new).copy()
        if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers"):
            self._drop(table, old)
            return Entry(new).copy()
        return self._put(table, old, new).copy()

    def delete(
        self,
        who: Principal,
        type: ResourceType,
        namespace: str,
        name: str,
        *,
        propagation: str = "Background",
        uid: str = "",
    ) -> None:
        """See `KubeApi.delete`."""
        self._authorizer.check(who, "delete", type, namespace, name=name)
        table, old = self._table(type), self._found(type, namespace, name).item
        metadata = old["metadata"]
        if uid and uid != metadata["uid"]:
            raise Conflict(f"{type.plural} {name!r} has the uid {metadata['uid']!r}, not {uid!r}")
        if type.group == GROUP:
            admission.validate(Review(self._authorizer, who, type, None, old))
        guard(Review(self._authorizer, who, type, None, old))
        new = self._terminating(type, old, propagation)
        if new is None:
            self._drop(table, old)
        elif new != old:
            self._put(table, old, new)

    # --- for the collector

    def peek(self, type: ResourceType, namespace: str, name: str) -> dict[str, Any] | None:
        """An object as stored, not to be changed; None when it is gone."""
        entry = self._table(type).find(namespace, name)
        return entry.item if entry else None

    def contents(self, namespace: str) -> Iterator[Place]:
        """Everything in a namespace."""
        for type, table in list(self._tables.items()):
            if type.namespaced:
                for entry in list(table.entries(namespace)):
                    yield Place(type, namespace, entry.item["metadata"]["name"])

    def terminating(self, namespace: str) -> bool:
        """Is the namespace going away?"""
        found = self.peek(NAMESPACE, "", namespace)
        return found is not None and "deletionTimestamp" in found["metadata"]

    def forget(self, type: ResourceType, namespace: str, name: str) -> None:
        """Remove an object that waits for nothing any more."""
        self._drop(self._table(type), self._found(type, namespace, name).item)

    # --- inside

    def _table(self, type: ResourceType) -> Table:
        table = self._tables.get(type)
        if table is None:
            if type.group == GROUP:
                raise NotFound(f"the server could not find the requested resource {type.plural!r}: register its model")
            table = self._tables[type] = Table(Kind(type), self.faults, self._history)
        return table

    def _found(self, type: ResourceType, namespace: str, name: str) -> Entry:
        entry = self._table(type).find(namespace, name)
        if entry is None:
            raise NotFound(f"{type.plural} {name!r} not found")
        return entry

    def _uid(self) -> str:
        """Unique and the same in every run, so that a failing case can be run again."""
        self._made += 1
        return str(UUID(int=(self._made * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128, version=4))

    def _fresh(self, kind: Kind, item: dict[str, Any]) -> dict[str, Any]:
        """A body with the metadata that the server makes."""
        given = item.get("metadata") or {}
        if given.get("resourceVersion"):
            raise Invalid(f"{kind.type.kind} {given.get('name')!r}: resourceVersion must not be set on creation")
        name = given.get("name") or (f"{given['generateName']}{self._made:05d}" if given.get("generateName") else "")
        metadata = {key: value for key, value in given.items() if value or key not in _OMITTED_WHEN_EMPTY}
        metadata |= {"name": name, "uid": self._uid(), "creationTimestamp": rfc3339(self._clock.now())}
        metadata.pop("deletionTimestamp", None)
        if kind.ours:
            metadata["generation"] = 1
        if kind.type == NAMESPACE:
            item = {**item, "status": {"phase": "Active"}}
        if kind.has_status_subresource:
            item.pop("status", None)
        return {"apiVersion": kind.type.api_version, "kind": kind.type.kind, **item, "metadata": metadata}

    def _check_namespace(self, type: ResourceType, metadata: dict[str, Any]) -> None:
        namespace = metadata.get("namespace", "")
        if not type.namespaced:
            return
        if not namespace:
            raise Invalid(f"{type.kind} {metadata['name']!r} names no namespace: set metadata.namespace")
        if self.peek(NAMESPACE, "", namespace) is None:
            raise NotFound(f"namespaces {namespace!r} not found")
        if self.terminating(namespace):
            raise Forbidden(
                f"{type.plural} {metadata['name']!r} is forbidden: unable to create new content in namespace"
                f" {namespace!r} because it is being terminated"
            )

    def _admitted(
        self, who: Principal, kind: Kind, old: dict[str, Any], wanted: dict[str, Any], subresource: str
    ) -> dict[str, Any]:
        """The object as it will be, if all rules agree."""
        type = kind.type
        if subresource:
            new = kind.completed(_replaced(old, "status", wanted.get("status")), old)
            admission.validate(Review(self._authorizer, who, type, new, old), subresource)
            return new
        new = {**wanted, "metadata": _kept(old["metadata"], wanted.get("metadata") or {})}
        if kind.has_status_subresource:
            new = _replaced(new, "status", old.get("status"))
        new = kind.completed(new, old)
        if type.group == GROUP:
            new = admission.mutate(Review(self._authorizer, who, type, new, old))
        if new["metadata"] != old["metadata"]:
            check_metadata(type, new["metadata"])
            _check_finalizers(type, old["metadata"], new["metadata"])
        if type.group == GROUP:
            admission.validate(Review(self._authorizer, who, type, new, old))
        guard(Review(self._authorizer, who, type, new, old))
        return new

    def _terminating(self, type: ResourceType, old: dict[str, Any], propagation: str) -> dict[str, Any] | None:
        """The object after a DELETE; None when nothing holds it."""
        metadata = old["metadata"]
        finalizers = [name for name in metadata.get("finalizers") or [] if name not in (FOREGROUND, ORPHAN)]
        finalizers += {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(propagation, [])
        if not finalizers and type != NAMESPACE:
            return None
        marks: dict[str, Any] = {"finalizers": finalizers} if finalizers else {}
        if "deletionTimestamp" not in metadata:
            marks |= {"deletionTimestamp": rfc3339(self._clock.now()), "deletionGracePeriodSeconds": 0}
            marks |= {"generation": metadata["generation"] + 1} if "generation" in metadata else {}
        new = {**old, "metadata": {**metadata, **marks}}
        return {**new, "status": {"phase": "Terminating"}} if type == NAMESPACE else new

    def _put(self, table: Table, old: dict[str, Any] | None, new: dict[str, Any]) -> Entry:
        self._version += 1
        new = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self._version)}}
        entry = table.put(self._version, new, new=old is None)
        self._collector.changed(table.kind.type, old, new)
        return entry

    def _drop(self, table: Table, old: dict[str, Any]) -> None:
        self._version += 1
        last = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self._version)}}
        table.drop(self._version, last)
        self._collector.changed(table.kind.type, old, None)


def _over_items(predicate: Callable[[dict[str, Any]], bool]) -> Callable[[Entry], bool]:
    return lambda entry: predicate(entry.item)


def _metadata(entry: Entry) -> dict[str, Any]:
    kept = {name: value for name, value in entry.item["metadata"].items() if name in _NAMES}
    return {"apiVersion": entry.item["apiVersion"], "kind": entry.item["kind"], "metadata": kept}


def _patched(old: dict[str, Any], patch: Patch) -> dict[str, Any]:
    """The patch applied, if it is for this version of this object."""
    given = json.loads(json.dumps(patch if isinstance(patch, dict) else _plain(patch)))
    wanted: dict[str, Any] = merge_patch(old, given) if isinstance(given, dict) else json_patch(old, given)
    metadata, current = wanted.get("metadata") or {}, old["metadata"]
    if metadata.get("resourceVersion") not in (None, "", current["resourceVersion"]):
        raise Conflict(
            f"{old['kind']} {current['name']!r}: the object has been modified; please apply your changes to the"
            " latest version and try again"
        )
    for field in ("name", "namespace", "uid", "deletionTimestamp"):
        if metadata.get(field) != current.get(field):
            raise Invalid(f"{old['kind']} {current['name']!r} is invalid: metadata.{field}: field is immutable")
    return wanted


def _plain(patch: Patch) -> dict[str, Any] | list[dict[str, Any]]:
    return [dict(step) for step in patch] if isinstance(patch, Sequence) else dict(patch)


def _kept(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """New metadata with what only the server writes as it was."""
    own = (*_SERVER_SIDE, *_SERVER_SIDE_NUMBERS)
    kept = {key: value for key, value in new.items() if key not in own and (value or key not in _OMITTED_WHEN_EMPTY)}
    return kept | {key: old[key] for key in own if key in old}


def _replaced(item: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    rest = {key: kept for key, kept in item.items() if key != field}
    return rest if value is None else {**rest, field: value}


def _check_finalizers(type: ResourceType, old: dict[str, Any], new: dict[str, Any]) -> None:
    added = set(new.get("finalizers") or ()) - set(old.get("finalizers") or ())
    if added and "deletionTimestamp" in old:
        raise Invalid(
            f"{type.kind} {old['name']!r} is invalid: metadata.finalizers: no new finalizers can be added if the"
            f" object is being deleted, found {sorted(added)!r}"
        )


def _bumps_generation(kind: Kind, old: dict[str, Any], new: dict[str, Any]) -> bool:
    if not kind.ours:
        return False
    return old.get("spec") != new.get("spec") or (
        not kind.has_status_subresource and old.get("status") != new.get("status")
    )
