"""Ports: what agents, engine and edge need from the world, as protocols.

Implemented in clients, providers, kube and store. `Machines` and `ServerProvider` stand in `core.machine`,
`Providers`, `Secrets` and `Lookup` in `core.tool`, `AuditStore` in `core.audit`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from agentmetal.core.clock import Clock, SystemClock
from agentmetal.core.machine import Machines
from agentmetal.core.resource import ResourceType
from agentmetal.core.tool import Lookup, Providers, Secrets

Json = Mapping[str, Any]
Patch = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A mapping is a JSON merge patch; a sequence is a JSON patch."""


@dataclass(frozen=True, kw_only=True)
class ObjectList:
    """One consistent reading of a kind."""

    items: tuple[dict[str, Any], ...]
    resource_version: str


@dataclass(frozen=True, kw_only=True)
class WatchEvent:
    """Something happened to an object. BOOKMARK carries only a resourceVersion."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: dict[str, Any]


class KubeApi(Protocol):
    """The Kubernetes API, as JSON. Real: `clients.kubernetes`; in process: `kube.memory`.

    Raises core.errors: NotFound (404), AlreadyExists (409 on create), Conflict (409 on writes), Gone (410),
    Invalid (400, 422), Forbidden (401, 403), RateLimited (429), Unavailable (5xx, timeouts of reads, no connection),
    OutcomeUnknown (the answer to a write was lost).
    """

    async def get(self, type: ResourceType, namespace: str, name: str) -> dict[str, Any]:
        """One object, read with quorum."""

    async def list(
        self,
        type: ResourceType,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> ObjectList:
        """All objects, of all namespaces when None; paged inside.

        `metadata_only`: of each object no more than its name, namespace, uid and version.
        """

    async def create(self, type: ResourceType, body: Json, *, dry_run: bool = False) -> dict[str, Any]:
        """Create an object (its namespace is in its metadata); returns it as stored."""

    async def patch(
        self,
        type: ResourceType,
        namespace: str,
        name: str,
        patch: Patch,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Change an object. A `metadata.resourceVersion` in a merge patch makes it conditional."""

    async def delete(
        self, type: ResourceType, namespace: str, name: str, *, propagation: str = "Background", uid: str = ""
    ) -> None:
        """Delete an object; with a uid only that very one (else Conflict)."""

    def watch(
        self, type: ResourceType, namespace: str | None = None, *, resource_version: str = ""
    ) -> AsyncIterator[WatchEvent]:
        """Events after that version until the server ends the watch. Raises Gone when it is too old."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What an agent gets when it is built."""

    cluster: str
    """uid of this cluster, for owner tags."""
    machines: Machines
    providers: Providers
    secrets: Secrets
    lookup: Lookup
    clock: Clock = field(default_factory=SystemClock)
    """When an observation is made."""
