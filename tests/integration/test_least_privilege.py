"""Least privilege both ways: the operator asks for nothing it may not, and may nothing that it never asks for.

What it asks is what the API server itself recorded of its account during one whole life: made, changed, approved, gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from tests.support.devsystem import Dev, new_name
from tests.support.rights import Right, asked, granted

from agentmetal.dev.controlplane.plane import REQUESTS
from agentmetal.kube.memory.rbac import OWN_NAMESPACE

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines]

UNUSED_FOR_A_REASON: Mapping[str, str] = {}
"""Rights that one life does not need, each with the reason why the operator holds it: `verb resource group`."""


def manifest(kind: str, name: str, spec: Mapping[str, object]) -> str:
    body = {"apiVersion": "agentmetal.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return json.dumps(body)


async def changed(dev: Dev, name: str, power: str) -> None:
    """One more operation of an Instance, which closes."""
    await dev.kubectl(
        "patch", "instance", name, "--type=merge", f"--patch={json.dumps({'spec': {'powerState': power}})}"
    )
    state = "Running" if power == "On" else "Stopped"
    await dev.kubectl("wait", f"--for=jsonpath={{.status.state}}={state}", "--timeout=50s", f"instance/{name}")


async def one_life(dev: Dev) -> None:
    """Made, changed until old Operations are dropped, deleted after approval; its Provider goes, too."""
    cloud, name = new_name(), new_name()
    await dev.kubectl(
        "apply", "-f", "-", input=manifest("Provider", cloud, {"type": "Fake", "fake": {"bootSeconds": 0}})
    )
    wanted = {"providerRef": {"name": cloud}, "type": "small", "image": "bookworm"}
    await dev.kubectl("apply", "-f", "-", input=manifest("Instance", name, wanted))
    await dev.kubectl("wait", "--for=condition=Ready", "--timeout=50s", f"instance/{name}")
    for power in ("Off", "On", "Off", "On"):
        await changed(dev, name, power)
    await dev.kubectl("delete", "instance", name, "--wait=false")
    await dev.kubectl("wait", "--for=condition=AwaitingApproval", "--timeout=50s", f"instance/{name}")
    digest = (await dev.get("instance", name))["status"]["plan"]["digest"]
    await dev.kubectl("annotate", "instance", name, f"agentmetal.io/approve={digest}", as_="approver")
    await dev.kubectl("wait", "--for=delete", "--timeout=50s", f"instance/{name}")
    await dev.kubectl("delete", "provider", cloud, "--timeout=50s")


async def test_the_operator_may_what_it_asks_for_and_no_more(dev_system: Dev) -> None:
    await one_life(dev_system)
    seen, rights = asked(dev_system.system.directory / REQUESTS), granted()

    lacking = [request for request in seen if not any(right.covers(request) for right in rights)]
    assert lacking == [], "it asks for what manifests/rbac does not give"
    idle = {str(right) for right in rights if not any(right.covers(request) for request in seen)}
    assert idle == set(UNUSED_FOR_A_REASON), (
        "take what it never uses out of kube/crds/roles.py, or write down the reason"
    )


def test_in_memory_it_has_the_very_same_rights_in_its_own_namespace() -> None:
    """The others are generated for both: tests in memory are thereby refused what the manifests do not give."""
    assert {right for right in granted() if right.namespace} == {
        Right(verb=verb, group=group, resource=resource, names=tuple(names), namespace="agentmetal-system")
        for (group, resource, verb), names in OWN_NAMESPACE.items()
    }
