"""For all tests. What a tier needs beyond this stands in its own conftest."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from tests.support.seeds import ALL

NO_OP_CYCLES = 0
"""How often looptime lets a loop with nothing to do spin before time moves.

Its default of 42 is for loops that wait for threads or sockets in ways it cannot see. Ours do not in virtual time, and
nearly all of the time of such tests was spent spinning.
"""


def pytest_configure() -> None:
    """Examples of hypothesis are the same every day, and others each time in `make faults`, which tells how to repeat
    them. A busy computer is no counter-example: what must be quick says so in a test of its own.

    Also say that the main thread has no event loop of its own.

    Before each test looptime asks for the current loop. Up to Python 3.13 asking makes one when nobody has said
    anything, and nobody closes it: a ResourceWarning, and thereby a failure, in whichever test comes next.
    """
    settings.register_profile("daily", deadline=None, derandomize=True)
    settings.register_profile("all", deadline=None, print_blob=True)
    settings.load_profile("all" if ALL else "daily")
    asyncio.set_event_loop(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Virtual time moves as soon as nothing is left to do."""
    for item in items:
        if item.get_closest_marker("looptime") is not None:
            item.add_marker(pytest.mark.looptime(noop_cycles=NO_OP_CYCLES))
