"""The real operator tells a real receiver: the plan that waits, signed; and its log shows nothing of the receiver."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import pytest
from tests.support.devsystem import Dev, new_name
from tests.support.faults import metrics
from tests.support.receiver import PATH, receiving

from agentmetal.kube.notify import SIGNATURE, TIMESTAMP, signature

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines]
KEY = "0123456789abcdef0123456789abcdef"
SYSTEM = "agentmetal-system"


def manifest(kind: str, name: str, spec: Mapping[str, object]) -> str:
    body = {"apiVersion": "agentmetal.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return json.dumps(body)


async def test_a_plan_that_waits_is_told_and_the_url_is_in_no_log(dev_system: Dev) -> None:
    secret, cloud, name, operator = new_name(), new_name(), new_name(), dev_system.system.operator
    environment = {**os.environ, "AGENTMETAL_NOTIFY_SECRET": secret}
    async with receiving() as receiver:
        values = [f"--from-literal=url={receiver.url}", f"--from-literal=hmac-key={KEY}"]
        await dev_system.kubectl("create", "secret", "generic", secret, "-n", SYSTEM, *values, as_="admin")
        await dev_system.kubectl("label", "secret", secret, "-n", SYSTEM, "agentmetal.io/usable=true", as_="admin")
        await operator.stop()
        try:
            await operator.start(dev_system.kubeconfig("admin"), environment)
            fake = manifest("Provider", cloud, {"type": "Fake", "fake": {"bootSeconds": 0}})
            await dev_system.kubectl("apply", "-f", "-", input=fake)
            wanted = {"providerRef": {"name": cloud}, "type": "small", "image": "bookworm"}
            await dev_system.kubectl("apply", "-f", "-", input=manifest("Instance", name, wanted))
            await dev_system.kubectl("wait", "--for=condition=Ready", "--timeout=50s", f"instance/{name}")
            await dev_system.kubectl("delete", "instance", name, "--wait=false")
            await receiver.until(1, within=30)
            ((headers, body),) = receiver.got
            told = json.loads(body)
            assert (told["event"], told["kind"], told["name"]) == ("ApprovalRequired", "Instance", name)
            assert headers[SIGNATURE] == signature(KEY.encode(), headers[TIMESTAMP], body)
            approve = told["approve"].split()
            assert approve[0] == "kubectl"
            await dev_system.kubectl(*approve[1:], as_="approver")
            await dev_system.kubectl("wait", "--for=delete", "--timeout=50s", f"instance/{name}")
            counted = await metrics(operator.metrics_port)
            assert counted["agentmetal_notifications_total", 'result="delivered"'] == 1
        finally:
            await dev_system.restart_operator()
        await dev_system.kubectl("delete", "provider", cloud)
    log = operator.log.read_text()
    assert PATH not in log
    assert KEY not in log
