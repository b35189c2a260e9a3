"""Operations as Kubernetes objects: implements `engine.journal.Journal` over any KubeApi. Called by the ledger only.

In a namespace that is going away nothing can be created: there the journal lives in the object's own
`status.teardown.operations`, by name and in the same form: a repair may stand beside the teardown that waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentmetal.core.errors import Forbidden, NotFound, UnreadableOperation
from agentmetal.core.operation import (
    OPEN,
    Operation,
    OperationPhase,
    OperationStatus,
    Unreadable,
    read_operation,
)
from agentmetal.core.plan import Trigger
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import FINALIZER, AnyResource, Key, Label, ResourceType
from agentmetal.kube.cache import Cache

_CLOSED = [phase for phase in OperationPhase if phase not in OPEN]
_STATUS_FIELDS = [field.alias or name for name, field in OperationStatus.model_fields.items()]
OPEN_ONLY = ",".join(f"status.phase!={phase.value}" for phase in _CLOSED)
"""A field selector: `in` is refused by the API server."""


Place = tuple[ResourceType, Key]
"""An object that holds operations in its status."""


class KubeJournal:
    """Durable Operations."""

    def __init__(self, api: KubeApi, cache: Cache) -> None:
        self._api = api
        self._cache = cache
        self._embedded: dict[str, Place] = {}
        """Operations kept in an object's status: name -> where. Those of objects that are gone go at the next LIST."""

    async def create(self, operation: Operation, resource: AnyResource) -> Operation:
        """Record a new one. Raises AlreadyExists when the name is taken."""
        body = _body(operation, resource)
        try:
            return _parse(await self._api.create(Operation.info.type, body))
        except Forbidden:
            if not resource.deleting:
                raise
            return await self._embed(operation, resource)

    async def read(self, namespace: str, name: str) -> Operation:
        """As it is now, read with quorum. Raises NotFound."""
        if place := self._embedded.get(name):
            return _embedded_in(await self._api.get(place[0], namespace, place[1].name), name)
        return _parse(await self._api.get(Operation.info.type, namespace, name))

    async def write(self, operation: Operation, status: OperationStatus) -> Operation:
        """Replace its status; a closed one loses our finalizer in the same write. Raises Conflict."""
        meta = operation.metadata
        if place := self._embedded.get(meta.name):
            return await self._write_embedded(operation, status, place)
        # The whole status: what the caller holds may be ahead of what the server does, so there is nothing to compare.
        patch: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version},
            {"op": "add", "path": "/status", "value": status.wire()},
        ]
        if status.phase.closed:
            kept = [name for name in meta.finalizers if name != FINALIZER]
            patch.append({"op": "add", "path": "/metadata/finalizers", "value": kept})
        answer = await self._api.patch(Operation.info.type, meta.namespace, meta.name, patch)
        return _parse(answer)

    async def history(self, namespace: str, uid: str) -> tuple[Operation | Unreadable, ...]:
        """All operations of an object, oldest first."""
        listing = await self._api.list(Operation.info.type, namespace, label_selector=f"{Label.UID}={uid}")
        found = [*map(read_operation, listing.items), *self._find_embedded()]
        return tuple(sorted((op for op in found if _uid(op) == uid), key=_number))

    async def open_operations(self) -> tuple[Operation | Unreadable, ...]:
        """All that are not closed, of all objects."""
        listing = await self._api.list(Operation.info.type, field_selector=OPEN_ONLY)
        return (*map(read_operation, listing.items), *(op for op in self._find_embedded() if not _closed(op)))

    async def supersede_unread(self, found: Unreadable, message: str, at: str) -> None:
        """Close one that has not begun and that we cannot read: only the fields that every version has."""
        kept = [name for name in found.finalizers if name != FINALIZER]
        end = {"phase": OperationPhase.SUPERSEDED.value, "message": message, "finishedAt": at}
        patch: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": found.resource_version},
            *({"op": "add", "path": f"/status/{name}", "value": value} for name, value in end.items()),
            {"op": "add", "path": "/metadata/finalizers", "value": kept},
        ]
        await self._api.patch(Operation.info.type, found.namespace, found.name, patch)

    async def delete(self, operation: Operation) -> None:
        """Forget a closed one; nothing happens when it is gone."""
        if place := self._embedded.get(operation.metadata.name):
            await self._drop_embedded(operation, place)
            return
        try:
            await self._api.delete(Operation.info.type, operation.metadata.namespace, operation.metadata.name)
        except NotFound:
            return

    # ---- in the object itself

    async def _embed(self, operation: Operation, resource: AnyResource) -> Operation:
        place = (resource.info.type, resource.key)
        meta = operation.metadata.model_copy(update={"resource_version": resource.metadata.resource_version})
        self._embedded[operation.metadata.name] = place  # first of all: when the answer is lost it is looked for there
        return await self._write_embedded(operation.model_copy(update={"metadata": meta}), operation.status, place)

    async def _write_embedded(self, operation: Operation, status: OperationStatus, place: Place) -> Operation:
        updated = operation.model_copy(update={"status": status})
        whole = {**dict.fromkeys(_STATUS_FIELDS), **status.wire()}
        kept = {operation.metadata.name: {"spec": operation.spec.wire(), "status": whole}}
        version = {"resourceVersion": operation.metadata.resource_version}
        answer = await self._api.patch(
            place[0],
            operation.metadata.namespace,
            place[1].name,
            {"metadata": version, "status": {"teardown": {"operations": kept}}},
            subresource="status",
        )
        self._cache.put(answer)
        meta = operation.metadata.model_copy(update={"resource_version": answer["metadata"]["resourceVersion"]})
        return updated.model_copy(update={"metadata": meta})

    async def _drop_embedded(self, operation: Operation, place: Place) -> None:
        patch = {"status": {"teardown": {"operations": {operation.metadata.name: None}}}}
        try:
            answer = await self._api.patch(
                place[0], operation.metadata.namespace, place[1].name, patch, subresource="status"
            )
        except NotFound:
            return
        self._cache.put(answer)

    def _find_embedded(self) -> tuple[Operation | Unreadable, ...]:
        self._embedded = {name: place for name, place in self._embedded.items() if self._cache.entry(place[1])}
        found = []
        for key in self._cache.with_teardown():
            entry = self._cache.entry(key)
            if entry is None:
                continue
            version = {"namespace": key.namespace, "resourceVersion": entry.resource.metadata.resource_version}
            for name in _operations_in(entry.status):
                self._embedded[name] = (entry.resource.info.type, key)
                found.append(_embedded({"metadata": version, "status": entry.status}, name))
        return tuple(found)


