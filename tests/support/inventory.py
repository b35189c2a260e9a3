"""Plain hosts in memory and inventories over them: what tests of the provider type SSH stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agentmetal.agents.provider.api import SshSpec
from agentmetal.clients.keys import make_key_pair
from agentmetal.core.claim import CLAIM_PATH, Claim
from agentmetal.core.errors import NotFound
from agentmetal.core.machine import OwnerTag, SecretKey, ServerSpec
from agentmetal.providers.fake_host import FakeHost
from agentmetal.providers.fake_hosts import FakeHosts
from agentmetal.providers.registry import Account
from agentmetal.providers.ssh.memory import SshProviders
from agentmetal.providers.ssh.provider import SshProvider

CLUSTER = "c0ffee"
Entry = dict[str, Any]
"""A host as an inventory names it, on the wire."""


def account(hosts: Sequence[Entry], *, namespace: str = "shop", name: str = "lab", **block: Any) -> Account:
    """A Provider object with that inventory."""
    spec = SshSpec.model_validate({"hosts": hosts, **block}).wire()
    return Account(namespace=namespace, name=name, uid=f"uid-{namespace}-{name}", spec={"type": "SSH", "ssh": spec})


def order(
    uid: str = "u1", *, namespace: str = "shop", cluster: str = CLUSTER, type: str = "host", **more: Any
) -> ServerSpec:
    """What an Instance of that uid orders."""
    owner = OwnerTag(cluster=cluster, namespace=namespace, uid=uid)
    return ServerSpec(name=f"s-{uid}", owner=owner, type=type, image="existing", **more)


class Lab:
    """Plain hosts, and whoever works with them: each `process` has a memory of its own."""

    def __init__(self, *, connect_timeout: float = 5.0, boot_seconds: float = 5.0) -> None:
        self.client_key = make_key_pair("operator")
        self.key_there = True
        """Is our own key in its Secret?"""
        self.machines = FakeHosts(None, self.load_key, connect_timeout=connect_timeout, boot_seconds=boot_seconds)
        self.hosts: dict[str, FakeHost] = {}
        self.entries: dict[str, Entry] = {}
        self.here = self.process()

    async def load_key(self, place: SecretKey) -> str:
        """As the operator reads it from the Secret."""
        if not self.key_there:
            raise NotFound(f"Secret {place.name!r} does not exist in namespace {place.namespace!r}")
        return self.client_key.private_openssh

    def process(self, cluster: str = CLUSTER) -> SshProviders:
        """An operator that has just started."""
        return SshProviders(self.machines, cluster=cluster)

    def add(self, name: str, *, machine_id: str = "", **entry: Any) -> FakeHost:
        """A host that our key may log in to, and its entry; keywords are fields on the wire."""
        pair, number = make_key_pair(name), len(self.hosts) + 1
        wire: Entry = {"name": name, "address": f"192.0.2.{number}", "hostKey": f"{pair.public_line}", **entry}
        self.hosts[name] = self.machines.plain(
            name,
            address=wire["address"],
            port=wire.get("port", 22),
            user=wire.get("user", "root"),
            host_key=pair.public_line,
            authorized_keys=(self.client_key.public_line,),
            machine_id=machine_id,
        )
        self.entries[name] = wire
        return self.hosts[name]

    def account(self, **more: Any) -> Account:
        """A Provider object whose inventory names all hosts."""
        return account(list(self.entries.values()), **more)

    @asynccontextmanager
    async def provider(self, process: SshProviders | None = None, **more: Any) -> AsyncIterator[SshProvider]:
        """A provider with all hosts in its inventory."""
        provider = (process or self.here)(self.account(**more))
        try:
            yield provider
        finally:
            await provider.close()

    def claimed(self, name: str) -> str:
        """Whose the host is, as its own file says."""
        content = self.hosts[name].files.get(CLAIM_PATH, b"")
        return Claim.model_validate_json(content).uid if content else ""

    def claim(self, name: str, uid: str, *, cluster: str = CLUSTER, namespace: str = "shop", server: str = "") -> None:
        """Somebody claims the host behind our back."""
        tag = OwnerTag(cluster=cluster, namespace=namespace, uid=uid)
        self.hosts[name].files[CLAIM_PATH] = Claim.of(tag, server=server).file()
