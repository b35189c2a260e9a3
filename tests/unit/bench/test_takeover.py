"""What is told of takeovers: the slowest counts."""

from __future__ import annotations

import pytest
from bench.takeover import figures


@pytest.mark.parametrize(("taken", "verdict"), [([0.5, 1.9, 0.7], "ok"), ([0.5, 2.1, 0.7], "MISSED")])
def test_the_slowest_takeover_is_held_against_the_budget(taken: list[float], verdict: str) -> None:
    takeover, standby = figures(11_001, taken, 200.0)
    assert (takeover.value, takeover.verdict) == (max(taken), verdict)
    assert all(f"{seconds:.2f} s" in takeover.note for seconds in taken)
    assert standby.verdict == ""
