"""A measurement that fails says so in the table and leaves the others their turn. Used by `__main__` and `scale`."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterable

from bench.figures import Figure


async def attempt(say: Callable[[str], None], what: str, measuring: Awaitable[Iterable[Figure]]) -> tuple[Figure, ...]:
    """Its figures; or one that is missed and says why."""
    try:
        return tuple(await measuring)
    except Exception as error:  # whatever it is: it is told here, and in the table
        say(f"{what} could not be measured:\n{traceback.format_exc()}")
        why = " ".join(str(error).split())[:200]
        return (
            Figure(name=f"{what}: not measured", value=1, unit="", budget=0, note=f"{type(error).__name__}: {why}"),
        )
