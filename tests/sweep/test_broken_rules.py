"""A proof that finds nothing proves little: each rule is broken once, and must be found broken."""

from __future__ import annotations

import pytest
from tests.sweep.broken import BY_CRASHES, BY_DECISIONS
from tests.sweep.decisions import explore
from tests.sweep.scenarios import change_image, provision
from tests.sweep.sweeping import sweep

from agentmetal.app import Parts


@pytest.mark.parametrize(("parts", "beginning"), BY_DECISIONS.values(), ids=BY_DECISIONS)
def test_the_exploration_finds_it(parts: Parts, beginning: tuple[str, ...]) -> None:
    gone, broken = explore(2, parts, beginning=beginning, stop_at_first=True)
    assert broken, f"{gone} sequences, and none noticed"


@pytest.mark.parametrize("parts", BY_CRASHES.values(), ids=BY_CRASHES)
def test_the_crash_sweep_finds_it(parts: Parts) -> None:
    swept = [sweep(story, parts, stop_at_first=True) for story in (provision, change_image)]
    assert any(one.found for one in swept), "no crash noticed"
