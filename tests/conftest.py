"""For all tests. What a tier needs beyond this stands in its own conftest."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """Say that the main thread has no event loop of its own.

    Before each test looptime asks for the current loop. Up to Python 3.13 asking makes one when nobody has said
    anything, and nobody closes it: a ResourceWarning, and thereby a failure, in whichever test comes next.
    """
    asyncio.set_event_loop(None)
