"""Starts the simulated day (`bench.day`) in a process of its own: its loop is a virtual one. Called by `__main__`."""

from __future__ import annotations

from bench.day.figures import HOURS, OBJECTS, SEED
from bench.figures import Figure, from_json
from bench.machines import child

WITHIN = 3600.0
"""Seconds; it takes some minutes of CPU, and shares the machine with whatever else runs."""


async def measure() -> list[Figure]:
    """The figures of that process."""
    async with child("bench.day", str(HOURS), str(OBJECTS), str(SEED)) as process:
        return list(from_json(await process.hear(WITHIN)))
