"""How a host is: condition Degraded, facts for status, numbers for metrics. Pure; used by `report.py`.

Sentences hold no numbers that move, and what was said once is taken back only when it is clearly over: a disk that is
at its limit costs no write at each look. Nothing here leads to a plan: which file may go, only a human knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation
from agentmetal.core.condition import Condition, ConditionStatus, ConditionType, Reason
from agentmetal_tools.looks import Look, Vitals


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A number that is told when it passes `enter`, until it is back at `leave`."""

    reason: Reason
    vital: str
    """The field of Vitals."""
    enter: float
    leave: float
    sentence: str
    """Constant: what was said last is found by it."""
    above: bool = False
    """Is too much bad, instead of too little? Then the sign does not count."""

    def passed(self, value: float, *, said: bool) -> bool:
        """Is it to be told now?"""
        limit = self.leave if said else self.enter
        return abs(value) > limit if self.above else value < limit


READ_ONLY = (
    "its / is read-only, so nothing can be changed or started on it: find out why (`dmesg`; Linux does that by itself"
    " after disk errors), then mount it writable again"
)
LIMITS: tuple[Limit, ...] = (
    Limit(
        reason=Reason.DISK_FULL,
        vital="disk_free_ratio",
        enter=0.10,
        leave=0.12,
        sentence="its / is nearly full (less than 10 % free): free some space, or give it a larger disk",
    ),
    Limit(
        reason=Reason.DISK_FULL,
        vital="inodes_free_ratio",
        enter=0.05,
        leave=0.06,
        sentence="its / has hardly any inodes left (less than 5 %): find the directory with very many small files",
    ),
    Limit(
        reason=Reason.CLOCK_OFF,
        vital="clock_offset_seconds",
        enter=2.0,
        leave=1.0,
        above=True,
        sentence="its clock and the operator's differ by more than 2 s: install chrony or enable systemd-timesyncd on"
        " it, and see that the operator's own machine has the right time",
    ),
    Limit(
        reason=Reason.LOW_MEMORY,
        vital="memory_available_ratio",
        enter=0.05,
        leave=0.10,
        sentence="hardly any memory is available on it (less than 5 %): see what uses it, or choose a larger type",
    ),
)
"""The worst first."""
_GAUGES = {
    "disk_free_ratio": "agentmetal_host_disk_free_ratio",
    "inodes_free_ratio": "agentmetal_host_inodes_free_ratio",
    "memory_available_ratio": "agentmetal_host_memory_available_ratio",
    "load_per_cpu": "agentmetal_host_load_per_cpu",
    "clock_offset_seconds": "agentmetal_host_clock_offset_seconds",
    "packages_age_seconds": "agentmetal_host_packages_age_seconds",
    "kernel_age_seconds": "agentmetal_host_kernel_age_seconds",
}


def degraded(resource: Instance, observed: InstanceObservation) -> tuple[Condition, ...]:
    """What is wrong with a host that answers, the worst first; status tells all of it in one condition."""
    if observed.look is None:
        return ()
    ills = _ills(resource, observed.look, observed.vitals)
    return tuple(Condition.true(ConditionType.DEGRADED, reason, text) for reason, text in ills)


def facts(look: Look) -> Mapping[str, Any]:
    """`status.facts`: what changes when somebody does something, never by itself."""
    day = {"packagesFrom": look.packages_from} if look.packages_from else {}
    return {
        "os": look.os,
        "kernel": look.kernel,
        "architecture": look.architecture,
        "cpus": look.cpus,
        "memoryMB": look.memory_mb,
        "rebootRequired": look.reboot_required,
        "failedUnits": list(look.failed_units),
        **day,
    }


def gauges(observed: InstanceObservation) -> Mapping[str, float]:
    """The numbers, as far as they are known; none while the host does not answer."""
    look = observed.look
    if look is None:
        return {}
    known = {name: getattr(observed.vitals, vital) for vital, name in _GAUGES.items()}
    if look.boot.id:
        known["agentmetal_host_up_seconds"] = look.boot.up_seconds
    known["agentmetal_host_reboot_required"] = float(look.reboot_required)
    known["agentmetal_host_failed_units"] = float(len(look.failed_units))
    return {name: value for name, value in known.items() if value is not None}


def _ills(resource: Instance, look: Look, vitals: Vitals) -> Iterator[tuple[Reason, str]]:
    if look.root_read_only:
        yield Reason.READ_ONLY, READ_ONLY
    for limit in LIMITS:
        value = getattr(vitals, limit.vital)
        if value is not None and limit.passed(value, said=_said(resource, limit.sentence)):
            yield limit.reason, limit.sentence
    if look.failed_units:
        units = ", ".join(look.failed_units)
        yield Reason.UNITS_FAILED, f"failed units: {units} (`systemctl status` on it says why)"


def _said(resource: Instance, sentence: str) -> bool:
    told = resource.condition(ConditionType.DEGRADED)
    return told is not None and told.status is ConditionStatus.TRUE and sentence in told.message
