"""Who may do what: the very roles that `kube.crds.roles` generates for the manifests, asked in process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from agentmetal.core.errors import Forbidden
from agentmetal.core.kubetypes import LEASE
from agentmetal.core.resource import ResourceType
from agentmetal.kube.crds.definition import AnyKind
from agentmetal.kube.crds.roles import roles

Role = Literal["view", "edit", "approve", "operate", "admin"]
MASTERS = "system:masters"
OPERATOR_NAMESPACE = "agentmetal-system"
_CLUSTER_ROLES: dict[str, Role] = {
    "agentmetal-viewer": "view",
    "agentmetal-editor": "edit",
    "agentmetal-approver": "approve",
    "agentmetal-operator": "operate",
}
_LEASE_VERBS = {"get", "create", "update", "patch"}
"""Of the Role `agentmetal-leader` in manifests/rbac/operator.yaml."""


@dataclass(frozen=True)
class Principal:
    """Somebody who asks."""

    user: str
    groups: frozenset[str] = frozenset()


class Authorizer:
    """Who has which role. A subject is a user or a group; a role holds in all namespaces."""

    def __init__(self, kinds: Sequence[AnyKind]) -> None:
        self._granted: dict[str, set[Role]] = {}
        self._verbs = _verbs(tuple(kinds))

    def grant(self, subject: str, role: Role) -> None:
        """Give a user or a group a role."""
        self._granted.setdefault(subject, set()).add(role)

    def allowed(self, who: Principal, verb: str, group: str, resource: str, namespace: str = "") -> bool:
        """Has one of the principal's roles the verb? A resource may be `instances/status`."""
        for subject in (who.user, *who.groups):
            for role in self._granted.get(subject, ()):
                if role == "admin" or verb in self._verbs[role].get((group, resource), ()):
                    return True
                if role == "operate" and namespace == OPERATOR_NAMESPACE and (group, resource) == _LEASES:
                    return verb in _LEASE_VERBS
        return False

    def check(self, who: Principal, verb: str, type: ResourceType, namespace: str, subresource: str = "") -> None:
        """Refuse what RBAC refuses."""
        resource = f"{type.plural}/{subresource}" if subresource else type.plural
        if not self.allowed(who, verb, type.group, resource, namespace):
            where = f" in the namespace {namespace!r}" if namespace else " at the cluster scope"
            raise Forbidden(
                f"{resource} is forbidden: User {who.user!r} cannot {verb} resource {resource!r}"
                f" in API group {type.group!r}{where}"
            )


_LEASES = (LEASE.group, LEASE.plural)


@lru_cache(maxsize=16)
def _verbs(kinds: tuple[AnyKind, ...]) -> dict[Role, dict[tuple[str, str], set[str]]]:
    """The generated roles. The sweep makes thousands of clusters with the same kinds."""
    return {_CLUSTER_ROLES[role["metadata"]["name"]]: _table(role["rules"]) for role in roles(kinds)}


def _table(rules: Iterable[dict[str, Any]]) -> dict[tuple[str, str], set[str]]:
    """Verbs by group and resource."""
    table: dict[tuple[str, str], set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                table.setdefault((group, resource), set()).update(rule["verbs"])
    return table
