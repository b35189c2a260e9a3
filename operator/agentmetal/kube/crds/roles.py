"""The ClusterRoles: who may do what, with every resource listed. Called by `files`.

Resources are listed because "*" in RBAC matches `*/status` too, and because a role must not grow by itself.
The verb `approve` is nobody's but the approver's: the operator and editors never have it. What the operator may is what
it was seen to ask for, no more: tests/integration/test_least_privilege.py compares. Its Lease is in operator.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.resource import GROUP
from agentmetal.kube.crds.definition import AnyKind

READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")
OPERATOR_ROLE = "agentmetal-operator"
SECRETS_ROLE = "agentmetal-operator-secrets"
"""Apart, so that an administrator may bind it in some namespaces only. By name: it holds no list and no watch."""
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"
_OPERATIONS = Operation.info.plural
_POLICIES = ApprovalPolicy.info.plural


def roles(kinds: Sequence[AnyKind]) -> list[dict[str, Any]]:
    """The five ClusterRoles."""
    managed = [kind.info.plural for kind in kinds if kind.info.managed]
    everything = [*managed, _OPERATIONS, _POLICIES, AuditCheckpoint.info.plural]
    return [
        _role(OPERATOR_ROLE, _operator(managed)),
        _role(SECRETS_ROLE, [_rule("", ["secrets"], ("get", "create", "patch", "delete"))]),
        _role("agentmetal-approver", _approver(managed)),
        _role("agentmetal-editor", _editor(managed), aggregate=("admin", "edit")),
        _role("agentmetal-viewer", [_rule(GROUP, everything, READ)], aggregate=("view",)),
    ]


def _operator(managed: list[str]) -> list[dict[str, Any]]:
    """It never creates or deletes what users made, and never approves."""
    return [
        *_of_managed(managed, (*READ, "patch")),
        *_of_managed([f"{plural}/status" for plural in managed], ("patch",)),
        _rule(GROUP, [_OPERATIONS], ("get", "list", "create", "patch", "delete")),
        _rule(GROUP, [_POLICIES], ("list", "watch")),
        _rule("", ["namespaces"], ("get",), names=["kube-system"]),  # its uid is the cluster's
        _rule("apiextensions.k8s.io", ["customresourcedefinitions"], ("list", "watch")),  # kopf's: kinds come and go
        _rule("events.k8s.io", ["events"], ("create",)),
        _rule("authentication.k8s.io", ["selfsubjectreviews"], ("create",)),
    ]


def _approver(managed: list[str]) -> list[dict[str, Any]]:
    """Annotates, decides, breaks the glass. Not aggregated into edit or admin: it is given to somebody by name."""
    return [
        *_of_managed(managed, (*READ, "update", "patch", "approve")),
        _rule(GROUP, [_OPERATIONS], READ),
        _rule(GROUP, [_POLICIES], (*READ, *WRITE)),
    ]


def _editor(managed: list[str]) -> list[dict[str, Any]]:
    return [*_of_managed(managed, (*READ, *WRITE)), _rule(GROUP, [_OPERATIONS, _POLICIES], READ)]


def _of_managed(resources: list[str], verbs: Sequence[str]) -> list[dict[str, Any]]:
    return [_rule(GROUP, resources, verbs)] if resources else []


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str], *, names: Sequence[str] = ()) -> dict[str, Any]:
    rule = {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
    return rule | ({"resourceNames": list(names)} if names else {})


def _role(name: str, rules: list[dict[str, Any]], *, aggregate: Sequence[str] = ()) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if aggregate:
        metadata["labels"] = {f"{_AGGREGATE}{role}": "true" for role in aggregate}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules}
