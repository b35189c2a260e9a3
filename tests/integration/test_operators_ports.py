"""The Lease and the Secrets on a real API server, with the rights that the operator's account has and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.controlplane import kubectl, kubectl_json

from agentmetal.agents.provider.api import Provider
from agentmetal.clients.kubeconfig import from_file
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.clock import SystemClock
from agentmetal.core.errors import Forbidden
from agentmetal.core.resource import FINALIZER
from agentmetal.dev.controlplane import ControlPlane
from agentmetal.dev.operator import LEASE_NAME
from agentmetal.kube.install import ACCOUNT, NAMESPACE
from agentmetal.kube.lease import Durations, Leadership
from agentmetal.kube.secrets import KubeSecrets

pytestmark = pytest.mark.needs_control_plane

SHORT = Durations(lease=3.0, renew=2.0, retry=0.2)


@pytest.fixture
async def api(installed: ControlPlane) -> AsyncIterator[KubernetesClient]:
    client = KubernetesClient(from_file(await installed.service_account_kubeconfig(NAMESPACE, ACCOUNT)))
    yield client
    await client.close()


async def test_the_lease_is_taken_renewed_and_handed_over(api: KubernetesClient, installed: ControlPlane) -> None:
    first, second = (Leadership(api, NAMESPACE, LEASE_NAME, who, SystemClock(), SHORT) for who in ("first", "second"))
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    done, _ = await asyncio.wait([waiting], timeout=4.0)
    assert not done, "renewed for longer than it lasts"
    assert first.held()
    await first.release()
    async with asyncio.timeout(2.0):
        await waiting
    lease = await kubectl_json(installed, "get", "lease", LEASE_NAME, "--namespace", NAMESPACE)
    assert lease["spec"]["holderIdentity"] == second.holder
    assert lease["spec"]["leaseTransitions"] == second.transitions == first.transitions + 1
    await second.release()


async def test_a_secret_we_made_stays_until_we_let_it_go(
    api: KubernetesClient, installed: ControlPlane, namespace: str
) -> None:
    body = {
        "apiVersion": "agentmetal.io/v1alpha1",
        "kind": "Provider",
        "metadata": {"namespace": namespace, "name": "local"},
        "spec": {"type": "Fake", "fake": {}},
    }
    admin = KubernetesClient(from_file(installed.kubeconfig("admin")))
    owner = Provider.model_validate({"status": {}, **await admin.create(Provider.info.type, body)})
    await admin.close()
    secrets = KubeSecrets(api)
    assert await secrets.create_once(owner, "key", {"private": b"\x00first"}) == {"private": b"\x00first"}
    assert await secrets.create_once(owner, "key", {"private": b"second"}) == {"private": b"\x00first"}
    await kubectl(installed, "delete", "secret", "key", "--namespace", namespace, "--wait=false")
    secret = await kubectl_json(installed, "get", "secret", "key", "--namespace", namespace)
    assert secret["metadata"]["finalizers"] == [FINALIZER]
    assert await secrets.read(namespace, "key") == {"private": b"\x00first"}
    await secrets.release(namespace, "key")
    assert await kubectl(installed, "get", "secrets", "--namespace", namespace, "--output=name") == ""


async def test_the_command_in_the_refusal_is_the_one_that_helps(
    api: KubernetesClient, installed: ControlPlane, namespace: str
) -> None:
    await kubectl(installed, "create", "secret", "generic", "account", "--namespace", namespace, "--from-literal=a=b")
    secrets = KubeSecrets(api)
    with pytest.raises(Forbidden) as refused:
        await secrets.read(namespace, "account")
    _, command = refused.value.message.split("kubectl ")
    await kubectl(installed, *command.split())
    assert await secrets.read(namespace, "account") == {"a": b"b"}
