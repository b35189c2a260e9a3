"""How processes share tests of two sorts: those that wait for a real system, and those that compute in memory.

A pytest plugin: `pytest -p tests.support.sharing --dist=loadfile --numprocesses=3`, which `tests/run.py` says for tiers
with `share="sorts"`. Files with tests on a real system (`needs_control_plane`) go as they are, for each process that
takes one starts a system; of all others each test goes by itself. The first process takes tests in memory and helps
with real ones when they are done; the others take real ones, and help in memory when no file is left. What is marked
`long` begins first, so that nothing long is left alone at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

REAL = "needs_control_plane"
LONG = "long"
AHEAD = 1
"""Tests that a process still has when it gets more: with none it would not know which fixtures it needs no more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In each process alike."""
    items.sort(key=lambda item: item.get_closest_marker(LONG) is None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TwoSorts:
    """In the process that hands out: it collects nothing itself and knows tests by their names only."""
    return TwoSorts(config, log, cache(lambda file: REAL in (config.rootpath / file).read_text(encoding="utf-8")))


class TwoSorts(LoadScopeScheduling):  # type: ignore[misc] # xdist ships no types
    """Hands out units: a file of real tests, or one test in memory."""

    def __init__(self, config: pytest.Config, log: Producer, real: Callable[[str], bool]) -> None:
        super().__init__(config, log)
        self._real = real

    def _split_scope(self, nodeid: str) -> str:
        """The unit that a test belongs to."""
        file = nodeid.partition("::")[0]
        return file if self._real(file) else nodeid

    def _assign_work_unit(self, node: WorkerController) -> None:
        """The first of the process' own sort, or else of the other one."""
        in_memory = node.gateway.id == "gw0"
        if own := next((unit for unit in self.workqueue if ("::" in unit) is in_memory), None):
            self.workqueue.move_to_end(own, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        """As late as can be: what waits behind a long test could run elsewhere."""
        if not self.workqueue or self._pending_of(self.assigned_work[node]) <= AHEAD:
            super()._reschedule(node)
