"""Claims about the figures of many machines: the dead are not counted among the late, and budgets are compared."""

from __future__ import annotations

from typing import Any

from bench.machines import figures

CONNECTED = {"count": 2, "seconds": 1.0, "cpu": 0.5, "resident_before": 1000.0}


def told(*hosts: tuple[list[float], int], cpu: float = 1.0) -> dict[str, Any]:
    return {"seconds": 10.0, "cpu": cpu, "resident": 1100.0, "hosts": [list(host) for host in hosts]}


def values(ill: dict[str, Any]) -> dict[str, tuple[float, str]]:
    well = told(([0.1], 0), ([0.1], 0), ([0.1], 0))
    found = figures(CONNECTED, well, ill, 1, frozenset({2}))
    return {figure.name.partition(": ")[2].partition(",")[0]: (figure.value, figure.verdict) for figure in found}


def test_memory_and_cpu_are_those_of_one_connection_and_one_second() -> None:
    told_of = values(told(([0.1], 0), ([0.1], 0), ([], 3)))

    assert told_of["memory for each"] == (50.0, "ok")
    assert told_of["CPU of looking at each every 30 s"] == (0.1, "ok")


def test_the_dead_are_not_late_and_the_living_who_are_miss_the_budget() -> None:
    well = values(told(([0.1], 0), ([0.05], 0), ([9.0], 3)))
    late = values(told(([0.1], 0), ([2.0], 0), ([], 3)))

    assert well["later because 50 are dead"] == (0.0, "ok")
    assert late["later because 50 are dead"] == (1.9, "MISSED")