def _body(operation: Operation, resource: AnyResource) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": operation.metadata.name,
        "namespace": operation.metadata.namespace,
        "labels": {Label.UID: resource.uid},
        "finalizers": [FINALIZER],
    }
    if operation.spec.cause.trigger is not Trigger.DELETION and not resource.deleting:
        metadata["ownerReferences"] = [_owner(resource)]
    return {
        "apiVersion": operation.api_version,
        "kind": operation.kind,
        "metadata": metadata,
        "spec": operation.spec.wire(),
        "status": operation.status.wire(),
    }


def _owner(resource: AnyResource) -> dict[str, Any]:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": resource.metadata.name,
        "uid": resource.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _parse(body: dict[str, Any]) -> Operation:
    return _readable(read_operation(body))


def _readable(found: Operation | Unreadable) -> Operation:
    if isinstance(found, Unreadable):
        raise UnreadableOperation(str(found), closed=_closed(found))
    return found


def _uid(found: Operation | Unreadable) -> str:
    return found.uid if isinstance(found, Unreadable) else found.spec.resource_ref.uid


def _number(found: Operation | Unreadable) -> int:
    return found.number if isinstance(found, Unreadable) else found.spec.number


def _closed(found: Operation | Unreadable) -> bool:
    return found.phase in _CLOSED if isinstance(found, Unreadable) else found.phase.closed


def _operations_in(status: Mapping[str, Any]) -> Mapping[str, Any]:
    kept: Mapping[str, Any] = (status.get("teardown") or {}).get("operations") or {}
    return kept


def _embedded_in(body: dict[str, Any], name: str) -> Operation:
    return _readable(_embedded(body, name))


def _embedded(body: dict[str, Any], name: str) -> Operation | Unreadable:
    kept = _operations_in(body.get("status") or {}).get(name)
    if kept is None:
        raise NotFound(f"Operation {name!r} is not in the object's status.teardown any more")
    meta = {
        "name": name,
        "namespace": body["metadata"].get("namespace", ""),
        "resourceVersion": body["metadata"]["resourceVersion"],
    }
    return read_operation({"metadata": meta, "spec": kept["spec"], "status": kept["status"]})
