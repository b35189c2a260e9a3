"""What the Instance agent sees of a fake cloud and its hosts, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.agents import AgentWorld, instance, tools_of

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import Reach
from agentmetal.clients.keys import make_key_pair
from agentmetal.core.condition import Reason
from agentmetal.core.errors import NotFound
from agentmetal.core.tool import NotYet

pytestmark = pytest.mark.looptime
WEB = instance()


async def prepared(world: AgentWorld) -> tuple[InstanceAgent, Instance, str]:
    """The agent, an Instance that knows its server, and the server's id."""
    agent = InstanceAgent(world.ports)
    by_name = {tool.name: tool for tool in agent.tools()}
    for number, step in enumerate(agent.reconcile(WEB, await agent.observe(WEB)).steps, start=1):
        tool, context = by_name[step.tool], world.context(WEB, step=number)
        async with asyncio.timeout(600):
            while True:
                ended = await tool.run(context, tool.parse(step.parameters))
                if not isinstance(ended, NotYet):
                    break
                await asyncio.sleep(ended.again_in)
    fields = agent.report(WEB, await agent.observe(WEB)).fields
    return agent, instance(status=dict(fields)), str(fields["providerID"])


async def issues(agent: InstanceAgent, resource: Instance) -> list[Reason]:
    return [issue.type for issue in agent.issues(resource, await agent.observe(resource))]


async def test_status_tells_what_was_seen() -> None:
    _, web, _ = await prepared(AgentWorld())
    assert web.status.state == "Running"
    assert web.status.addresses == (web.status.public_ip or web.status.private_ip,)
    assert web.status.facts is not None
    assert (web.status.facts.os, web.status.facts.cpus) == ("Debian GNU/Linux 12 (bookworm)", 1)
    assert (web.status.host_key_fingerprint or "").startswith("SHA256:")
    assert web.status.machine_id


async def test_a_host_is_silent_only_after_a_while() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared(world)
    world.hosts.host(server_id).cut = True
    assert (await agent.observe(web)).reach is Reach.QUIET
    assert await issues(agent, web) == []
    await asyncio.sleep(20)
    assert await issues(agent, web) == [Reason.UNREACHABLE]


async def test_an_answer_in_between_ends_the_silence() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared(world)
    host = world.hosts.host(server_id)
    host.cut = True
    await agent.observe(web)
    host.cut = False
    await asyncio.sleep(15)
    assert (await agent.observe(web)).reach is Reach.ANSWERING
    host.cut = True
    await asyncio.sleep(15)
    assert (await agent.observe(web)).reach is Reach.QUIET


async def test_silence_counts_only_while_somebody_listens() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared(world)
    world.hosts.host(server_id).cut = True
    await agent.observe(web)
    await asyncio.sleep(300)
    assert (await agent.observe(web)).reach is Reach.QUIET, "it may have answered meanwhile"


async def test_a_look_at_a_dead_host_is_short() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared(world)
    world.hosts.host(server_id).frozen = True
    began = asyncio.get_running_loop().time()
    await agent.observe(web)
    assert asyncio.get_running_loop().time() - began <= 10.5


async def test_another_host_key_is_seen_and_not_healed() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared(world)
    await world.hosts.forget(web.key)
    world.hosts.host(server_id).host_key = make_key_pair("in between").public_line
    observed = await agent.observe(web)
    assert observed.reach is Reach.WRONG_HOST_KEY
    (issue,) = agent.issues(web, observed)
    assert issue.type is Reason.HOST_KEY_MISMATCH
    assert not agent.heal(web, observed, issue)


async def test_a_server_that_vanished_is_ordered_anew() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared(world)
    world.cloud.vanish(server_id)
    observed = await agent.observe(web)
    (issue,) = agent.issues(web, observed)
    assert issue.type is Reason.GONE
    assert tools_of(agent.heal(web, observed, issue))[0] == "provision_instance"


async def test_gone_is_certain_only_when_lists_have_settled() -> None:
    world = AgentWorld(settles_after=10.0)
    agent, web, server_id = await prepared(world)
    world.cloud.vanish(server_id)
    assert await issues(agent, web) == []
    await asyncio.sleep(10)
    assert await issues(agent, web) == [Reason.GONE]


async def test_a_changed_hostname_is_set_again() -> None:
    world = AgentWorld()
    agent, web, server_id = await prepared(world)
    world.hosts.host(server_id).files["/etc/hostname"] = b"mail\n"
    assert await issues(agent, web) == [Reason.NOT_PREPARED]


async def test_servers_without_hosts_are_ready_when_they_run() -> None:
    agent, web, _ = await prepared(AgentWorld(hosts=False))
    assert (await agent.observe(web)).reach is Reach.NOT_APPLICABLE
    assert await issues(agent, web) == []


async def test_what_was_never_ordered_goes_without_its_provider() -> None:
    world = AgentWorld()
    world.objects.objects.clear()
    agent, going = InstanceAgent(world.ports), instance(deleting=True)
    assert not agent.teardown(going, await agent.observe(going))
    assert world.cloud.calls == []


async def test_what_has_a_server_does_not_go_without_its_provider() -> None:
    world = AgentWorld()
    agent, _, _ = await prepared(world)
    world.objects.objects.clear()
    with pytest.raises(NotFound, match="cloud"):
        await agent.observe(instance(deleting=True))
