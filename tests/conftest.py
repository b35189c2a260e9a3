"""For all tests. What a tier needs beyond this stands in its own conftest."""

from __future__ import annotations

import asyncio

import pytest

NO_OP_CYCLES = 0
"""How often looptime lets a loop with nothing to do spin before time moves.

Its default of 42 is for loops that wait for threads or sockets in ways it cannot see. Ours do not in virtual time, and
nearly all of the time of such tests was spent spinning.
"""


def pytest_configure() -> None:
    """Say that the main thread has no event loop of its own.

    Before each test looptime asks for the current loop. Up to Python 3.13 asking makes one when nobody has said
    anything, and nobody closes it: a ResourceWarning, and thereby a failure, in whichever test comes next.
    """
    asyncio.set_event_loop(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Virtual time moves as soon as nothing is left to do."""
    for item in items:
        if item.get_closest_marker("looptime") is not None:
            item.add_marker(pytest.mark.looptime(noop_cycles=NO_OP_CYCLES))
