"""The generated CRDs on a real API server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.controlplane import kubectl, kubectl_json
from tests.support.principals import ADMIN, ERIN, THE_OPERATOR, Requests, instance, operation, policy

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.resource import GROUP, VERSION
from agentmetal.dev.controlplane import ControlPlane
from agentmetal.kube.crds import AnyKind
from agentmetal.kube.install import InstallFailed, install, shipped

pytestmark = pytest.mark.needs_control_plane

PROVIDER = {
    "apiVersion": f"{GROUP}/{VERSION}",
    "kind": "Provider",
    "metadata": {"name": "minimal"},
    "spec": {"type": "Fake", "fake": {}},
}
MINIMAL: dict[str, tuple[AnyKind, dict[str, Any]]] = {
    "Instance": (Instance, instance("minimal")),
    "Provider": (Provider, PROVIDER),
    "Operation": (Operation, operation("minimal")),
    "ApprovalPolicy": (ApprovalPolicy, policy("minimal", "instances")),
}


@pytest.mark.parametrize("plural", ["instances", "providers", "operations", "approvalpolicies"])
async def test_the_api_server_takes_the_schema_without_reservation(installed: ControlPlane, plural: str) -> None:
    crd = await kubectl_json(installed, "get", "crd", f"{plural}.{GROUP}")

    conditions = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("kind", MINIMAL)
async def test_the_api_server_fills_in_what_the_model_fills_in(
    installed: ControlPlane, namespace: str, kind: str
) -> None:
    model, minimal = MINIMAL[kind]
    api = Requests(installed, namespace)
    await api.grant()
    who = THE_OPERATOR if kind == "Operation" else ADMIN
    created = (await api.create(who, minimal)).object
    stored = await api.get(model.info.plural, "minimal")
    expected = model.model_validate(minimal).wire()

    assert created["spec"] == expected["spec"]
    assert stored["spec"] == expected["spec"]
    assert stored.get("status", {}) == expected["status"]


@pytest.mark.parametrize("kind", MINIMAL)
async def test_the_model_reads_what_the_api_server_stores(installed: ControlPlane, namespace: str, kind: str) -> None:
    model, minimal = MINIMAL[kind]
    api = Requests(installed, namespace)
    who = THE_OPERATOR if kind == "Operation" else ADMIN

    created = (await api.create(who, minimal)).object
    assert model.model_validate(created).wire()["spec"] == created["spec"]


async def test_open_operations_are_found_by_their_phase(installed: ControlPlane, namespace: str) -> None:
    api = Requests(installed, namespace)
    await api.create(THE_OPERATOR, operation("open"))
    await api.create(THE_OPERATOR, operation("closed"))
    await api.patch(THE_OPERATOR, "operations", "closed", {"status": {"phase": "Succeeded"}})

    there = (f"--namespace={namespace}", "--field-selector=status.phase!=Succeeded,status.phase!=Failed")
    found = await kubectl_json(installed, "get", "operations", *there)
    assert [item["metadata"]["name"] for item in found["items"]] == ["open"]


async def test_an_unknown_field_is_refused_with_its_name(installed: ControlPlane, namespace: str) -> None:
    api = Requests(installed, namespace)
    await api.grant()
    misspelt = instance("web")
    misspelt["spec"]["imgae"] = "debian-12"

    answer = await api.create(ERIN, misspelt)
    assert not answer.accepted
    assert 'unknown field "spec.imgae"' in answer.complaint


async def test_a_broken_rule_answers_with_its_sentence(installed: ControlPlane, namespace: str) -> None:
    api = Requests(installed, namespace)
    await api.grant()
    await api.create(ERIN, instance("web"))

    answer = await api.patch(ERIN, "instances", "web", {"spec": {"location": "south"}})
    assert not answer.accepted
    assert "location cannot be changed: create another Instance" in answer.complaint


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"adopt": "h1", "hostSelector": {"rack": "a"}}, "adopt names the very server: leave hostSelector"),
    ({"adopt": "h1", "location": "north"}, "adopt names the very server: leave hostSelector"),
    ({"userData": "#cloud-config", "userDataSecretRef": {"name": "seed"}}, "say the same: keep one of them"),
    ({"securityGroupRefs": [{"name": "web"}]}, "securityGroupRefs cannot be honoured yet"),
]


@pytest.mark.parametrize(("fields", "sentence"), REFUSED, ids=[", ".join(fields) for fields, _ in REFUSED])
async def test_what_contradicts_itself_is_refused_with_its_sentence(
    installed: ControlPlane, namespace: str, fields: dict[str, Any], sentence: str
) -> None:
    api = Requests(installed, namespace)
    await api.grant()
    contradictory = instance("web")
    contradictory["spec"] |= fields

    answer = await api.create(ERIN, contradictory)
    assert not answer.accepted
    assert sentence in answer.complaint


@pytest.mark.parametrize("other", ["h2", None], ids=["changed", "removed"])
async def test_what_was_adopted_stays_what_it_is(installed: ControlPlane, namespace: str, other: str | None) -> None:
    api = Requests(installed, namespace)
    await api.grant()
    adopting = instance("web")
    adopting["spec"]["adopt"] = "h1"
    assert (await api.create(ERIN, adopting)).accepted

    answer = await api.patch(ERIN, "instances", "web", {"spec": {"adopt": other}})
    assert not answer.accepted
    assert "adopt cannot be changed: create another Instance" in answer.complaint


@pytest.mark.parametrize("path", ["/", "/etc/ssh", "/srv", "/srv/../etc", "/home/bob/.ssh"])
async def test_no_place_that_a_host_needs_can_be_wiped(installed: ControlPlane, namespace: str, path: str) -> None:
    api = Requests(installed, namespace)
    await api.grant()
    wiping = {**PROVIDER, "spec": {"type": "SSH", "ssh": {"hosts": [], "wipe": {"paths": [path]}}}}

    answer = await api.create(ADMIN, wiping)
    assert not answer.accepted
    assert "spec.ssh.wipe.paths[0]" in answer.complaint


@pytest.mark.parametrize(
    ("wipe", "sentence"),
    [
        ({"paths": ["/srv/orders", "/usr/local/lib"]}, "what we need on a host until the end cannot be wiped"),
        ({"paths": ["/var/lib/agentmetal/units"]}, "what we need on a host until the end cannot be wiped"),
        ({"users": ["shop", "root"]}, "root cannot be wiped"),
    ],
)
async def test_what_we_need_until_the_end_cannot_be_wiped(
    installed: ControlPlane, namespace: str, wipe: dict[str, list[str]], sentence: str
) -> None:
    api = Requests(installed, namespace)
    await api.grant()
    wiping = {**PROVIDER, "spec": {"type": "SSH", "ssh": {"hosts": [], "wipe": wipe}}}
    harmless = {**PROVIDER, "spec": {"type": "SSH", "ssh": {"hosts": [], "wipe": {"paths": ["/srv/orders"]}}}}

    answer = await api.create(ADMIN, wiping)
    assert not answer.accepted
    assert sentence in answer.complaint
    assert (await api.create(ADMIN, harmless)).accepted


async def test_kubectl_explain_reads_like_a_manual(installed: ControlPlane) -> None:
    text = await kubectl(installed, "explain", "instance.spec.management.retries")

    assert "How often a failed step is tried again." in text


async def test_kubectl_get_agentmetal_shows_managed_objects_with_the_common_columns(
    installed: ControlPlane, namespace: str
) -> None:
    api = Requests(installed, namespace)
    await api.grant()
    await api.create(ERIN, instance("web"))
    await api.create(THE_OPERATOR, operation("op-1"))

    table = (await kubectl(installed, "get", "agentmetal", f"--namespace={namespace}")).splitlines()
    assert table[0].split() == ["NAME", "PHASE", "READY", "RISK", "PLAN", "REASON", "AGE"]
    assert [line.split()[0] for line in table[1:]] == ["instance.agentmetal.io/web"]


async def test_installing_again_changes_nothing(installed: ControlPlane, installation: Path) -> None:
    before = await kubectl_json(installed, "get", "crd", f"operations.{GROUP}")
    await install(installed.binaries.kubectl, installed.directory / "admin.kubeconfig", directory=installation)

    after = await kubectl_json(installed, "get", "crd", f"operations.{GROUP}")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    rules = await kubectl(installed, "get", "validatingadmissionpolicies,mutatingadmissionpolicies", "--output=name")
    assert "probe" not in rules


async def test_what_the_cluster_does_not_take_fails_with_its_words(installed: ControlPlane, tmp_path: Path) -> None:
    shutil.copytree(shipped() / "manifests", tmp_path / "manifests")
    (tmp_path / "crds").mkdir()
    (tmp_path / "crds" / "broken.yaml").write_text(json.dumps({"apiVersion": "v1", "kind": "Nonsense"}))

    with pytest.raises(InstallFailed, match="Nonsense"):
        await install(installed.binaries.kubectl, installed.directory / "admin.kubeconfig", directory=tmp_path)


@pytest.mark.parametrize("overlay", ["", "ha"])
async def test_the_production_overlay_is_accepted(installed: ControlPlane, overlay: str) -> None:
    apply = (
        "apply",
        "--server-side",
        "--dry-run=server",
        "--force-conflicts",
        f"--kustomize={shipped() / 'manifests' / overlay}",
    )

    assert "deployment.apps/agentmetal-operator" in await kubectl(installed, *apply)
