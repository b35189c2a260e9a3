"""Group commit: everything that waits goes into one transaction, then the next. Used by the stores that have a disk.

What arrives together, or while the disk is busy with the commit before, shares a commit. There is no timer: a lone
record is written at once, and nothing waits longer than the one commit before its own. How a batch is committed, and
what is done when that fails, is the store's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

LARGEST_BATCH = 512
"""Bounds one transaction; what is over it shares the next one."""

J = TypeVar("J")


class GroupCommit(Generic[J]):
    """One writer task in front of `commit`, which answers with a result for each job."""

    def __init__(self, commit: Callable[[list[J]], Awaitable[list[Any]]]) -> None:
        self._commit = commit
        self._waiting: asyncio.Queue[tuple[J, asyncio.Future[Any]] | None] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write(), name="audit-writer")

    @property
    def open(self) -> bool:
        """Is there somebody who writes?"""
        return self._writer is not None

    async def stored(self, job: J) -> Any:
        """What the job returns, once the transaction that it ran in is committed."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((job, future))
        return await future

    async def close(self) -> bool:
        """Write what waits, then no more. False when it was closed before."""
        writer, self._writer = self._writer, None
        if writer is None:
            return False
        self._waiting.put_nowait(None)
        await writer
        return True

    async def _write(self) -> None:
        while (first := await self._waiting.get()) is not None:
            batch, last = [first], False
            while not self._waiting.empty() and len(batch) < LARGEST_BATCH and not last:
                if (another := self._waiting.get_nowait()) is None:
                    last = True
                else:
                    batch.append(another)
            await self._settle(batch)
            if last:
                return

    async def _settle(self, batch: list[tuple[J, asyncio.Future[Any]]]) -> None:
        """Commit a batch and tell everyone. What a caller who gave up had asked for is stored all the same."""
        try:
            results = await self._commit([job for job, _ in batch])
        except Exception as error:
            # Not swallowed: every caller gets it, and the writer lives on for the next ones.
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
