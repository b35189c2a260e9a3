"""Text of others as one line: whatever a host or a user says, a terminal shows it and does nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmetal.core.lines import one_line


@given(st.text(max_size=300), st.integers(1, 100))
def test_it_is_printable_and_bounded(text: str, limit: int) -> None:
    line = one_line(text, limit)

    assert line.isprintable()
    assert len(line) <= limit


@pytest.mark.parametrize("evil", ["\x1b[2J", "\n", "\r", "\u202e", "\x9b2J", "\u2028", "\ud800"])
def test_what_moves_a_cursor_or_turns_a_line_is_taken_out(evil: str) -> None:
    assert one_line(f"a{evil}b", 50)[:2] == "a "


def test_a_plain_line_stays_as_it_is() -> None:
    assert one_line("its / is nearly full: größer", 50) == "its / is nearly full: größer"
