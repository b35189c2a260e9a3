"""Plain machines of a rack, and Instances that take them with user data: plans of several commands, without a boot.

On `tests.support.devsystem`. The machines write down themselves what was run on them: `record` reads that, and never
asks the operator.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from tests.support.devsystem import Dev, new_name
from tests.support.faults import NAMESPACE, SOON, inside

from agentmetal.agents.provider.api import Provider
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.resource import Annotation
from agentmetal.dev.hosts import PlainHost, PlainHosts, provider_of
from agentmetal.dev.watching import Body, holds, until

RAN = "/root/ran"
UNITS = "agentmetal-op-"


@dataclass(frozen=True)
class Record:
    """What one host wrote down."""

    ran: tuple[str, ...]
    """Lines that the commands themselves appended, in order."""
    starts: Mapping[str, int]
    """How often its systemd started each unit of ours."""


@dataclass(frozen=True)
class Rack:
    """Hosts in an inventory, usable."""

    dev: Dev
    provider: str
    hosts: tuple[PlainHost, ...]

    async def take(self, name: str, host: PlainHost, commands: Sequence[Sequence[str]]) -> None:
        """Order an Instance on that host which runs these commands once."""
        spec = {
            "providerRef": {"name": self.provider},
            "type": "server",
            "image": "existing",
            "failureDomain": host.name,
            "userData": "#cloud-config\n" + yaml.safe_dump({"runcmd": [list(command) for command in commands]}),
        }
        body = {"apiVersion": "agentmetal.io/v1alpha1", "kind": "Instance", "metadata": {"name": name}, "spec": spec}
        await self.dev.kubectl("apply", "-f", "-", input=json.dumps(body))


async def record(host: PlainHost) -> Record:
    """What is written down there. Every run of a unit has an invocation of its own."""
    machine = await host.fleet.machine(host.name)
    fields = "--output-fields=UNIT,INVOCATION_ID"
    journal = inside(machine, "journalctl", "--quiet", "--output=json", fields, "_PID=1")  # systemd's own words
    invocations: dict[str, set[str]] = defaultdict(set)
    for line in journal.splitlines():
        told = json.loads(line)
        if told.get("UNIT", "").startswith(UNITS) and "INVOCATION_ID" in told:
            invocations[told["UNIT"]].add(told["INVOCATION_ID"])
    ran = inside(machine, "sh", "-c", f"cat {RAN} 2>/dev/null || true")
    return Record(ran=tuple(ran.splitlines()), starts={unit: len(ids) for unit, ids in invocations.items()})


@asynccontextmanager
async def plain_hosts(directory: Path, count: int) -> AsyncIterator[tuple[PlainHost, ...]]:
    """So many machines that no Provider made."""
    async with PlainHosts(directory=directory).running([f"rack-{number}" for number in range(1, count + 1)]) as hosts:
        yield hosts


async def rack_of(dev: Dev, api: KubernetesClient, hosts: Sequence[PlainHost]) -> Rack:
    """Put them into an inventory and let its key in. Somebody must lead."""
    rack = Rack(dev, new_name(), tuple(hosts))
    await dev.kubectl("apply", "-f", "-", input=json.dumps(provider_of(rack.provider, hosts)))
    key = await _provider(api, rack.provider, lambda body: (body.get("status") or {}).get("publicKey"), "has a key")
    for host in hosts:
        async with host.as_administrator() as ssh:
            await ssh.authorize(key)
    look = f"{Annotation.RECONCILE_AT}={datetime.now(UTC).isoformat()}"
    await dev.kubectl("annotate", "--overwrite", "provider", rack.provider, look)
    await _provider(api, rack.provider, _usable, "has usable hosts")
    return rack


async def _provider(api: KubernetesClient, name: str, answer: Callable[[Body], str | None], what: str) -> str:
    return await until(
        api,
        Provider.info.type,
        NAMESPACE,
        name,
        lambda body: answer(body) if body else None,
        within=SOON,
        what=what,
    )


def _usable(body: Body) -> str | None:
    return "usable" if holds(body, "Ready") and not body["status"].get("unusable") else None
