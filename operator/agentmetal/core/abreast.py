"""Many alike at a time, and never all at once: for where thousands of requests would else be sent one by one.

It retries nothing: the first error ends the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def abreast(count: int, do: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """What `do` answers for each, in the order in which they ended. Raises the first error, with none left."""
    left, answers = iter(items), list[R]()

    async def some() -> None:
        for item in left:
            answers.append(await do(item))

    tasks = [asyncio.create_task(some(), name=f"abreast {getattr(do, '__name__', '')}") for _ in range(count)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return answers
