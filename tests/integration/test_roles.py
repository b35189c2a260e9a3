"""Who may do what, asked of a real API server: the shipped roles, those of Kubernetes around them, the operator."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest
from tests.support.principals import ADMIN, Requests

from agentmetal.dev.controlplane import ControlPlane
from agentmetal.kube.install import ACCOUNT, NAMESPACE, OPERATOR

pytestmark = pytest.mark.needs_control_plane

GROUP = "agentmetal.io"
READ, WRITE = ("get", "list", "watch"), ("create", "update", "patch", "delete", "deletecollection")
PEOPLE = {
    "viewer": "agentmetal-viewer",
    "editor": "agentmetal-editor",
    "approver": "agentmetal-approver",
    "view": "view",
    "edit": "edit",
    "admin": "admin",
}
MANAGED, JOURNAL = ("instances", "providers"), ("operations", "approvalpolicies")
DANGEROUS = (
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("impersonate", "", "users"),
    ("impersonate", "", "groups"),
    ("impersonate", "", "serviceaccounts"),
    ("create", "", "serviceaccounts/token"),
    ("create", "", "pods"),
    ("create", "", "pods/exec"),
    ("patch", "", "nodes"),
    ("approve", "certificates.k8s.io", "signers"),
    ("create", "admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("delete", "admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions"),
)
"""Rights that become any other right."""
Question = tuple[str, str, str, str, bool]
"""Who, verb, group, resource, and whether it must be allowed."""


def expected() -> Iterator[Question]:
    """The table."""
    for who in PEOPLE:
        yield from ((who, verb, GROUP, one, True) for verb in READ for one in MANAGED)
        yield from ((who, verb, GROUP, "operations", True) for verb in READ)
        yield from ((who, verb, GROUP, one, False) for verb in WRITE for one in ("operations", "auditcheckpoints"))
        yield from ((who, verb, GROUP, f"{one}/status", False) for verb in ("update", "patch") for one in MANAGED)
        yield from ((who, "approve", GROUP, one, who == "approver") for one in MANAGED)
    for who in ("viewer", "view"):
        yield from ((who, verb, GROUP, one, False) for verb in WRITE for one in (*MANAGED, *JOURNAL))
    for who in ("editor", "edit", "admin"):
        yield from ((who, verb, GROUP, one, True) for verb in WRITE for one in MANAGED)
        yield from ((who, verb, GROUP, "approvalpolicies", False) for verb in WRITE)
    for verb, allowed in (("create", False), ("delete", False), ("deletecollection", False), ("patch", True)):
        yield from (("approver", verb, GROUP, one, allowed) for one in MANAGED)
    yield from (("approver", verb, GROUP, "approvalpolicies", True) for verb in WRITE)
    for who in ("viewer", "editor", "approver"):
        yield from ((who, verb, "", "secrets", False) for verb in (*READ, *WRITE))
        yield from ((who, *right, False) for right in DANGEROUS)
    # Kubernetes' own roles give the Secrets of the namespace, and with them the keys of its hosts.
    yield from ((who, "get", "", "secrets", True) for who in ("edit", "admin"))
    yield ("view", "get", "", "secrets", False)


def expected_of_the_operator() -> Iterator[Question]:
    """What its account may in anybody's namespace."""
    yield from (("operator", verb, GROUP, one, verb == "patch") for verb in WRITE for one in MANAGED)
    yield from (("operator", verb, GROUP, "approvalpolicies", False) for verb in WRITE)
    yield from (("operator", verb, GROUP, "auditcheckpoints", False) for verb in WRITE)  # in its own namespace only
    yield from (("operator", "approve", GROUP, one, False) for one in (*MANAGED, *JOURNAL))
    yield from (("operator", *right, False) for right in DANGEROUS)
    yield from (("operator", verb, "", "secrets", verb in ("create", "patch", "delete")) for verb in WRITE)
    yield from (("operator", verb, "", "secrets", verb == "get") for verb in READ)
    yield ("operator", "list", "", "configmaps", False)
    yield ("operator", "get", "coordination.k8s.io", "leases", False)


async def answers(api: Requests, questions: Iterable[Question], user: str = "") -> dict[Question, bool]:
    """What the API server says to each, in one request of ours."""
    asked = list(questions)
    answer = await api.kubectl(
        ADMIN,
        *("create", "--output=jsonpath={.status.allowed}{' '}"),
        body={"apiVersion": "v1", "kind": "List", "items": [review(one, api.namespace, user) for one in asked]},
    )
    assert answer.accepted, answer.complaint
    allowed = [{"true": True, "false": False}[word] for word in answer.output.split()]
    return dict(zip(asked, allowed, strict=True))


def review(question: Question, namespace: str, user: str) -> dict[str, object]:
    who, verb, group, resource, _ = question
    name, _, subresource = resource.partition("/")
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": name,
        "subresource": subresource,
    }
    spec = {"user": user or known_as(who), "groups": ["system:authenticated"], "resourceAttributes": attributes}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def known_as(who: str) -> str:
    """The development cluster has an `editor` and an `approver` of its own, who may more."""
    return f"only-{who}"


@pytest.fixture
async def api(installed: ControlPlane, namespace: str) -> Requests:
    """Everybody has his role in the namespace."""
    requests = Requests(installed, namespace)
    items = [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": who},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": known_as(who), "apiGroup": "rbac.authorization.k8s.io"}],
        }
        for who, role in PEOPLE.items()
    ]
    answer = await requests.create(ADMIN, {"apiVersion": "v1", "kind": "List", "items": items})
    assert answer.accepted, answer.complaint
    return requests


def wrong(found: dict[Question, bool]) -> list[str]:
    """What is not as the table says."""
    return [f"{' '.join(one[:4])}: {allowed}" for one, allowed in found.items() if allowed is not one[4]]


async def test_each_role_gives_what_its_name_says_and_no_more(api: Requests) -> None:
    assert wrong(await answers(api, expected())) == []


async def test_the_operators_account_can_become_nobody_else(api: Requests) -> None:
    assert wrong(await answers(api, expected_of_the_operator(), OPERATOR)) == []


async def test_the_right_to_secrets_comes_from_a_binding_of_its_own(installed: ControlPlane, api: Requests) -> None:
    """`agentmetal-operator-secrets` is bound everywhere as shipped; without that a namespace can be left out."""
    rules = json.loads((await api.kubectl(ADMIN, "get", "clusterrole", "agentmetal-operator", "--output=json")).output)[
        "rules"
    ]
    assert not [rule for rule in rules if "secrets" in rule["resources"]]
    bound = await api.kubectl(ADMIN, "get", "clusterrolebinding", "agentmetal-operator-secrets", "--output=json")
    assert [(one["name"], one["namespace"]) for one in bound.object["subjects"]] == [(ACCOUNT, NAMESPACE)]


async def test_who_edits_in_the_operators_namespace_is_the_operator(installed: ControlPlane) -> None:
    """A warning, not a promise: whoever makes pods or tokens there has the account. manifests/rbac/namespace.yaml."""
    there = Requests(installed, NAMESPACE)
    binding = ("create", "rolebinding", "careless", "--clusterrole=edit", "--user=mallory")
    assert (await there.kubectl(ADMIN, *binding)).accepted
    found = await answers(there, [("mallory", "impersonate", "", "serviceaccounts", True)], "mallory")
    assert (await there.kubectl(ADMIN, "delete", "rolebinding", "careless")).accepted
    assert wrong(found) == []
