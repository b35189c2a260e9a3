"""Which random stories a fault test tells: few every day, many in `make faults`, any single one again by its number.

A failing test has its seed in its name: `FAULTS_SEED=17 pytest <file>` tells story 17 alone. Names never change between
runs, so that processes which share tests agree on them.
"""

from __future__ import annotations

import os

import pytest

ALL = os.environ.get("FAULTS") == "all"
"""Is this `make faults`?"""
everything = pytest.mark.skipif(not ALL, reason="too long for every day: make faults")


def seeds(*, daily: int, all: int) -> list[int]:
    """The seeds to parametrise a test with."""
    if one := os.environ.get("FAULTS_SEED"):
        return [int(one)]
    return list(range(1, (all if ALL else daily) + 1))


def seeded(*, daily: int, all: int) -> pytest.MarkDecorator:
    """A test with a parameter `seed`: `@seeded(daily=5, all=200)`."""
    return pytest.mark.parametrize("seed", seeds(daily=daily, all=all), ids=lambda seed: f"seed{seed}")
