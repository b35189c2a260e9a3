"""The store is never on a machine that the operator manages."""

from __future__ import annotations

from typing import Any

import pytest

from agentmetal.agents.instance.api import Instance
from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.core.ports import KubeApi
from agentmetal.kube.memory import MemoryCluster
from agentmetal.storing import refuse_own_machines

TYPE = Instance.info.type


@pytest.fixture
async def api() -> KubeApi:
    cluster = MemoryCluster([Instance])
    cluster.grant("erin", "edit")
    spec: dict[str, Any] = {"providerRef": {"name": "cloud"}, "type": "small", "image": "bookworm"}
    body = {
        "apiVersion": TYPE.api_version,
        "kind": TYPE.kind,
        "metadata": {"namespace": "default", "name": "db-1"},
        "spec": spec,
    }
    await cluster.api("erin").create(TYPE, body)
    status = {"addresses": ["192.0.2.7", "2001:db8::7"], "privateIP": "127.0.0.1"}
    operator = cluster.api()
    await operator.patch(TYPE, "default", "db-1", {"status": status}, subresource="status")
    return operator


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:DB8:0::7", "localhost"])
async def test_a_store_on_a_machine_of_ours_is_refused(api: KubeApi, host: str) -> None:
    with pytest.raises(Invalid, match="is the Instance 'default/db-1' that this operator manages"):
        await refuse_own_machines(api, ("192.0.2.1", host))


async def test_a_store_elsewhere_is_not(api: KubeApi) -> None:
    await refuse_own_machines(api, ("192.0.2.8", "2001:db8::8"))


async def test_a_name_without_an_address_is_said(api: KubeApi) -> None:
    with pytest.raises(Unavailable, match="look at its name and at DNS"):
        await refuse_own_machines(api, ("no-such-host.invalid",))
