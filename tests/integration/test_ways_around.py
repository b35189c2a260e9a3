"""Ways around the admission rules, tried on a real API server: other verbs, other patch types, other doors."""

from __future__ import annotations

import json

import pytest
from tests.support.principals import ADMIN, ANN, ERIN, THE_OPERATOR, Requests, instance, operation

from agentmetal.core.resource import GROUP, VERSION
from agentmetal.dev.controlplane import ControlPlane

pytestmark = pytest.mark.needs_control_plane

SHOWN = "sha256:aaa"
FORGED = {"agentmetal.io/decision": f"approve {SHOWN} by ann", "agentmetal.io/resolved": "op-1/1=done by ann"}


@pytest.fixture
async def api(installed: ControlPlane, namespace: str) -> Requests:
    requests = Requests(installed, namespace)
    await requests.grant()
    return requests


@pytest.fixture
async def planned(api: Requests) -> str:
    """An Instance of erin's that shows a plan."""
    assert (await api.create(ERIN, instance("web"))).accepted
    plan = {"digest": SHOWN, "risk": "Dangerous", "origin": "Deterministic"}
    shown = {"status": {"observedGeneration": 1, "plan": plan}}
    assert (await api.patch(THE_OPERATOR, "instances", "web", shown, subresource="status")).accepted
    return "web"


async def stamps(api: Requests, name: str) -> set[str]:
    annotations = (await api.get("instances", name))["metadata"].get("annotations", {})
    return {key for key in annotations if key in FORGED}


async def test_no_sort_of_write_forges_a_stamp(api: Requests, planned: str) -> None:
    annotated = {"metadata": {"annotations": FORGED}}
    merge = json.dumps(annotated)
    pointers = [f"/metadata/annotations/{key.replace('/', '~1')}" for key in FORGED]
    added = [{"op": "add", "path": "/metadata/annotations", "value": {}}]
    added += [{"op": "add", "path": path, "value": "x"} for path in pointers]
    await api.kubectl(ERIN, "patch", "instance", planned, "--type=merge", f"--patch={merge}")
    await api.kubectl(ERIN, "patch", "instance", planned, "--type=json", f"--patch={json.dumps(added)}")
    applied = instance(planned, annotations=FORGED)
    await api.kubectl(ERIN, "apply", "--server-side", "--force-conflicts", "--field-manager=mallory", body=applied)
    current = await api.get("instances", planned)
    current["metadata"]["annotations"] = FORGED
    await api.kubectl(ERIN, "replace", body=current)
    assert await stamps(api, planned) == set()


async def test_the_door_of_the_status_takes_no_stamp_and_no_finalizer(api: Requests, planned: str) -> None:
    both = {"metadata": {"annotations": FORGED, "finalizers": []}, "status": {"phase": "Running"}}
    assert (await api.patch(THE_OPERATOR, "instances", planned, both, subresource="status")).accepted
    assert await stamps(api, planned) == set()
    assert (await api.get("instances", planned))["metadata"]["finalizers"] == ["agentmetal.io/operator"]


async def test_a_generated_name_is_no_way_to_create_with_a_stamp(api: Requests) -> None:
    body = instance("x", annotations=FORGED)
    body["metadata"] = {"generateName": "web-", "annotations": FORGED}
    made = (await api.create(ERIN, body)).object["metadata"]
    assert not FORGED.keys() & made.get("annotations", {}).keys()
    assert made["finalizers"] == ["agentmetal.io/operator"]


async def test_deleting_all_at_once_does_not_pass_the_protection(api: Requests, planned: str) -> None:
    protected = {"spec": {"management": {"deletionProtection": True}}}
    assert (await api.patch(ERIN, "instances", planned, protected)).accepted
    collection = f"/apis/{GROUP}/{VERSION}/namespaces/{api.namespace}/instances"
    answer = await api.kubectl(ADMIN, "delete", f"--raw={collection}")
    assert not answer.accepted
    assert "deletion is protected" in answer.complaint
    assert "deletionTimestamp" not in (await api.get("instances", planned))["metadata"]


async def test_deleting_all_operations_at_once_is_refused(api: Requests) -> None:
    assert (await api.create(THE_OPERATOR, operation("op-1"))).accepted
    collection = f"/apis/{GROUP}/{VERSION}/namespaces/{api.namespace}/operations"
    answer = await api.kubectl(ADMIN, "delete", f"--raw={collection}")
    assert not answer.accepted
    assert (await api.get("operations", "op-1"))["metadata"]["name"] == "op-1"


async def test_a_dry_run_decides_nothing(api: Requests, planned: str) -> None:
    change = json.dumps({"metadata": {"annotations": {"agentmetal.io/approve": SHOWN}}})
    tried = ("patch", "instance", planned, "--type=merge", f"--patch={change}", "--dry-run=server")
    assert (await api.kubectl(ANN, *tried)).accepted
    assert await stamps(api, planned) == set()


async def test_an_owner_that_goes_takes_no_machine_along(api: Requests, planned: str) -> None:
    """An editor may write owner references; the garbage collector's deletion then waits for the finalizer, as any."""
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}}
    owner = (await api.create(ADMIN, config)).object
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    owned = {"metadata": {"ownerReferences": [reference]}}
    assert (await api.patch(ERIN, "instances", planned, owned)).accepted
    assert (await api.delete(ADMIN, "configmap", "owner")).accepted
    deleted = ("wait", "--for=jsonpath={.metadata.deletionTimestamp}", f"instance/{planned}", "--timeout=90s")
    assert (await api.kubectl(ADMIN, *deleted)).accepted
    assert (await api.get("instances", planned))["metadata"]["finalizers"] == ["agentmetal.io/operator"]
