"""User data on real machines: by the real cloud-init, and by our own small set where the image has none."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from tests.support.agents import instance, tools_of
from tests.support.life import Life

from agentmetal.agents.instance.api import Instance, host_of
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.clients.keys import make_key_pair
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal_tools.servers import visit

pytestmark = pytest.mark.needs_machines

KEY = make_key_pair("ann").public_line
USER_DATA = f"""#cloud-config
users:
- name: ann
  groups: adm
  shell: /bin/bash
  sudo: ALL=(ALL) NOPASSWD:ALL
  ssh_authorized_keys: ['{KEY}']
write_files:
- path: /srv/hello/world
  content: hello
  permissions: '0640'
runcmd:
- [sh, -c, 'echo ran $((1 + 1)) >> /srv/ran']
"""


async def made(life: Life, web: Instance) -> tuple[Instance, InstanceObservation, list[str]]:
    """The Instance with its server, as it is seen then, and the tools that it took."""
    plan = life.agent.reconcile(web, await life.agent.observe(web))
    await life.carry_out(plan, web)
    observed = await life.agent.observe(web)
    status = dict(life.agent.report(web, observed).fields)
    return instance(uid=web.uid, **web.spec.wire(), status=status), observed, tools_of(plan)


async def answering(life: Life, web: Instance) -> InstanceObservation:
    """Once its host answers: nobody tells that it has booted."""
    async with asyncio.timeout(20):
        while (observed := await life.agent.observe(web)).reach is not Reach.ANSWERING:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.1)
    return observed


async def check(life: Life, web: Instance, observed: InstanceObservation) -> None:
    """What the user data asks for is there, what we laid there is still there, and nothing is left to do."""
    assert observed.reach is Reach.ANSWERING  # the pinned host key, and root's key that we gave
    host = await visit(life.agent.ports, "shop", host_of(web))
    assert (await host.run(["id", "-nG", "ann"])).stdout.split() == ["ann", "adm"]
    assert KEY in (await host.run(["cat", "/home/ann/.ssh/authorized_keys"])).stdout
    assert (await host.run(["runuser", "-u", "ann", "--", "sudo", "-n", "id", "-u"])).stdout.strip() == "0"
    assert (await host.run(["cat", "/srv/hello/world"])).stdout == "hello"
    assert (await host.run(["stat", "-c", "%a", "/srv/hello/world"])).stdout.strip() == "640"
    assert (await host.run(["cat", "/srv/ran"])).stdout == "ran 2\n"
    assert observed.look is not None and observed.look.failed_units == ()
    assert web.status.user_data is not None and web.status.user_data.state == "Done"
    assert life.agent.diff(web, observed) == ()


@pytest.mark.parametrize(("image", "tool"), [("bookworm-cloud", "await_user_data"), ("bookworm", "apply_user_data")])
async def test_user_data_runs_once_on_a_new_server(nspawn: NspawnProvider, image: str, tool: str) -> None:
    life = Life(nspawn)
    web = instance(uid=str(uuid.uuid4()), image=image, userData=USER_DATA)
    try:
        web, observed, tools = await made(life, web)
        assert tools == ["provision_instance", "wait_for_ready", "prepare_host", tool]
        await check(life, web, observed)
        await nspawn.reboot_server(observed.server.id if observed.server else "", force=True)
        await life.machines.forget(web.key)
        await check(life, web, await answering(life, web))
    finally:
        going = instance(uid=web.uid, deleting=True)
        await life.carry_out(life.agent.teardown(going, await life.agent.observe(going)), going)
        await life.machines.close()
