"""The shipped Deployment and namespace as a real API server judges them: our pod is `restricted`, others are not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from tests.support.controlplane import kubectl
from tests.support.principals import ADMIN, Answer, Requests

from agentmetal.dev.controlplane import ControlPlane
from agentmetal.kube.install import NAMESPACE, shipped

pytestmark = pytest.mark.needs_control_plane

OVERLAYS = (".", "ha")
MODES = ("enforce", "audit", "warn")
WEAKER: dict[str, dict[str, Any]] = {
    "that may gain rights": {"allowPrivilegeEscalation": True},
    "with a capability": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}},
    "as root": {"runAsUser": 0, "runAsNonRoot": False},
    "unconfined": {"seccompProfile": {"type": "Unconfined"}},
}


async def rendered(plane: ControlPlane, overlay: str = ".") -> list[dict[str, Any]]:
    """What `kubectl apply -k manifests/<overlay>` would apply."""
    return list(yaml.safe_load_all(await kubectl(plane, "kustomize", str(shipped() / "manifests" / overlay))))


async def deployments_pod(plane: ControlPlane, overlay: str = ".") -> dict[str, Any]:
    """The pod of the Deployment, as its ReplicaSet would make it."""
    (deployment,) = [document for document in await rendered(plane, overlay) if document["kind"] == "Deployment"]
    template = copy.deepcopy(deployment["spec"]["template"])
    metadata = {**template["metadata"], "name": "probe"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


async def tried(plane: ControlPlane, body: dict[str, Any], namespace: str = NAMESPACE) -> Answer:
    """Create it, but only for the show."""
    return await Requests(plane, namespace).kubectl(ADMIN, "create", "--dry-run=server", "--output=name", body=body)


async def test_the_namespace_enforces_audits_and_warns_of_restricted(installed: ControlPlane) -> None:
    found = json.loads(await kubectl(installed, "get", "namespace", NAMESPACE, "-o", "json"))
    labels = found["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in MODES} == {"restricted"}


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_the_operators_pod_is_let_in_without_a_warning(installed: ControlPlane, overlay: str) -> None:
    answer = await tried(installed, await deployments_pod(installed, overlay))
    assert answer.accepted, answer.complaint
    assert answer.warnings == []


@pytest.mark.parametrize("weaker", WEAKER.values(), ids=list(WEAKER))
async def test_a_weaker_pod_is_refused(installed: ControlPlane, weaker: dict[str, Any]) -> None:
    pod = await deployments_pod(installed)
    pod["spec"]["containers"][0]["securityContext"] |= weaker
    answer = await tried(installed, pod)
    assert not answer.accepted
    assert 'violates PodSecurity "restricted' in answer.complaint


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_everything_we_ship_is_taken_by_the_api_server(installed: ControlPlane, overlay: str) -> None:
    for document in await rendered(installed, overlay):
        answer = await Requests(installed, NAMESPACE).kubectl(
            ADMIN, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--output=name", body=document
        )
        assert answer.accepted, answer.complaint
        assert answer.warnings == []


async def test_the_pod_writes_nowhere_but_where_it_must_and_asks_for_a_short_token(installed: ControlPlane) -> None:
    spec = (await deployments_pod(installed))["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/var/lib/agentmetal", "/tmp"}
    assert spec["automountServiceAccountToken"] is False
    (projected,) = [volume["projected"] for volume in spec["volumes"] if "projected" in volume]
    # 3607 s, what a kubelet asks for by itself, is stretched to a year by the API server.
    assert [source["serviceAccountToken"]["expirationSeconds"] for source in projected["sources"][:1]] == [3600]


async def test_the_network_is_closed_but_for_what_is_named(installed: ControlPlane) -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in await rendered(installed) if d["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ours = policies["agentmetal-operator"]
    assert [port["port"] for rule in ours["ingress"] for port in rule["ports"]] == [8080]
    assert all(rule["from"] for rule in ours["ingress"]), "nobody is let in who is not named"
    assert all(rule["ports"] for rule in ours["egress"]), "no destination on every port"
    (hosts,) = [rule for rule in ours["egress"] if {"protocol": "TCP", "port": 22} in rule["ports"]]
    assert "169.254.0.0/16" in hosts["to"][0]["ipBlock"]["except"]
