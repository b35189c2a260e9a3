"""Secrets by name, when they are used: the port `core.tool.Secrets` over the Kubernetes API. Used by tools and agents.

Nothing is cached or watched, and no value ever reaches a message or a log. What a namespace's people did not mark as
usable is not read: whoever may write a custom resource must not thereby read every Secret beside it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from agentmetal.core.errors import AlreadyExists, ClaimedByOther, Conflict, Forbidden, NotFound, Unavailable
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import FINALIZER, AnyResource, Label

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "agentmetal"
RELEASE_ATTEMPTS = 10
"""Somebody would have to write to the Secret between our read and our write this often in a row."""


class KubeSecrets:
    """`core.tool.Secrets`, implemented."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """Its values. Raises NotFound, and Forbidden when it is neither marked as usable nor made by us."""
        try:
            secret = await self._api.get(SECRET, namespace, name)
        except NotFound as error:
            raise NotFound(
                f"Secret {name!r} does not exist in namespace {namespace!r}: create it, or correct the reference"
            ) from error
        if _label(secret, Label.USABLE) != "true" and _label(secret, MANAGED_BY) != MANAGER:
            raise Forbidden(
                f"Secret {name!r} in namespace {namespace!r} lacks the label {Label.USABLE}=true;"
                f" if AgentMetal may use it: kubectl label secret -n {namespace} {name} {Label.USABLE}=true"
            )
        return _values(secret)

    async def create_once(self, owner: AnyResource, name: str, data: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Create it as the owner's property; what it holds then: the data, or what an earlier call stored.

        One of an earlier object of the same name goes first: whoever made that object go without us left it behind,
        and nobody else will ever take our finalizer off.
        """
        for _ in range(2):
            try:
                return _values(await self._api.create(SECRET, _body(owner, name, data)))
            except AlreadyExists:
                existing = await self._api.get(SECRET, owner.metadata.namespace, name)
            if not _of_an_earlier(existing, owner):
                break
            await self.release(owner.metadata.namespace, name)
        _check_owner(existing, owner)
        return _values(existing)

    async def change(self, owner: AnyResource, name: str, data: Mapping[str, bytes | None]) -> Mapping[str, bytes]:
        """Set or remove values of a Secret that is this owner's; returns what it holds then."""
        secret = await self._api.get(SECRET, owner.metadata.namespace, name)
        _check_owner(secret, owner)
        encoded = {key: None if value is None else _encoded(value) for key, value in data.items()}
        patch = {"metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]}, "data": encoded}
        return _values(await self._api.patch(SECRET, owner.metadata.namespace, name, patch))

    async def ours(self, owner: AnyResource, name: str) -> bool:
        """Did we make it for this very owner?"""
        try:
            return _owned_by(await self._api.get(SECRET, owner.metadata.namespace, name), owner)
        except NotFound:
            return False

    async def release(self, namespace: str, name: str) -> None:
        """Delete it if we made it, and take our finalizer off; nothing happens when it is gone.

        Left to the garbage collector it would outlive its owner when that is deleted with `--cascade=orphan`, and
        whether a teardown is over could not be seen by looking.
        """
        for _ in range(RELEASE_ATTEMPTS):
            try:
                if await self._let_go(namespace, name):
                    return
            except NotFound:
                return
            except Conflict:
                continue
        raise Conflict(f"Secret {name!r} in namespace {namespace!r} changes faster than it can be released: try again")

    async def _let_go(self, namespace: str, name: str) -> bool:
        """One step of it; True when nothing is left to do."""
        secret = await self._api.get(SECRET, namespace, name)
        metadata = secret["metadata"]
        if _label(secret, MANAGED_BY) == MANAGER and not metadata.get("deletionTimestamp"):
            await self._api.delete(SECRET, namespace, name, uid=metadata["uid"])
            return False
        finalizers = metadata.get("finalizers") or []
        if FINALIZER not in finalizers:
            return True
        left = [finalizer for finalizer in finalizers if finalizer != FINALIZER]
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": left}}
        await self._api.patch(SECRET, namespace, name, patch)
        return True


def _body(owner: AnyResource, name: str, data: Mapping[str, bytes]) -> dict[str, Any]:
    reference = {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.metadata.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    metadata = {
        "namespace": owner.metadata.namespace,
        "name": name,
        "labels": {MANAGED_BY: MANAGER, Label.UID: owner.uid},
        "ownerReferences": [reference],
        "finalizers": [FINALIZER],
    }
    encoded = {key: _encoded(value) for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": encoded}


def _check_owner(secret: dict[str, Any], owner: AnyResource) -> None:
    """An existing Secret counts only when it is this very owner's: another one's keys would open other machines."""
    metadata = secret["metadata"]
    if _owned_by(secret, owner):
        return
    what = f"Secret {metadata['name']!r} in namespace {metadata['namespace']!r}"
    if metadata.get("deletionTimestamp"):
        raise Unavailable(
            f"{what} belongs to an earlier object and is being deleted: it is made anew when that is over"
        )
    raise ClaimedByOther(
        f"{what} exists and does not belong to {owner.key} ({owner.uid}): rename or delete that Secret"
    )


def _owned_by(secret: dict[str, Any], owner: AnyResource) -> bool:
    references = secret["metadata"].get("ownerReferences") or []
    owners = [reference["uid"] for reference in references if reference.get("controller")]
    return owner.uid in owners and _label(secret, MANAGED_BY) == MANAGER


def _of_an_earlier(secret: dict[str, Any], owner: AnyResource) -> bool:
    """Did we make it for an object of the same kind and name that is gone? Two of them cannot exist at once."""
    references = [one for one in secret["metadata"].get("ownerReferences") or [] if one.get("controller")]
    same = [one for one in references if (one["kind"], one["name"]) == (owner.kind, owner.metadata.name)]
    return _label(secret, MANAGED_BY) == MANAGER and bool(same) and all(one["uid"] != owner.uid for one in same)


def _label(secret: dict[str, Any], name: str) -> str:
    return str((secret["metadata"].get("labels") or {}).get(name, ""))


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _values(secret: dict[str, Any]) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
