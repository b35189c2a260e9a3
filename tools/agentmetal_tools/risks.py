"""The risk of every tool: one table, a reason for each row. Read by the tools, by `agentmetal tools` and by reviewers.

The first row whose condition is true counts. What has no row, or no true row, is Dangerous.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentmetal.core.risk import Risk
from agentmetal_tools.servers import NOBODY

Condition = Callable[[Any, Any], bool]
"""A pure question to (parameters, facts)."""

CONDITIONS: Mapping[str, Condition] = {
    "always": lambda params, facts: True,
    "no such server exists": lambda params, facts: not facts.exists,
    "the server is only let go of": lambda params, facts: facts.kept,
    "another host may have the address": lambda params, facts: bool(facts.elsewhere),
    "the host does not have the address": lambda params, facts: not facts.here.holds,
    "the server is nobody's": lambda params, facts: facts.foreign in ("", NOBODY),
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
        tool="make_next_key",
        risk=Risk.MODERATE,
        reason="It makes a key that no host knows yet, beside the one that logs in.",
    ),
    Row(
        tool="spread_key",
        risk=Risk.MODERATE,
        reason="One more key of our own may log in; what may log in already stays as it is.",
    ),
    Row(
        tool="switch_key",
        risk=Risk.MODERATE,
        reason="It begins only when every host has accepted the next key, and the old one still logs in.",
    ),
    Row(
        tool="revoke_old_key",
        risk=Risk.MODERATE,
        reason="Our own old key goes, on each host only over a login with the new one; nobody else's is touched.",
    ),
    Row(
        tool="provision_instance",
        risk=Risk.MODERATE,
        reason="It creates a server and costs money; nothing that exists is touched.",
    ),
    Row(
        tool="adopt_instance",
        when="the server is nobody's",
        risk=Risk.MODERATE,
        reason="It puts our mark on a server that carries none; what runs on it stays as it is.",
    ),
    Row(
        tool="adopt_instance",
        risk=Risk.DANGEROUS,
        reason="The server carries the mark of another Instance: whoever relies on that loses it.",
    ),
    Row(
        tool="wipe_host",
        risk=Risk.DANGEROUS,
        reason="Data of the user's is deleted.",
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
        tool="await_user_data",
        risk=Risk.SAFE,
        reason="It asks cloud-init how it goes, and notes the end in a file of ours.",
    ),
    Row(
        tool="apply_user_data",
        risk=Risk.MODERATE,
        reason="It does once, on a server that is new to us, what the author of the spec wrote for it.",
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
        tool="reboot_host",
        risk=Risk.MODERATE,
        reason="Its services stop for a while, its disks stay; somebody asked for it by agentmetal.io/reboot-at.",
    ),
    Row(
        tool="resize_instance",
        risk=Risk.MODERATE,
        reason="It is off for a while and may cost more or less; its disks stay. Wanted by the spec.",
    ),
    Row(
        tool="rescue_instance",
        risk=Risk.MODERATE,
        reason="Its services stop until it leaves its rescue system, its disks stay; wanted by the spec.",
    ),
    Row(
        tool="repin_host",
        risk=Risk.DANGEROUS,
        reason="Whoever shows the new key gets our commands from then on, and all that they carry.",
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
        when="the server is only let go of",
        risk=Risk.MODERATE,
        reason="Only what is ours is removed from the machine; it and the user's data stay.",
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
    Row(
        tool="hold_address",
        when="another host may have the address",
        risk=Risk.DANGEROUS,
        reason="It takes the address from a host that has it, or that runs and cannot be asked: that is a failover.",
    ),
    Row(
        tool="hold_address",
        risk=Risk.MODERATE,
        reason="Nobody else has the address; the host gives it back as soon as its condition fails.",
    ),
    Row(
        tool="drop_address",
        when="the host does not have the address",
        risk=Risk.SAFE,
        reason="It only makes sure of that, and removes what would hold it.",
    ),
    Row(
        tool="drop_address",
        risk=Risk.MODERATE,
        reason="Clients do not reach the service by the address until another host holds it; no data is lost.",
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
