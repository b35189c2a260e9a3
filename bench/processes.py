"""What a process has used, from /proc, and what the operator says about itself, from /metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

WRITES = "agentmetal_api_writes_total"
REQUESTS = "rest_client_requests_total"
PASSES = "controller_runtime_reconcile_time_seconds_bucket"
HOUSEKEEPING = frozenset({"leases", "selfsubjectreviews", "auditcheckpoints"})
"""Written by the clock and at the start, whatever the objects do: a few in all, none for each object."""
_READING = frozenset({"get", "list"})


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process now, in MiB."""
    return _status_kib(pid, "VmRSS") / 1024


def peak_rss_mb(pid: int) -> float:
    """The most resident memory that a process ever had, in MiB."""
    return _status_kib(pid, "VmHWM") / 1024


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What the operator has asked the API server for since it began."""

    writes: Mapping[tuple[str, str], float]
    """By verb and resource, without HOUSEKEEPING."""
    reads: float

    def since(self, before: Requests) -> Requests:
        """What came after that."""
        grown = {key: count - before.writes.get(key, 0) for key, count in self.writes.items()}
        return Requests(writes={key: count for key, count in grown.items() if count}, reads=self.reads - before.reads)

    @property
    def written(self) -> float:
        """All writes."""
        return sum(self.writes.values())


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How long the operator's passes over Instances took: its own histogram."""

    buckets: Mapping[float, float]
    """Passes by the most that they took, in seconds; cumulative."""

    def since(self, before: Passes) -> Passes:
        """What came after that."""
        return Passes(buckets={most: count - before.buckets.get(most, 0) for most, count in self.buckets.items()})

    def percentile(self, share: float) -> float:
        """The upper end of the bucket in which it lies: so much at most."""
        total = max(self.buckets.values(), default=0.0)
        if not total:
            raise ValueError("there is no percentile of nothing: no pass was made")
        return min(most for most, count in self.buckets.items() if count >= share * total)


async def requests_of(port: int) -> Requests:
    """Ask the operator."""
    return parse(await _metrics(port))


async def passes_of(port: int) -> Passes:
    """Ask the operator."""
    return parse_passes(await _metrics(port))


async def _metrics(port: int) -> str:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(_url(port)) as response:
        response.raise_for_status()
        return await response.text()


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/metrics"


def parse(text: str) -> Requests:
    """Requests out of the Prometheus text format."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    writes = {
        (sample.labels["verb"], sample.labels["resource"]): sample.value
        for sample in samples
        if sample.name == WRITES and sample.labels["resource"] not in HOUSEKEEPING
    }
    reads = sum(s.value for s in samples if s.name == REQUESTS and s.labels["method"] in _READING)
    return Requests(writes=writes, reads=reads)


def parse_passes(text: str) -> Passes:
    """The histogram of passes over Instances out of the Prometheus text format."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return Passes(
        buckets={
            float(sample.labels["le"]): sample.value
            for sample in samples
            if sample.name == PASSES and sample.labels["controller"] == "Instance"
        }
    )


def _status_kib(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
