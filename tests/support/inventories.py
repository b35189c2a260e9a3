"""Machines that exist already, under a whole operator in virtual time: a Provider of type SSH over plain fake hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.system import CLUSTER, NAMESPACE, System

from agentmetal.agents.provider.api import Provider
from agentmetal.clients.keys import make_key_pair
from agentmetal.core.claim import CLAIM_PATH, Claim
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.machine import OwnerTag
from agentmetal.kube.secrets import KubeSecrets
from agentmetal.providers.fake_host import FakeHost
from agentmetal_tools.hosts import CLIENT_PUBLIC


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What can be seen on a host of whoever was there."""

    files: dict[str, bytes]
    installed: bool
    units: tuple[str, ...]


def trace(host: FakeHost) -> Trace:
    """What is on it now."""
    return Trace(files=dict(host.files), installed=host.installed, units=tuple(host.units))


@dataclass
class Inventory:
    """Plain hosts, and the Provider `lab` that names them."""

    system: System
    hosts: dict[str, FakeHost] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, **entry: Any) -> FakeHost:
        """A host, and its entry; keywords are fields on the wire."""
        key, number = make_key_pair(name).public_line, len(self.hosts) + 1
        self.entries[name] = {"name": name, "address": f"192.0.2.{number}", "hostKey": key, **entry}
        self.hosts[name] = self.system.hosts.plain(name, address=f"192.0.2.{number}", host_key=key)
        return self.hosts[name]

    async def provide(self, **block: Any) -> None:
        """The Provider; its key is let in on every host, as its owner would do."""
        await self.system.apply("Provider", "lab", {"type": "SSH", "ssh": {"hosts": self.wire(), **block}})
        await self.system.until(lambda: self.system.cluster.peek(SECRET, NAMESPACE, "lab-ssh"))
        await self.let_in()
        await self.system.ready("lab", kind=Provider)
        await asyncio.sleep(60)  # until every host was looked at again

    async def let_in(self, *names: str, provider: str = "lab") -> None:
        """The Provider's key may log in, beside those that may already."""
        held = await KubeSecrets(self.system.operator_api).read(NAMESPACE, f"{provider}-ssh")
        for name in names or self.hosts:
            host = self.hosts[name]
            place = host.logins(self.entries[name].get("user", "root"))
            host.files[place] = host.files.get(place, b"") + held[CLIENT_PUBLIC] + b"\n"

    def wire(self) -> list[dict[str, Any]]:
        """The hosts of the block."""
        return list(self.entries.values())

    async def rewrite(self) -> None:
        """An editor writes the inventory as it is here."""
        await self.system.edit("lab", kind=Provider, ssh={"hosts": self.wire()})

    def replace(self, name: str, *, same_key: bool = False) -> FakeHost:
        """Another machine at the same address."""
        old, entry = self.hosts[name], self.entries[name]
        key = old.host_key if same_key else make_key_pair(f"new {name}").public_line
        new = self.system.hosts.plain(f"new-{name}", address=entry["address"], host_key=key)
        new.files[new.logins("root")] = old.files[old.logins("root")]
        self.system.hosts.lose_power(old)
        self.hosts[name] = new
        return new

    async def wants(self, instance: str = "web-1", **spec: Any) -> None:
        """An Instance on it."""
        wanted = {"providerRef": {"name": "lab"}, "type": "host", "image": "existing", **spec}
        await self.system.apply("Instance", instance, wanted)

    def claimed_by(self, name: str) -> str:
        """The uid in the host's claim; empty when there is none."""
        content = self.hosts[name].files.get(CLAIM_PATH, b"")
        return Claim.model_validate_json(content).uid if content else ""

    def claim(self, name: str, uid: str, *, cluster: str = CLUSTER, namespace: str = NAMESPACE) -> bytes:
        """Somebody claims a host behind our back; the file's content."""
        content = Claim.of(OwnerTag(cluster=cluster, namespace=namespace, uid=uid), server="theirs").file()
        self.hosts[name].files[CLAIM_PATH] = content
        return content


@asynccontextmanager
async def stocked(*names: str, user: str = "root", **block: Any) -> AsyncIterator[Inventory]:
    """A running operator with a Provider that has these hosts, where that account logs in."""
    system = System()
    inventory = Inventory(system)
    try:
        for name in names:
            inventory.add(name, user=user)
        await system.start()
        await inventory.provide(**block)
        yield inventory
    finally:
        await system.close()
