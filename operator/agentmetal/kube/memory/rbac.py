"""Who may do what: the very roles that `kube.crds.roles` generates for the manifests, asked in process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.errors import Forbidden
from agentmetal.core.kubetypes import LEASE
from agentmetal.core.resource import GROUP, ResourceType
from agentmetal.kube.crds.definition import AnyKind
from agentmetal.kube.crds.roles import OPERATOR_ROLE, SECRETS_ROLE, roles

Role = Literal["view", "edit", "approve", "operate", "secrets", "admin"]
"""`secrets` is none of ours: whoever may write Secrets, as Kubernetes' own role `edit` allows."""
MASTERS = "system:masters"
OPERATOR_NAMESPACE = "agentmetal-system"
_CLUSTER_ROLES: dict[str, Role] = {
    "agentmetal-viewer": "view",
    "agentmetal-editor": "edit",
    "agentmetal-approver": "approve",
    OPERATOR_ROLE: "operate",
    SECRETS_ROLE: "operate",
}
LEASE_NAME = "agentmetal-operator"
LEASE_RIGHTS = (
    {"apiGroups": [LEASE.group], "resources": [LEASE.plural], "resourceNames": [LEASE_NAME], "verbs": ["get", "patch"]},
    {"apiGroups": [LEASE.group], "resources": [LEASE.plural], "verbs": ["create"]},
)
"""The Role `agentmetal-leader` in manifests/rbac/operator.yaml."""
CHECKPOINT_RIGHTS = ({"apiGroups": [GROUP], "resources": [AuditCheckpoint.info.plural], "verbs": ["list", "create"]},)
"""The Role `agentmetal-checkpoints` in manifests/rbac/checkpoints.yaml."""


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

    def allowed(
        self, who: Principal, verb: str, group: str, resource: str, namespace: str = "", name: str = ""
    ) -> bool:
        """Has one of the principal's roles the verb? A resource may be `instances/status`."""
        for subject in (who.user, *who.groups):
            for role in self._granted.get(subject, ()):
                if role == "admin" or name in self._verbs[role].get((group, resource, verb), NOTHING):
                    return True
                if role == "operate" and namespace == OPERATOR_NAMESPACE:
                    return name in OWN_NAMESPACE.get((group, resource, verb), NOTHING)
        return False

    def check(
        self, who: Principal, verb: str, type: ResourceType, namespace: str, subresource: str = "", name: str = ""
    ) -> None:
        """Refuse what RBAC refuses."""
        resource = f"{type.plural}/{subresource}" if subresource else type.plural
        if not self.allowed(who, verb, type.group, resource, namespace, name):
            where = f" in the namespace {namespace!r}" if namespace else " at the cluster scope"
            raise Forbidden(
                f"{resource} is forbidden: User {who.user!r} cannot {verb} resource {resource!r}"
                f" in API group {type.group!r}{where}"
            )


Verbs = dict[tuple[str, str, str], "Names"]
"""By group, resource and verb: on which names."""


class Names(frozenset[str]):
    """Names of objects; an empty set means all of them."""

    def __contains__(self, name: object) -> bool:
        return not self or super().__contains__(name)


NOTHING: frozenset[str] = frozenset()


@lru_cache(maxsize=16)
def _verbs(kinds: tuple[AnyKind, ...]) -> dict[Role, Verbs]:
    """The generated roles. The sweep makes thousands of clusters with the same kinds."""
    rules: dict[Role, list[dict[str, Any]]] = {}
    for role in roles(kinds):
        rules.setdefault(_CLUSTER_ROLES[role["metadata"]["name"]], []).extend(role["rules"])
    rules["secrets"] = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "update", "patch", "delete"]}
    ]
    return {role: _table(those) for role, those in rules.items()}


def _table(rules: Iterable[Mapping[str, Any]]) -> Verbs:
    """Names by group, resource and verb. No two rules of ours speak of the same."""
    return {
        (group, resource, verb): Names(rule.get("resourceNames", ()))
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


OWN_NAMESPACE = _table((*LEASE_RIGHTS, *CHECKPOINT_RIGHTS))
