"""The journal's protocol: where Operations are kept. Implemented by `kube.journal`, over any KubeApi.

Only the ledger calls it.
"""

from __future__ import annotations

from typing import Protocol

from agentmetal.core.operation import Operation, OperationStatus, Unreadable
from agentmetal.core.resource import AnyResource


class Journal(Protocol):
    """Durable Operations. Raises core.errors; every write is compared with the version it was made from."""

    async def create(self, operation: Operation, resource: AnyResource) -> Operation:
        """Record a new one. Raises AlreadyExists when the name is taken."""

    async def read(self, namespace: str, name: str) -> Operation:
        """As it is now, read with quorum. Raises NotFound, UnreadableOperation."""

    async def write(self, operation: Operation, status: OperationStatus) -> Operation:
        """Replace its status; a closed one loses our finalizer in the same write. Raises Conflict."""

    async def history(self, namespace: str, uid: str) -> tuple[Operation | Unreadable, ...]:
        """All operations of an object, oldest first."""

    async def open_operations(self) -> tuple[Operation | Unreadable, ...]:
        """All that are not closed, of all objects."""

    async def supersede_unread(self, found: Unreadable, message: str, at: str) -> None:
        """Close one that has not begun and that we cannot read. Raises Conflict, NotFound."""

    async def delete(self, operation: Operation) -> None:
        """Forget a closed one; nothing happens when it is gone."""
