"""A Kubernetes API with AgentMetal's rules in force, in memory or real, and five who use it.

`admin` may do everything, `operator` is the operator's account, `erin` edits, `ann` approves, `clerk` writes Secrets.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tests.support.controlplane import kubectl

from agentmetal.agents.instance.api import Instance
from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.errors import AgentMetalError, Forbidden
from agentmetal.core.kubetypes import CUSTOM_RESOURCE_DEFINITION, NAMESPACE
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.ports import KubeApi, WatchEvent
from agentmetal.core.resource import Annotation, Resource, ResourceType
from agentmetal.dev.controlplane import ControlPlane
from agentmetal.kube.crds.definition import definition
from agentmetal.kube.crds.roles import roles
from agentmetal.kube.memory import OPERATOR, MemoryCluster

KINDS: tuple[type[Resource[Any, Any]], ...] = (Instance, Operation, ApprovalPolicy)
INSTANCE, OPERATION, POLICY = (kind.info.type for kind in KINDS)
CLUSTER_ROLE = ResourceType("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", namespaced=False)
BINDING = ResourceType("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False)
MANIFESTS = Path(__file__).parents[2] / "manifests"
CLERK = "clerk"
"""A ClusterRole of the tests' own: may write Secrets, as Kubernetes' own `edit` does."""
CLERKS: dict[str, Any] = {
    "metadata": {"name": CLERK},
    "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "update", "patch", "delete"]}],
}
PEOPLE: Mapping[str, str] = {"erin": "agentmetal-editor", "ann": "agentmetal-approver", "clerk": CLERK}
WITHIN = 60.0
"""The garbage collector learns of new types every 30 s only."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One API, seen by five, and a namespace of the test's own."""

    admin: KubeApi
    operator: KubeApi
    erin: KubeApi
    ann: KubeApi
    clerk: KubeApi
    namespace: str
    memory: MemoryCluster | None = None
    """The state behind it when it is in memory."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """What the real clients counted: verb, plural, status."""


def memory_world() -> World:
    """In this process."""
    cluster = MemoryCluster(KINDS)
    cluster.create_namespace("test")
    cluster.grant("erin", "edit")
    cluster.grant("ann", "approve")
    cluster.grant("clerk", "secrets")
    return World(
        admin=cluster.api("admin"),
        operator=cluster.api(OPERATOR),
        erin=cluster.api("erin"),
        ann=cluster.api("ann"),
        clerk=cluster.api("clerk"),
        namespace="test",
        memory=cluster,
    )


@asynccontextmanager
async def real_world(plane: ControlPlane) -> AsyncIterator[World]:
    """On a control plane that `prepare` has been called for."""
    requests: list[tuple[str, str, str]] = []
    people = {
        name: KubernetesClient(
            kubeconfig.from_file(plane.directory / f"{name}.kubeconfig"),
            on_request=lambda verb, plural, status: requests.append((verb, plural, status)),
        )
        for name in ("admin", "operator", *PEOPLE)
    }
    namespace = f"test-{uuid.uuid4().hex[:10]}"
    try:
        await people["admin"].create(NAMESPACE, {"metadata": {"name": namespace}})
        yield World(
            admin=people["admin"],
            operator=people["operator"],
            erin=people["erin"],
            ann=people["ann"],
            clerk=people["clerk"],
            namespace=namespace,
            requests=requests,
        )
    finally:
        for client in people.values():
            await client.close()


async def prepare(plane: ControlPlane) -> None:
    """Install CRDs, roles, accounts and admission rules; returns when all are in force."""
    for file in ("rbac/namespace.yaml", "rbac/operator.yaml"):
        await kubectl(plane, "apply", "-f", str(MANIFESTS / file))
    await kubectl(plane, "apply", "-k", str(MANIFESTS / "admission"))
    await plane.service_account_kubeconfig("agentmetal-system", "agentmetal-operator")
    admin = KubernetesClient(kubeconfig.from_file(plane.directory / "admin.kubeconfig"))
    try:
        for kind in KINDS:
            await admin.create(CUSTOM_RESOURCE_DEFINITION, definition(kind))
        for role in (*roles(KINDS), CLERKS):
            await admin.create(CLUSTER_ROLE, role)
        for person, role_name in PEOPLE.items():
            plane.kubeconfig(person, ())
            await admin.create(BINDING, _binding(person, role_name))
        async with asyncio.timeout(WITHIN):
            while not await _in_force(admin):  # noqa: ASYNC110 - policies come into force by themselves, untold
                await asyncio.sleep(0.1)
    finally:
        await admin.close()
    await plane.renew_controllers()


def _binding(user: str, role: str) -> dict[str, Any]:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    return {"metadata": {"name": f"{user}-{role}"}, "roleRef": reference, "subjects": [subject]}


async def _in_force(admin: KubeApi) -> bool:
    """Do the rules hold? Asked by dry runs that each of them would change or refuse."""
    forged = instance("probe", "default")
    forged["metadata"]["annotations"] = {Annotation.DECISION: "forged"}
    try:
        made = await admin.create(INSTANCE, forged, dry_run=True)
        await admin.list(POLICY)
        await admin.create(OPERATION, operation("probe", "default"), dry_run=True)
    except Forbidden:
        return "annotations" not in made["metadata"] and bool(made["metadata"].get("finalizers"))
    except AgentMetalError:
        return False  # the types are not served yet
    return False


def instance(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A minimal Instance."""
    return {
        "apiVersion": INSTANCE.api_version,
        "kind": "Instance",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"providerRef": {"name": "fake"}, "type": "small", "image": "debian-12", **spec},
    }


