"""The watch is late, deaf, doubled or out of order and calls fail by chance, while people decide: random stories."""

from __future__ import annotations

import logging

import pytest
from tests.faults.view.stories import tell
from tests.support.seeds import seeded


@seeded(daily=60, all=1500)
def test_no_story_breaks_the_law(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # troubles are many, and meant
    told, broken = tell(seed)
    assert not broken, f"{broken[:5]} <- {told}"
