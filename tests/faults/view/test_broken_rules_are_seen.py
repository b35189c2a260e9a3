"""Rules of the operator itself, broken one at a time: the stories of bad views must notice each of them."""

from __future__ import annotations

import logging

import pytest
from tests.faults.view.broken import BY_LATE_CREATION, BY_STORIES
from tests.faults.view.lying import Fault
from tests.faults.view.single import Trouble, complaint, meet
from tests.faults.view.stories import tell
from tests.sweep.scenarios import provision

from agentmetal.app import Parts

STORIES = 150
"""By then at the latest: the first seeds find each of them."""


@pytest.mark.parametrize("parts", BY_STORIES.values(), ids=BY_STORIES)
def test_the_stories_notice(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    assert any(tell(seed, parts)[1] for seed in range(1, STORIES)), f"{STORIES} stories, and none noticed"


def test_the_sweep_notices_an_operation_that_nobody_looks_for() -> None:
    created = next(
        number for number, what in enumerate(meet(provision), start=1) if what.startswith("create operations")
    )
    late = Trouble(fault=Fault.AFTERWARDS, at=created, lasts=30.0)
    assert not complaint(provision, late)
    assert "ended as Pending" in complaint(provision, late, BY_LATE_CREATION)
