"""The Instance tools on a fake cloud with simulated hosts, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.agents import CLUSTER, FOREIGN, SERVER_NAME, TAG, AgentWorld, instance, tools_of

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.clients.keys import make_key_pair
from agentmetal.core.claim import CLAIM_PATH, claimant
from agentmetal.core.condition import Reason
from agentmetal.core.errors import (
    ClaimedByOther,
    CommandFailed,
    HostKeyMismatch,
    LimitReached,
    NotFound,
    OutcomeUnknown,
)
from agentmetal.core.machine import OwnerTag, ServerSpec, ServerState, UnitPhase, UnitState
from agentmetal.core.plan import Plan, Step
from agentmetal.core.tool import InDoubt, NotYet, Refusal, Result, StepEnd
from agentmetal.providers.fake_hosts import Effect
from agentmetal_tools import instance as tools
from agentmetal_tools import power
from agentmetal_tools.hosts import HOST_PUBLIC, end_of
from agentmetal_tools.servers import (
    DecommissionParams,
    HostParams,
    PrepareParams,
    ProvisionParams,
    ServerFacts,
    ServerParams,
    StopParams,
)

pytestmark = pytest.mark.looptime

IDS = {"provider": "cloud", "server": SERVER_NAME}
KEYS = {"host_key_secret": "web-host-key", "client_key_secret": "cloud-ssh"}
ORDER = ProvisionParams(**IDS, **KEYS, type="small", image="bookworm", hostname="web")
HOST = HostParams(**IDS, **KEYS)
PREPARE = PrepareParams(**IDS, **KEYS, hostname="web")
WEB = instance()
BY_NAME = {tool.name: tool for tool in InstanceAgent.tools()}


async def until_ended(world: AgentWorld, tool: Any, params: Any, resource: Instance = WEB) -> StepEnd:
    """Call a tool as long as it says NotYet."""
    return await _ended(lambda: world.call(tool, resource, params))


async def _ended(call: Callable[[], Awaitable[StepEnd]]) -> StepEnd:
    async with asyncio.timeout(600):
        while True:
            ended = await call()
            if not isinstance(ended, NotYet):
                return ended
            await asyncio.sleep(ended.again_in)


async def carry_out(world: AgentWorld, plan: Plan, resource: Instance = WEB) -> None:
    """Run a plan as the executor does, without a journal."""
    for number, step in enumerate(plan.steps, start=1):
        await run_step(world, step, number, resource)


async def run_step(world: AgentWorld, step: Step, number: int, resource: Instance) -> None:
    tool = BY_NAME[step.tool]
    params, context = tool.parse(step.parameters), world.context(resource, step=number)
    assert tool.holds(params, await tool.read(context, params)) is None
    assert isinstance(await _ended(lambda: tool.run(context, params)), Result)


async def provisioned(world: AgentWorld) -> str:
    """A server that is up and prepared; its id."""
    agent = InstanceAgent(world.ports)
    await carry_out(world, agent.reconcile(WEB, await agent.observe(WEB)))
    (server,) = await world.cloud.list_servers()
    return server.id


async def the_facts(world: AgentWorld, tool: Any, params: Any, resource: Instance = WEB) -> Any:
    return await tool.read(world.context(resource), params)


async def test_second_provision_returns_the_first_server() -> None:
    world = AgentWorld()
    await until_ended(world, tools.provision_instance, ORDER)
    await until_ended(world, tools.provision_instance, ORDER)
    assert len(await world.cloud.list_servers()) == 1


async def test_a_lost_reply_leads_to_one_server() -> None:
    world = AgentWorld()
    world.cloud.faults.lose_reply(call="provision_server")
    with pytest.raises(OutcomeUnknown):
        await world.call(tools.provision_instance, WEB, ORDER)
    await until_ended(world, tools.provision_instance, ORDER)
    assert len(await world.cloud.list_servers()) == 1


async def test_a_late_list_leads_to_one_server() -> None:
    world = AgentWorld(settles_after=30.0)
    await world.call(tools.provision_instance, WEB, ORDER)
    await until_ended(world, tools.provision_instance, ORDER)
    assert len(await world.cloud.list_servers()) == 1


async def test_the_steps_after_an_order_find_the_server_although_lists_are_late() -> None:
    world = AgentWorld(settles_after=30.0, boot_seconds=1.0)
    await provisioned(world)
    assert len(await world.cloud.list_servers()) == 1


async def test_the_host_key_survives_a_crash_before_the_order() -> None:
    world = AgentWorld(quota=0)
    with pytest.raises(LimitReached):
        await world.call(tools.provision_instance, WEB, ORDER)
    pinned = world.secrets.held["web-host-key"][HOST_PUBLIC]
    world.cloud.quota = None
    await until_ended(world, tools.provision_instance, ORDER)
    (server,) = await world.cloud.list_servers()
    assert world.hosts.host(server.id).host_key.encode() == pinned


async def test_a_server_of_somebody_else_is_not_taken() -> None:
    world = AgentWorld()
    await world.cloud.provision_server(ServerSpec(name=SERVER_NAME, owner=FOREIGN, type="small", image="bookworm"))
    refusal = tools.provision_instance.holds(ORDER, await the_facts(world, tools.provision_instance, ORDER))
    assert refusal is not None
    assert refusal.reason is Reason.CLAIMED_BY_OTHER
    with pytest.raises(ClaimedByOther):
        await tools.provision_instance.run(world.context(WEB), ORDER)


async def test_a_whole_plan_leaves_nothing_to_do() -> None:
    world = AgentWorld()
    await provisioned(world)
    agent = InstanceAgent(world.ports)
    observed = await agent.observe(WEB)
    assert agent.issues(WEB, observed) == ()
    assert not agent.reconcile(WEB, observed)
    assert observed.look is not None
    assert (observed.look.hostname, observed.look.memory_mb, observed.look.cpus) == ("web", 256, 1)


async def test_ready_means_the_pinned_key() -> None:
    world = AgentWorld(boot_seconds=0.0)
    await until_ended(world, tools.provision_instance, ORDER)
    (server,) = await world.cloud.list_servers()
    world.hosts.host(server.id).host_key = make_key_pair("in between").public_line
    with pytest.raises(HostKeyMismatch):
        await tools.wait_for_ready.run(world.context(WEB), HOST)


async def test_a_silent_host_is_waited_for() -> None:
    world = AgentWorld(boot_seconds=0.0)
    await until_ended(world, tools.provision_instance, ORDER)
    (server,) = await world.cloud.list_servers()
    world.hosts.host(server.id).cut = True
    assert isinstance(await world.call(tools.wait_for_ready, WEB, HOST), NotYet)


async def test_a_host_that_another_instance_claims_is_left_alone() -> None:
    world = AgentWorld(boot_seconds=0.0)
    await until_ended(world, tools.provision_instance, ORDER)
    (server,) = await world.cloud.list_servers()
    host = world.hosts.host(server.id)
    other = OwnerTag(cluster=CLUSTER, namespace="bank", uid="other")
    host.files[CLAIM_PATH] = b'{"cluster":"%s","namespace":"bank","uid":"other"}' % CLUSTER.encode()
    facts = await the_facts(world, tools.prepare_host, PREPARE)
    refusal = tools.prepare_host.holds(PREPARE, facts)
    assert refusal is not None
    assert str(other) in refusal.message
    with pytest.raises(ClaimedByOther, match="other"):
        await tools.prepare_host.run(world.context(WEB), PREPARE)
    assert not host.installed, "nothing is installed on somebody else's host"


async def test_the_hostname_is_set_once_however_often_it_is_asked() -> None:
    world = AgentWorld(boot_seconds=0.0)
    world.hosts.unit(["hostnamectl"], Effect(seconds=3.0))
    await until_ended(world, tools.provision_instance, ORDER)
    assert isinstance(await world.call(tools.prepare_host, WEB, PREPARE), NotYet)
    assert isinstance(await until_ended(world, tools.prepare_host, PREPARE), Result)
    assert len(world.hosts.runs("op-1-1-1")) == 1


UNITS = [
    (UnitState(phase=UnitPhase.RUNNING), NotYet),
    (UnitState(phase=UnitPhase.NEVER), NotYet),
    (UnitState(phase=UnitPhase.ENDED, exit_code=0), Result),
    (UnitState(phase=UnitPhase.UNKNOWN), InDoubt),
]


@pytest.mark.parametrize(("state", "end"), UNITS, ids=[state.phase.value for state, _ in UNITS])
async def test_what_a_unit_means_for_its_step(state: UnitState, end: type[StepEnd]) -> None:
    assert isinstance(end_of(state, doing="doing", done="done"), end)


@pytest.mark.parametrize(
    "state",
    [
        UnitState(phase=UnitPhase.INTERRUPTED),
        UnitState(phase=UnitPhase.ENDED, exit_code=1, output="no such name"),
        UnitState(phase=UnitPhase.ENDED, killed_by="timeout"),
    ],
)
async def test_a_known_failure_may_be_tried_anew(state: UnitState) -> None:
    with pytest.raises(CommandFailed):
        end_of(state, doing="doing", done="done")


async def test_a_clean_stop_ends_within_its_grace() -> None:
    world = AgentWorld(stop_seconds=2.0)
    server_id = await provisioned(world)
    await until_ended(world, power.stop_instance, StopParams(**IDS, server_id=server_id, grace_seconds=30))
    server = world.cloud.server(server_id)
    assert server.state(asyncio.get_running_loop().time()) is ServerState.STOPPED
    assert server.boots[-1].clean


async def test_a_stop_that_takes_too_long_is_forced() -> None:
    world = AgentWorld(stop_seconds=1000.0)
    server_id = await provisioned(world)
    await until_ended(world, power.stop_instance, StopParams(**IDS, server_id=server_id, grace_seconds=10))
    assert world.cloud.server(server_id).state(asyncio.get_running_loop().time()) is ServerState.STOPPED


async def test_a_stopped_server_starts() -> None:
    world = AgentWorld()
    server_id = await provisioned(world)
    world.cloud.lose_power(server_id)
    await until_ended(world, power.start_instance, ServerParams(**IDS, server_id=server_id))
    assert (await world.cloud.get_server(server_id)).state is ServerState.RUNNING


async def test_a_frozen_host_comes_back_by_a_reset() -> None:
    world = AgentWorld()
    server_id = await provisioned(world)
    host = world.hosts.host(server_id)
    host.frozen = True
    await world.call(power.reboot_instance, WEB, ServerParams(**IDS, server_id=server_id))
    host.frozen = False
    await until_ended(world, tools.wait_for_ready, HOST.model_copy(update={"server_id": server_id}))
    agent = InstanceAgent(world.ports)
    assert not agent.issues(WEB, await agent.observe(WEB))


async def test_a_rebuild_replaces_the_disk_once_and_keeps_the_host_key() -> None:
    world = AgentWorld()
    server_id = await provisioned(world)
    before = world.hosts.host(server_id)
    wanted = instance(image="bookworm-20")
    agent = InstanceAgent(world.ports)
    await carry_out(world, agent.reconcile(wanted, await agent.observe(wanted)), wanted)
    after = world.hosts.host(server_id)
    assert world.cloud.server(server_id).disk == 2
    assert after.host_key == before.host_key
    assert claimant(after.files[CLAIM_PATH]) == str(TAG)


POWERING_ON: list[tuple[Any, Any]] = [
    (tools.provision_instance, ORDER),
    (tools.wait_for_ready, HOST),
    (power.start_instance, ServerParams(**IDS)),
    (power.reboot_instance, ServerParams(**IDS)),
    (power.rebuild_instance, ORDER),
]


@pytest.mark.parametrize(("tool", "params"), POWERING_ON, ids=[tool.name for tool, _ in POWERING_ON])
async def test_nothing_powers_on_what_is_fenced(tool: Any, params: Any) -> None:
    world = AgentWorld()
    await provisioned(world)
    fenced = instance(fence={"holder": "Database shop/db", "epoch": 1})
    refusal = tool.holds(params, await the_facts(world, tool, params, fenced))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.FENCED


ON_ANOTHER: list[Any] = [power.stop_instance, power.reboot_instance, power.start_instance, tools.decommission_instance]


@pytest.mark.parametrize("tool", ON_ANOTHER, ids=[tool.name for tool in ON_ANOTHER])
async def test_a_plan_never_moves_to_another_server(tool: Any) -> None:
    facts = ServerFacts(exists=True, server_id="s-2", state="Running")
    refusal = tool.holds(StopParams(**IDS, server_id="s-1"), facts)
    assert isinstance(refusal, Refusal)
    assert "'s-2'" in refusal.message


async def test_decommissioning_leaves_no_server_and_no_key() -> None:
    world = AgentWorld(settles_after=5.0)
    server_id = await provisioned_late(world)
    params = DecommissionParams(**IDS, **KEYS, server_id=server_id)
    await until_ended(world, tools.decommission_instance, params)
    with pytest.raises(NotFound):
        await world.cloud.get_server(server_id)
    assert "web-host-key" not in world.secrets.held
    agent, gone = InstanceAgent(world.ports), instance(deleting=True)
    assert not agent.teardown(gone, await agent.observe(gone)), "nothing is left to do"


async def test_a_deletion_that_somebody_began_and_did_not_finish_is_finished() -> None:
    world = AgentWorld()
    server_id = await provisioned(world)
    world.cloud.server(server_id).becomes((asyncio.get_running_loop().time(), ServerState.DECOMMISSIONING))
    params = DecommissionParams(**IDS, **KEYS, server_id=server_id)
    await until_ended(world, tools.decommission_instance, params)
    with pytest.raises(NotFound):
        await world.cloud.get_server(server_id)


async def provisioned_late(world: AgentWorld) -> str:
    server = await until_ended(world, tools.provision_instance, ORDER)
    assert isinstance(server, Result)
    await asyncio.sleep(world.cloud.capabilities.settles_after)
    (listed,) = await world.cloud.list_servers()
    return listed.id


async def test_a_server_that_shows_up_late_is_not_deleted_without_approval() -> None:
    world = AgentWorld(settles_after=20.0, boot_seconds=0.0)
    await world.call(tools.provision_instance, WEB, ORDER)
    params = DecommissionParams(**IDS, **KEYS)
    assert not (await the_facts(world, tools.decommission_instance, params)).exists
    with pytest.raises(CommandFailed, match="shown up late"):
        await tools.decommission_instance.run(world.context(WEB), params)
    assert len(await world.cloud.list_servers()) == 1
    assert (await the_facts(world, tools.decommission_instance, params)).exists, "so the next plan is Dangerous"


async def test_releasing_takes_only_our_mark_off() -> None:
    world = AgentWorld()
    server_id = await provisioned(world)
    await until_ended(world, tools.release_instance, HOST.model_copy(update={"server_id": server_id}))
    host = world.hosts.host(server_id)
    assert CLAIM_PATH not in host.files
    assert host.hostname == "web"
    assert (await world.cloud.get_server(server_id)).state is ServerState.RUNNING
    assert "web-host-key" not in world.secrets.held


async def test_a_dead_host_keeps_nobody_from_letting_go() -> None:
    world = AgentWorld()
    server_id = await provisioned(world)
    world.hosts.host(server_id).cut = True
    ended = await until_ended(world, tools.release_instance, HOST.model_copy(update={"server_id": server_id}))
    assert isinstance(ended, Result)
    assert "may still be there" in ended.message


async def test_a_lost_provider_keeps_nobody_from_letting_go() -> None:
    world = AgentWorld()
    await provisioned(world)
    world.objects.objects.clear()
    kept = instance(deleting=True, management={"deletionPolicy": "Retain"})
    agent = InstanceAgent(world.ports)
    plan = agent.teardown(kept, await agent.observe(kept))
    assert tools_of(plan) == ["release_instance"]
    await carry_out(world, plan, kept)
    assert not agent.teardown(kept, await agent.observe(kept))
