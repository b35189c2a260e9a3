"""Ctrl-C during the demonstration: once ends it, then the clean-up is waited for, unless somebody insists."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from agentmetal.cli.demo import Interruptions
from agentmetal.dev.report import Row


class Heard:
    """What was said, what was cancelled, and a clock."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.cancelled = 0
        self.interruptions = Interruptions(self)

    def say(self, line: str) -> None:
        self.said.append(line)

    def show(self, rows: Sequence[Row]) -> None:
        """No rows here."""

    def press(self, at: float, number: signal.Signals = signal.SIGINT) -> None:
        self.interruptions.happened(number, lambda: at, self.cancel)

    def cancel(self) -> None:
        self.cancelled += 1


def test_the_first_interruption_ends_the_story() -> None:
    heard = Heard()
    heard.press(0.0, signal.SIGTERM)
    assert (heard.cancelled, heard.said, heard.interruptions.abandoned) == (1, [], False)
    assert heard.interruptions.number is signal.SIGTERM


def test_a_second_one_waits_for_the_clean_up_and_says_so() -> None:
    heard = Heard()
    heard.press(0.0)
    heard.press(0.5)
    heard.press(5.0)
    assert heard.cancelled == 1
    assert [line.split(" (")[0] for line in heard.said] == ["still cleaning up"] * 2


def test_a_third_one_right_after_the_second_abandons_the_clean_up() -> None:
    heard = Heard()
    for at in (0.0, 0.5, 1.0):
        heard.press(at)
    assert heard.cancelled == 2
    assert heard.interruptions.abandoned


def test_a_clean_up_at_the_good_end_is_not_cancelled_either() -> None:
    heard = Heard()
    heard.interruptions.cleaning_begins()
    heard.press(0.0)
    assert heard.cancelled == 0
