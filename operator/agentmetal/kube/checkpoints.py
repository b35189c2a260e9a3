"""Heads of the audit trail outside of it: compared with the store, and kept as AuditCheckpoints. Run by `process`.

What was seen outside and is not in the store was lost: its server failed over, or a backup was restored. That becomes a
gap record, and nothing above Safe begins until a person acknowledges it (`engine.trail`). Compared are what costs
nothing to read: the checkpoints, the open Operations and the Lease, where the head is noted at each renewal. Closed
Operations, of which there may be very many, are compared by `agentmetal audit verify`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentmetal.core.audit import GENESIS, AuditStore, Head, gap_entries, held_by
from agentmetal.core.checkpoint import AuditCheckpoint, checkpoint_name
from agentmetal.core.clock import Clock, rfc3339
from agentmetal.core.errors import AgentMetalError, AlreadyExists, NotFound
from agentmetal.core.kubetypes import LEASE
from agentmetal.core.operation import Operation, Unreadable, read_operation
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import PREFIX
from agentmetal.kube.journal import OPEN_ONLY

LOOK_EVERY = 60.0
"""Seconds between two looks at what is due."""
WRITE_EVERY = 3600.0
"""Seconds between two checkpoints, when there are new records."""
WRITE_AFTER = 10_000
"""New records that make a checkpoint sooner."""
AT_MOST = 2000
"""Above this many, only start and end make one: the operator cannot delete any, and a cluster is no archive."""
NOTE = f"{PREFIX}audit-head"
"""Annotation of the Lease: the newest hash that its holder saw."""

log = logging.getLogger("agentmetal.checkpoints")


class Checkpoints:
    """The trail's heads in the cluster. `lease` names the Lease, which is in the same namespace."""

    def __init__(self, api: KubeApi, audit: AuditStore, clock: Clock, *, namespace: str, lease: str) -> None:
        self._api = api
        self._audit = audit
        self._clock = clock
        self._namespace = namespace
        self._lease = lease
        self._epoch = 0
        self._last = Head()
        self._written = float("-inf")
        self._open = 0

    async def next_epoch(self, at_least: int) -> int:
        """An epoch above all that the store, the Lease or a checkpoint know: a restored store forgets some."""
        named = [checkpoint.spec.epoch + 1 for checkpoint in await self._list()]
        return await self._audit.next_epoch(max(at_least, *named) if named else at_least)

    async def begin(self, epoch: int) -> None:
        """Before anything acts: look for lost records, then keep the head, and with it our epoch."""
        await self.compare()
        self._epoch = epoch
        await self.write()

    def notes(self) -> dict[str, str]:
        """What the Lease shall say; nothing until lost records would have been noticed."""
        return {NOTE: self._audit.seen.hash} if self._epoch and self._audit.seen.sequence else {}

    async def keep(self, told: Callable[[int], None]) -> None:
        """While we lead: say how many gaps are open, and keep the head now and then."""
        while True:
            try:
                await self._look(told)
            except AgentMetalError as error:  # the next look comes; steps ask the store themselves
                log.warning("the head of the audit trail is not kept now: %s", error)
            await asyncio.sleep(LOOK_EVERY)

    async def end(self) -> None:
        """The orderly end: the head once more."""
        if self._epoch and await self._audit.head() != self._last:
            await self.write()

    async def compare(self) -> int:
        """Write gap records for heads that were seen outside and are not in the store. How many hashes they name."""
        operations = await self._open_operations()
        seen = {**await self._noted(), **{op.status.audit_head or "": _place(op) for op in operations}}
        seen |= {one.spec.hash: f"AuditCheckpoint {one.metadata.name}" for one in await self._list()}
        known = await self._audit.places([hash for hash in seen if hash])
        lost = {hash: where for hash, where in seen.items() if hash not in ("", GENESIS) and hash not in known}
        if lost:
            await self._teach(operations)  # first: once the gap is recorded nobody asks for these hashes again
            for entry in gap_entries(await self._audit.head(), lost, rfc3339(self._clock.now())):
                log.error("%s", held_by(await self._audit.append(entry)))
        return len(lost)

    async def write(self) -> None:
        """Keep the head as it is now."""
        head = await self._audit.head()
        name = checkpoint_name(head, self._epoch)
        at = rfc3339(self._clock.now())
        body = {
            "apiVersion": AuditCheckpoint.info.type.api_version,
            "kind": AuditCheckpoint.info.kind,
            "metadata": {"namespace": self._namespace, "name": name},
            "spec": {"sequence": head.sequence, "hash": head.hash, "at": at, "epoch": self._epoch},
        }
        try:
            await self._api.create(AuditCheckpoint.info.type, body)
        except AlreadyExists:
            log.debug("checkpoint %s is kept already", name)
        self._last, self._written = head, asyncio.get_running_loop().time()

    async def _look(self, told: Callable[[int], None]) -> None:
        gaps = len(await self._audit.gaps())
        if gaps > self._open:  # the store noticed one while it worked: name all that is lost with it
            # That gap may name all that is lost, and then `compare` finds nothing to teach.
            await self._teach(await self._open_operations())
            await self.compare()
            gaps = len(await self._audit.gaps())
        self._open = gaps
        told(gaps)
        await self._write_if_due()

    async def _write_if_due(self) -> None:
        head, now = await self._audit.head(), asyncio.get_running_loop().time()
        soon = head.sequence - self._last.sequence >= WRITE_AFTER
        if head == self._last or not (soon or now - self._written >= WRITE_EVERY):
            return
        if (kept := len(await self._list())) < AT_MOST:
            await self.write()
            return
        todo = "delete old ones as administrator (docs/how-to/postgresql.md)"
        log.warning("%d AuditCheckpoints are kept, more come only at start and end: %s", kept, todo)
        self._last, self._written = head, now

    async def _teach(self, operations: list[Operation]) -> None:
        """Numbers and used approvals that the journal still knows, once more into the store that forgot them."""
        for op in operations:
            await self._audit.note_number(op.spec.resource_ref.uid, op.spec.number)
            decision = op.status.decision
            if decision and decision.via == "Annotation" and not op.phase.waiting:
                await self._audit.use_digest(op.digest, f"{op.metadata.name}@{op.status.epoch}")

    async def _list(self) -> list[AuditCheckpoint]:
        found = (await self._api.list(AuditCheckpoint.info.type, self._namespace)).items
        return [AuditCheckpoint.model_validate({**body, "status": {}}) for body in found]

    async def _open_operations(self) -> list[Operation]:
        found = (await self._api.list(Operation.info.type, field_selector=OPEN_ONLY)).items
        return [op for op in map(read_operation, found) if not isinstance(op, Unreadable)]

    async def _noted(self) -> dict[str, str]:
        try:
            lease = await self._api.get(LEASE, self._namespace, self._lease)
        except NotFound:
            return {}
        return {(lease["metadata"].get("annotations") or {}).get(NOTE, ""): f"Lease {self._lease}"}


def _place(operation: Operation) -> str:
    return f"Operation {operation.metadata.namespace}/{operation.metadata.name}"
