"""What tests of agents and tools stand on: builders for pure tests, and a small world of fakes for tools and looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation
from agentmetal.agents.provider.api import Provider
from agentmetal.clients.keys import make_key_pair
from agentmetal.core.clock import LoopClock
from agentmetal.core.errors import Forbidden, NotFound
from agentmetal.core.machine import OwnerTag, SecretKey, Server, ServerState
from agentmetal.core.plan import Plan
from agentmetal.core.ports import Ports
from agentmetal.core.resource import AnyResource, Key
from agentmetal.core.tool import StepEnd, Tool, ToolContext
from agentmetal.providers.fake import FakeCloud
from agentmetal.providers.fake_hosts import FakeHosts
from agentmetal.providers.registry import ProviderRegistry
from agentmetal_tools.hosts import CLIENT_PRIVATE, CLIENT_PUBLIC
from agentmetal_tools.looks import Look

CLUSTER = "11111111-0000-4000-8000-000000000000"
UID = "aaaabbbb-0000-4000-8000-000000000001"
TAG = OwnerTag(cluster=CLUSTER, namespace="shop", uid=UID)
FOREIGN = OwnerTag(cluster=CLUSTER, namespace="shop", uid="ffffffff-0000-4000-8000-000000000009")
SERVER_NAME = "web-aaaabbbb"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def instance(
    *, status: Mapping[str, Any] | None = None, deleting: bool = False, uid: str = UID, **spec: Any
) -> Instance:
    """An Instance `shop/web`; keywords are spec fields on the wire."""
    metadata: dict[str, Any] = {"name": "web", "namespace": "shop", "uid": uid, "generation": 1}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    wanted = {"providerRef": {"name": "cloud"}, "type": "small", "image": "bookworm", **spec}
    body = {"kind": "Instance", "metadata": metadata, "spec": wanted, "status": status or {}}
    return Instance.model_validate(body)


def provider(*, ready: bool = True, deleting: bool = False, status: Mapping[str, Any] | None = None) -> Provider:
    """A Provider `shop/cloud`."""
    metadata: dict[str, Any] = {"name": "cloud", "namespace": "shop", "uid": "cccc"}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "AsSpecified" if ready else "ProviderTypeDisabled",
        "message": "it says so",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    catalogue = {
        "types": [
            {"name": "small", "vcpus": 1, "memoryMB": 256, "diskGB": 10},
            {"name": "medium", "vcpus": 2, "memoryMB": 512, "diskGB": 20},
        ],
        "images": ["bookworm", "bookworm-20"],
        "locations": [{"name": "north"}],
    }
    shown = {"conditions": [condition], **catalogue, **(status or {})}
    return Provider.model_validate(
        {"kind": "Provider", "metadata": metadata, "spec": {"type": "Fake", "fake": {}}, "status": shown}
    )


def server(
    state: ServerState = ServerState.RUNNING, *, owner: OwnerTag | None = TAG, image: str = "bookworm"
) -> Server:
    """The server of that Instance."""
    return Server(
        id="s-1",
        name=SERVER_NAME,
        owner=owner,
        type="small",
        image=image,
        location="north",
        state=state,
        addresses=("10.0.0.5",),
    )


def seen(**fields: Any) -> InstanceObservation:
    """An observation; by default nothing was ever ordered."""
    return InstanceObservation(**{"at": NOW, "tag": TAG, **fields})


def prepared(**fields: Any) -> Look:
    """What a host says that is as it should be."""
    return Look(**{"claimed_by": str(TAG), "hostname": "web", "wrapper": True, "machine_id": "m-1", **fields})


def tools_of(plan: Plan) -> list[str]:
    """The names of its tools, in order."""
    return [step.tool for step in plan.steps]


@dataclass
class Objects:
    """A cache of given objects."""

    objects: dict[Key, AnyResource] = field(default_factory=dict)
    referring: tuple[Key, ...] = ()

    def get(self, key: Key) -> AnyResource | None:
        return self.objects.get(key)

    def find(self, uid: str) -> AnyResource | None:
        return next((one for one in self.objects.values() if one.uid == uid), None)

    def referrers(self, key: Key) -> tuple[Key, ...]:
        return self.referring


@dataclass
class DictSecrets:
    """Secrets in a dict."""

    held: dict[str, dict[str, bytes]] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    """Made by somebody else."""
    forbidden: set[str] = field(default_factory=set)
    """Not labelled for our use."""

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        if name in self.forbidden:
            raise Forbidden(f"Secret {name!r} lacks the label agentmetal.io/usable=true")
        if name not in self.held:
            raise NotFound(f"Secret {name!r} does not exist in namespace {namespace!r}")
        return self.held[name]

    async def create_once(self, owner: AnyResource, name: str, data: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return self.held.setdefault(name, dict(data))

    async def change(self, owner: AnyResource, name: str, data: Mapping[str, bytes | None]) -> Mapping[str, bytes]:
        held = {**await self.read("", name), **data}
        self.held[name] = {key: value for key, value in held.items() if value is not None}
        return self.held[name]

    async def ours(self, owner: AnyResource, name: str) -> bool:
        return name in self.held and name not in self.foreign

    async def release(self, namespace: str, name: str) -> None:
        self.held.pop(name, None)


class AgentWorld:
    """A fake cloud with hosts, one Provider, and what tools and agents get."""

    def __init__(self, **cloud: Any) -> None:
        self.clock = LoopClock()
        self.cloud = FakeCloud(self.clock, **cloud)
        self.hosts = FakeHosts(self.cloud, self._load_key)
        self.secrets = DictSecrets()
        pair = make_key_pair("client")
        self.secrets.held["cloud-ssh"] = {
            CLIENT_PRIVATE: pair.private_openssh.encode(),
            CLIENT_PUBLIC: pair.public_line.encode(),
        }
        given = provider()
        self.objects = Objects({given.key: given})
        self.providers = ProviderRegistry(self.objects, {"Fake": lambda account: self.cloud})
        self.ports = Ports(
            cluster=CLUSTER,
            machines=self.hosts,
            providers=self.providers,
            secrets=self.secrets,
            lookup=self.objects,
            clock=self.clock,
        )

    async def _load_key(self, key: SecretKey) -> str:
        return (await self.secrets.read(key.namespace, key.name))[key.key].decode()

    def context(
        self, resource: AnyResource, *, step: int = 1, attempt: int = 1, operation: str = "op-1"
    ) -> ToolContext:
        """What a tool gets."""
        return ToolContext(
            resource=resource,
            cluster=CLUSTER,
            operation=operation,
            step=step,
            attempt=attempt,
            epoch=1,
            clock=self.clock,
            machines=self.hosts,
            providers=self.providers,
            secrets=self.secrets,
            lookup=self.objects,
        )

    async def call(self, tool: Tool[Any, Any], resource: AnyResource, params: Any) -> StepEnd:
        """One call, as the executor makes it: facts, conditions, run."""
        context = self.context(resource)
        facts = await tool.read(context, params)
        assert tool.holds(params, facts) is None
        return await tool.run(context, params)