def operation(name: str, namespace: str, **metadata: Any) -> dict[str, Any]:
    """A small Operation."""
    return {
        "apiVersion": OPERATION.api_version,
        "kind": "Operation",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {
            "resourceRef": {"kind": "Instance", "name": "web", "uid": "u-1"},
            "number": 1,
            "planHash": "sha256:1",
            "digest": "sha256:2",
            "risk": "Moderate",
            "cause": {"trigger": "Change"},
            "steps": [{"tool": "provider.provision_server", "parameters": {"name": "web"}, "risk": "Moderate"}],
        },
    }


def policy(name: str, namespace: str) -> dict[str, Any]:
    """A small ApprovalPolicy."""
    return {
        "apiVersion": POLICY.api_version,
        "kind": "ApprovalPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"resources": ["instances"], "maxRisk": "Moderate"},
    }


def secret(name: str, namespace: str, **metadata: Any) -> dict[str, Any]:
    """An empty Secret."""
    return {"type": "Opaque", "metadata": {"name": name, "namespace": namespace, **metadata}}


def owned_by(owner: Mapping[str, Any], *, blocks: bool = False) -> list[dict[str, Any]]:
    """Owner references to one owner."""
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": blocks,
        }
    ]


@asynccontextmanager
async def watching(
    api: KubeApi, type: ResourceType, namespace: str | None, version: str
) -> AsyncIterator[AsyncIterator[WatchEvent]]:
    """A watch that is closed at the end; each event is waited for no longer than `WITHIN`."""
    events = api.watch(type, namespace, resource_version=version)
    async with aclosing(cast("Any", events)), asyncio.timeout(WITHIN):
        yield events


async def until_gone(api: KubeApi, type: ResourceType, namespace: str, name: str) -> None:
    """Wait for an object to be removed."""
    await _until(api, type, namespace, name, lambda event: event.type == "DELETED")


async def until_going(api: KubeApi, type: ResourceType, namespace: str, name: str) -> None:
    """Wait for somebody to delete an object, which may stay for its finalizers."""
    await _until(api, type, namespace, name, lambda event: "deletionTimestamp" in event.object["metadata"])


async def _until(
    api: KubeApi, type: ResourceType, namespace: str, name: str, holds: Callable[[WatchEvent], bool]
) -> None:
    listed = await api.list(type, namespace or None, field_selector=f"metadata.name={name}")
    if not listed.items or holds(WatchEvent(type="MODIFIED", object=listed.items[0])):
        return
    async with watching(api, type, namespace or None, listed.resource_version) as events:
        async for event in events:
            if event.object["metadata"].get("name") == name and holds(event):
                return
