"""What other leaders, other versions and lost answers left in the journal: claimed, set aside, or taken up late.

The ledger builds on it; asked when a process begins to lead, at each pass, and every few minutes. It opens nothing.
"""

from __future__ import annotations

import logging

from agentmetal.core.abreast import abreast
from agentmetal.core.clock import rfc3339
from agentmetal.core.errors import Conflict, NotFound, UnreadableOperation
from agentmetal.core.lines import one_line
from agentmetal.core.operation import Operation, OperationPhase, OperationStatus, Unreadable
from agentmetal.core.resource import AnyResource
from agentmetal.engine.writing import JournalGone, Writing

CLAIMS_AT_ONCE = 32
"""Writes under way while a new leader takes everything over."""

log = logging.getLogger("agentmetal.ledger")


class Recovery(Writing):
    """Takes up what this process did not open."""

    async def prime(self) -> tuple[Operation, ...]:
        """Load what is open, and claim all of it: an older leader's next write then fails with a conflict.

        Nothing may act before this returns, so many are claimed at a time.
        """
        found = await abreast(CLAIMS_AT_ONCE, self._taken_up, await self._journal.open_operations())
        return tuple(operation for operation in found if operation is not None)

    async def _taken_up(self, operation: Operation | Unreadable) -> Operation | None:
        """The operation, claimed; None when it is over, gone, or another version's."""
        if isinstance(operation, Unreadable):
            await self._set_aside(operation)
            return None
        if not operation.phase.waiting and await self._was_over(operation):
            await self.close(operation, OperationPhase.CANCELLED, "it was over before, and is not run again")
            return None
        try:
            return await self._claim(operation)
        except JournalGone as error:
            log.info("%s", error)
            return None

    async def find_strays(self) -> tuple[Operation, ...]:
        """Open operations that this process did not know: their creation was given up, and arrived all the same."""
        found: list[Operation] = []
        for listed in await self._journal.open_operations():
            if isinstance(listed, Unreadable) or self._known(listed):
                continue
            try:
                stray = await self._journal.read(listed.metadata.namespace, listed.metadata.name)
            except NotFound:
                continue
            if not stray.phase.closed and not self._known(stray) and (taken := await self._taken_up(stray)):
                log.warning("%s was created late and is taken up now", stray.metadata.name)
                found.append(taken)
        return tuple(found)

    def _known(self, operation: Operation) -> bool:
        uid, name = operation.spec.resource_ref.uid, operation.metadata.name
        return name in self._open.get(uid, ()) or any(op.metadata.name == name for op in self._closed.get(uid, ()))

    async def _claim(self, operation: Operation) -> Operation:
        """Write our epoch into it, waiting or begun; what its last leader wrote meanwhile stays as it is."""
        wanted = self._claimed(operation.status)
        if wanted == operation.status:
            self._remember(operation)
            return operation
        return await self._write(operation, wanted, anew=self._claimed)

    def _claimed(self, status: OperationStatus) -> OperationStatus:
        if status.phase.closed or status.epoch >= self._epoch():
            return status
        update: dict[str, object] = {"epoch": self._epoch()}
        if status.phase is OperationPhase.RUNNING:
            update |= {"resumed": status.resumed + 1, "message": "taken up by a new leader"}
        return status.model_copy(update=update)

    async def catch_up(self, resource: AnyResource) -> None:
        """Learn how operations of the object ended that closed before this process began."""
        if found := self._unreadable.get(resource.uid):
            await self._still_unreadable(found)
        status = resource.status
        if resource.uid in self._closed or (status.plan is None and status.last_operation is None):
            return
        history = await self._journal.history(resource.metadata.namespace, resource.uid)
        self._closed[resource.uid] = [op for op in history if isinstance(op, Operation) and op.phase.closed]
        # Also a closed one of another version has its number.
        if unread := [op.number for op in history if isinstance(op, Unreadable)]:
            self._numbers[resource.uid] = max(*unread, await self._trail.highest_number(resource.uid))

    async def _set_aside(self, found: Unreadable) -> None:
        """Another version's: what has not begun is planned anew by us, what has begun is left to that version."""
        if not found.untouched:
            log.error("%s: it is left alone, and its object with it", found)
            self._unreadable[found.uid] = found
            return
        try:
            message = f"{found.why}: it is planned anew, and needs a new decision"
            await self._journal.supersede_unread(found, one_line(message, 1024), rfc3339(self._clock.now()))
        except NotFound:
            return
        except Conflict:  # somebody acts on it: then it may have begun
            self._unreadable[found.uid] = found

    async def _still_unreadable(self, found: Unreadable) -> None:
        """Raises UnreadableOperation, in a pass of its object, until it is gone or closed."""
        now: Operation | None = None
        try:
            now = await self._journal.read(found.namespace, found.name)
        except NotFound:
            log.info("%s exists no more: its object goes on", found)
        except UnreadableOperation as error:
            if error.closed:
                self._unreadable.pop(found.uid, None)
                return
            raise UnreadableOperation(
                f"{error.message}: nothing is done until it is over. Run the version that wrote it; or, if that cannot"
                f" be, see what its steps did to the machine, delete Operation {found.name!r} as administrator, and"
                " annotate agentmetal.io/replan"
            ) from error
        if now is not None and not now.phase.closed:
            await self._claim(now)
        self._unreadable.pop(found.uid, None)
