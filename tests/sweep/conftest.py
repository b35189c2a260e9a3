"""Sweeps are many short lives that know nothing of each other: they are shared out among the processors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from tests.sweep.sweeping import Crew


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    """A process for each processor, two at least; they end with the session."""
    workers = max(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield lambda work, orders: pool.map(work, orders, chunksize=8)
