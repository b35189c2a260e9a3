"""Who asks the API server in tests of roles and rules, and what it answers: objects, refusals, warnings.

The four principals of the approval rules. In a test's namespace erin and the operator hold more than the shipped roles
give them, so that what refuses them is a rule and not RBAC.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentmetal.core.resource import GROUP, VERSION
from agentmetal.dev.controlplane import ControlPlane
from agentmetal.kube.install import ACCOUNT, NAMESPACE, OPERATOR

WITHIN = 100.0


@dataclass(frozen=True)
class Principal:
    """A user, by impersonation; the administrator is nobody else than the kubeconfig's user."""

    user: str = ""
    groups: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """For kubectl."""
        return (*((f"--as={self.user}",) if self.user else ()), *(f"--as-group={group}" for group in self.groups))


ADMIN = Principal()
ERIN = Principal("erin", ("system:authenticated",))
ANN = Principal("ann", ("system:authenticated",))
THE_OPERATOR = Principal(
    OPERATOR, ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated")
)


@dataclass(frozen=True)
class Answer:
    """What kubectl said."""

    accepted: bool
    output: str
    complaint: str

    @property
    def warnings(self) -> list[str]:
        """The warnings of the API server."""
        return [line for line in self.complaint.splitlines() if line.startswith("Warning:")]

    @property
    def object(self) -> dict[str, Any]:
        """The object in the answer."""
        assert self.accepted, self.complaint
        found: dict[str, Any] = json.loads(self.output)
        return found


class Requests:
    """Requests in one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self.namespace = namespace

    async def kubectl(self, who: Principal, *arguments: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Any kubectl command as that principal."""
        process = await asyncio.create_subprocess_exec(
            self._plane.binaries.kubectl,
            f"--kubeconfig={self._plane.directory / 'admin.kubeconfig'}",
            f"--namespace={self.namespace}",
            *who.flags,
            *arguments,
            *(("--filename=-",) if body is not None else ()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"HOME": str(self._plane.directory)},
        )
        async with asyncio.timeout(WITHIN):
            output, complaint = await process.communicate(json.dumps(body).encode() if body is not None else b"")
        return Answer(process.returncode == 0, output.decode(), complaint.decode())

    async def create(self, who: Principal, body: Mapping[str, Any]) -> Answer:
        """Create an object."""
        return await self.kubectl(who, "create", "--output=json", body=body)

    async def get(self, resource: str, name: str) -> dict[str, Any]:
        """An object as it is stored."""
        return (await self.kubectl(ADMIN, "get", resource, name, "--output=json")).object

    async def patch(
        self, who: Principal, resource: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Answer:
        """A merge patch."""
        where = (f"--subresource={subresource}",) if subresource else ()
        change = ("--type=merge", f"--patch={json.dumps(patch)}", "--output=json")
        return await self.kubectl(who, "patch", resource, name, *where, *change)

    async def annotate(self, who: Principal, name: str, **annotations: str | None) -> Answer:
        """Set annotations of ours on an Instance; None removes one."""
        values = {f"{GROUP}/{key.replace('_', '-')}": value for key, value in annotations.items()}
        return await self.patch(who, "instances", name, {"metadata": {"annotations": values}})

    async def delete(self, who: Principal, resource: str, name: str, *flags: str) -> Answer:
        """Delete an object and do not wait until it is gone."""
        return await self.kubectl(who, "delete", resource, name, "--wait=false", *flags)

    async def grant(self) -> None:
        """The roles of the four principals in this namespace."""
        careless = ["get", "list", "watch", "create", "update", "patch", "delete"]
        ours = ["instances", "instances/status", "operations", "approvalpolicies"]
        items = [
            _role("careless", ours, careless),
            _role(
                "overgranted",
                ["instances", "instances/status", "approvalpolicies"],
                ["get", "approve", "create", "delete"],
            ),
            _binding("erin", "Role", "careless", _user("erin")),
            _binding("ann", "ClusterRole", "agentmetal-approver", _user("ann")),
            _binding(
                "operator",
                "Role",
                "overgranted",
                {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE},
            ),
        ]
        answer = await self.create(ADMIN, {"apiVersion": "v1", "kind": "List", "items": items})
        assert answer.accepted, answer.complaint


def instance(name: str, **metadata: Any) -> dict[str, Any]:
    """The smallest Instance."""
    spec = {"providerRef": {"name": "local"}, "type": "small", "image": "debian-12"}
    return _object("Instance", name, spec, **metadata)


def operation(name: str, **metadata: Any) -> dict[str, Any]:
    """The smallest Operation."""
    spec = {
        "resourceRef": {"kind": "Instance", "name": "web", "uid": "u1"},
        "number": 1,
        "planHash": "sha256:p",
        "digest": "sha256:d",
        "risk": "Dangerous",
        "cause": {"trigger": "Change"},
        "steps": [{"tool": "delete_server", "risk": "Dangerous", "parameters": {"server": "s1", "force": True}}],
    }
    return _object("Operation", name, spec, **metadata)


def policy(name: str, *resources: str) -> dict[str, Any]:
    """An ApprovalPolicy."""
    return _object("ApprovalPolicy", name, {"resources": list(resources), "maxRisk": "Dangerous"})


def _object(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    metadata = {"name": name, **metadata}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": metadata, "spec": spec}


def _role(name: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    rules = [{"apiGroups": [GROUP], "resources": resources, "verbs": verbs}]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name},
        "rules": rules,
    }


def _binding(name: str, kind: str, role: str, subject: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [subject],
    }


def _user(name: str) -> dict[str, Any]:
    return {"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
