"""User data through the whole operator: wrong, missing, failing, and never shown when it is out of a Secret."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest
from tests.support.system import NAMESPACE, System, running
from tests.support.trouble import created, only_server, phases, quiet, says

from agentmetal.agents.instance.api import Instance
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import Operation
from agentmetal.providers.fake_hosts import Effect

pytestmark = pytest.mark.looptime

PASSWORD = "hunter2"
TEXT = f"""#cloud-config
write_files: [{{path: /etc/password, content: {PASSWORD}}}]
runcmd: [[setup, {PASSWORD}]]
"""
FROM_SECRET: dict[str, Any] = {"userDataSecretRef": {"name": "first-boot"}}
USABLE = {"agentmetal.io/usable": "true"}


def ran(system: System) -> list[tuple[str, ...]]:
    return [run.argv for run in system.hosts.journal if run.argv[0] == "setup"]


async def first_boot(system: System, **labels: str) -> None:
    """The user's Secret."""
    metadata = {"name": "first-boot", "namespace": NAMESPACE, "labels": labels}
    data = {"userData": base64.b64encode(TEXT.encode()).decode()}
    await system.admin.create(SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})


async def shown(system: System) -> str:
    """Everything that people with few rights, or whoever reads the trail, can see."""
    objects = [await system.admin.list(kind.info.type) for kind in (Instance, Operation)]
    records = [str(record) async for record in system.audit.records()]
    return json.dumps([listing.items for listing in objects]) + "".join(records)


async def test_what_a_secret_holds_runs_and_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running() as system:
        system.hosts.unit(["setup"], Effect(exit_code=1, output=PASSWORD, seconds=3))
        await first_boot(system, **USABLE)
        await system.instance(**FROM_SECRET)
        await system.ready()
        await says(system, "its user data failed: runcmd[0] failed with exit code 1", type="Degraded")

        assert (await only_server(system)).spec.user_data == ""
        assert system.hosts.host((await only_server(system)).id).files["/etc/password"] == PASSWORD.encode()
        assert ran(system) == [("setup", PASSWORD)]
        assert PASSWORD not in await shown(system)
        assert PASSWORD not in caplog.text


async def test_a_missing_secret_is_told_and_made_up_for_soon() -> None:
    async with running() as system:
        await system.instance(**FROM_SECRET)
        said = await says(system, "Secret 'first-boot' does not exist")
        assert said.reason == "SecretMissing"
        await first_boot(system)
        said = await says(system, "agentmetal.io/usable=true", timeout=60)
        assert said.reason == "SecretNotUsable"
        assert created(system) == 0
        await system.admin.patch(SECRET, NAMESPACE, "first-boot", {"metadata": {"labels": USABLE}})
        system.hosts.unit(["setup"], Effect())
        await system.ready(timeout=60)
        assert len(ran(system)) == 1


async def test_broken_yaml_orders_nothing_until_it_is_mended() -> None:
    async with running() as system:
        await system.instance(userData="#cloud-config\npackages: [a\n")
        said = await says(system, "near line 3")
        assert said.reason == "InvalidSpec"
        await quiet(3600)
        assert created(system) == 0
        await system.edit("web-1", userData="#cloud-config\nruncmd: [[true]]\n")
        await system.ready(timeout=30)


async def test_it_runs_once_whatever_happens_to_the_operator() -> None:
    async with running() as system:
        system.hosts.unit(["setup"], Effect(seconds=60))
        await system.instance(userData=TEXT)
        await system.until(lambda: ran(system))
        await system.processes[-1].crash()
        await system.start()
        await system.ready()
        await quiet(3600)
        assert len(ran(system)) == 1
        assert system.see().status.user_data.state == "Done"
        assert phases(system) == ["Succeeded"]
