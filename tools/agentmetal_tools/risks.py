"""The risk of every tool: one table, a reason for each row. Read by the tools, by `agentmetal tools` and by reviewers.

The first row whose condition is true counts. What has no row, or no true row, is Dangerous.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentmetal.core.risk import Risk

Condition = Callable[[Any, Any], bool]
"""A pure question to (parameters, facts)."""

CONDITIONS: Mapping[str, Condition] = {
    "always": lambda params, facts: True,
    "no such server exists": lambda params, facts: not facts.exists,
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a tool may do, when, and why that is as risky as it is."""

    tool: str
    risk: Risk
    reason: str
    when: str = "always"
    """One of CONDITIONS."""


RISKS: tuple[Row, ...] = (
    Row(
        tool="create_provider_key",
        risk=Risk.MODERATE,
        reason="It makes a key that no server knows yet; an older one is kept.",
    ),
    Row(
        tool="release_provider_key",
        risk=Risk.MODERATE,
        reason="The key goes with its Provider; no Instance refers to that any more.",
    ),
    Row(
        tool="provision_instance",
        risk=Risk.MODERATE,
        reason="It creates a server and costs money; nothing that exists is touched.",
    ),
    Row(
        tool="wait_for_ready",
        risk=Risk.SAFE,
        reason="It only asks whether the host answers.",
    ),
    Row(
        tool="prepare_host",
        risk=Risk.MODERATE,
        reason="It adds two files and sets the hostname; a host that another Instance claims is left alone.",
    ),
    Row(
        tool="start_instance",
        risk=Risk.MODERATE,
        reason="It powers on a server that is meant to run; no data is lost.",
    ),
    Row(
        tool="stop_instance",
        risk=Risk.MODERATE,
        reason="Its services stop, its disks stay; wanted by the spec or by a fence.",
    ),
    Row(
        tool="reboot_instance",
        risk=Risk.MODERATE,
        reason="Its services stop for a while, its disks stay; planned only for a host that does not answer.",
    ),
    Row(
        tool="rebuild_instance",
        risk=Risk.DANGEROUS,
        reason="The data on its disks is deleted.",
    ),
    Row(
        tool="decommission_instance",
        when="no such server exists",
        risk=Risk.SAFE,
        reason="It only makes sure that there is nothing to delete; a server that shows up late is not touched.",
    ),
    Row(
        tool="decommission_instance",
        risk=Risk.DANGEROUS,
        reason="The server and the data on its disks are deleted.",
    ),
    Row(
        tool="release_instance",
        risk=Risk.SAFE,
        reason="It takes our own mark off the host; the server and its data stay as they are.",
    ),
)


def rows_of(tool: str) -> tuple[Row, ...]:
    """The rows of one tool, in the order in which they are asked."""
    return tuple(row for row in RISKS if row.tool == tool)


def risk_of(tool: str) -> Callable[[Any, Any], Risk]:
    """The risk function of a tool."""
    rows = rows_of(tool)

    def risk(params: Any, facts: Any) -> Risk:
        matching = (row.risk for row in rows if CONDITIONS[row.when](params, facts))
        return next(matching, Risk.DANGEROUS)

    return risk
