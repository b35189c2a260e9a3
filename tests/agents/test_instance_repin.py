"""Trusting another host key: only one that a human named, only if it is shown, and only after an approval."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.support.agents import SERVER_NAME, AgentWorld, instance, prepared, seen, server, tools_of

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.clients.keys import fingerprint, make_key_pair, public_line
from agentmetal.core.condition import ConditionType, Reason
from agentmetal.core.errors import HostKeyMismatch, Unavailable
from agentmetal.core.machine import Capabilities, ServerState
from agentmetal.core.plan import Plan
from agentmetal.core.resource import Annotation
from agentmetal.core.risk import Risk
from agentmetal.core.tool import AnyTool, NotYet, Result
from agentmetal_tools.hosts import HOST_PRIVATE, HOST_PUBLIC
from agentmetal_tools.repin import RepinParams, repin_host

OLD, NEW, THIRD = (make_key_pair(name) for name in ("old", "new", "third"))
INVENTORY = Capabilities(hosts=True, power=False, makes_servers=False)


def doubted(**fields: Any) -> InstanceObservation:
    """Somebody else's key is shown."""
    known = {"host_key": OLD.public_line, "fingerprint": OLD.fingerprint, "marked": True}
    told = {"shown": NEW.fingerprint, "evidence": f"shown is {NEW.fingerprint}"}
    return seen(**{"server": server(), "reach": Reach.WRONG_HOST_KEY, **known, **told, **fields})


def listed(vouched: str) -> InstanceObservation:
    """The same in an inventory that vouches for a key."""
    inventoried = replace(server(), host_key=vouched, owner=None)
    return doubted(capabilities=INVENTORY, vouched=fingerprint(vouched), server=inventoried)


def asking(repin: str, **spec: Any) -> Instance:
    made = instance(**spec)
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"annotations": _asked(repin)})})


def _asked(repin: str) -> dict[str, str]:
    return {Annotation.REPIN: repin} if repin else {}


def decided(agent: InstanceAgent, resource: Instance, observed: InstanceObservation) -> Plan:
    for issue in agent.issues(resource, observed):
        if plan := agent.heal(resource, observed, issue):
            return plan
    return agent.reconcile(resource, observed)


@pytest.fixture
def agent() -> InstanceAgent:
    return InstanceAgent(AgentWorld().ports)


CASES: list[tuple[str, str, InstanceObservation, list[str]]] = [
    ("nobody asks", "", doubted(), []),
    ("the shown key is named", NEW.fingerprint, doubted(), ["repin_host"]),
    ("another key is named", THIRD.fingerprint, doubted(), []),
    ("the pinned key is named", OLD.fingerprint, doubted(), []),
    ("the key itself is named", NEW.public_line, doubted(), []),
    ("what is shown is not known", NEW.fingerprint, doubted(shown=""), []),
    (
        "nothing is in doubt any more",
        NEW.fingerprint,
        seen(server=server(), reach=Reach.ANSWERING, look=prepared()),
        [],
    ),
    ("the inventory says the shown key, too", NEW.fingerprint, listed(NEW.public_line), ["repin_host"]),
    ("the inventory says the pinned key still", NEW.fingerprint, listed(OLD.public_line), []),
    ("the inventory says a third key", NEW.fingerprint, listed(THIRD.public_line), []),
    (
        "the inventory says another key, the host shows the pinned one",
        NEW.fingerprint,
        replace(listed(NEW.public_line), shown=OLD.fingerprint),
        [],
    ),
]


@pytest.mark.parametrize(("reason", "asked", "observed", "tools"), CASES, ids=[case[0] for case in CASES])
def test_only_the_shown_key_can_be_asked_for(
    agent: InstanceAgent, reason: str, asked: str, observed: InstanceObservation, tools: list[str]
) -> None:
    assert tools_of(decided(agent, asking(asked), observed)) == tools, reason


def test_the_plan_is_dangerous_and_shows_both_fingerprints_and_the_machine(agent: InstanceAgent) -> None:
    plan = decided(agent, asking(NEW.fingerprint, status={"machineID": "m-1"}), doubted())
    (step,) = plan.steps
    assert plan.risk is Risk.DANGEROUS
    assert (step.parameters["was"], step.parameters["becomes"]) == (OLD.fingerprint, NEW.fingerprint)
    assert OLD.fingerprint in step.description
    assert NEW.fingerprint in step.description
    assert "machine-id m-1" in plan.evidence[0]


def test_the_evidence_says_whether_it_calls_itself_the_same_machine(agent: InstanceAgent) -> None:
    known = asking(NEW.fingerprint, status={"machineID": "m-1"})
    for says, told in (("m-1", "answers says the same"), ("m-2", "answers says m-2")):
        assert decided(agent, known, doubted(shown_by=says)).evidence[0].endswith(told)


SAID: list[tuple[str, str, InstanceObservation, str]] = [
    ("nobody asks", "", doubted(), f"annotate agentmetal.io/repin={NEW.fingerprint}"),
    ("wrong", THIRD.fingerprint, doubted(), f"(it asks for '{THIRD.fingerprint}' now)"),
    ("agreed", NEW.fingerprint, doubted(), f"To trust {NEW.fingerprint} is planned"),
    ("unknown", NEW.fingerprint, doubted(shown=""), "not known at the moment"),
    ("inventory behind", "", listed(OLD.public_line), "put it into the inventory, which says the pinned one, and"),
    ("a third in the inventory", "", listed(THIRD.public_line), f"which says {THIRD.fingerprint}, and annotate"),
    ("inventory behind, asked", NEW.fingerprint, listed(OLD.public_line), "agentmetal.io/repin asks for it already"),
    ("inventory behind, wrong", "hello", listed(OLD.public_line), "(it asks for 'hello' now)"),
    (
        "inventory edited only",
        NEW.fingerprint,
        replace(listed(NEW.public_line), shown=OLD.fingerprint),
        f"the inventory says {NEW.fingerprint}: put the pinned key back into the entry of 's-1'",
    ),
]


@pytest.mark.parametrize(("name", "asked", "observed", "text"), SAID, ids=[case[0] for case in SAID])
def test_the_condition_says_what_a_human_can_do(
    agent: InstanceAgent, name: str, asked: str, observed: InstanceObservation, text: str
) -> None:
    conditions = {c.type: c for c in agent.report(asking(asked), observed).conditions}
    message = conditions[ConditionType.HOST_KEY_MISMATCH].message
    assert text in message, name
    assert OLD.fingerprint in message


# The tool, on a host that shows another key.

IDS = {"provider": "cloud", "server": SERVER_NAME, "host_key_secret": "web-host-key", "client_key_secret": "cloud-ssh"}


async def carried_out(world: AgentWorld, resource: Instance) -> None:
    """Run the plan that it needs now."""
    agent = InstanceAgent(world.ports)
    by_name = {tool.name: tool for tool in agent.tools()}
    for number, step in enumerate(agent.reconcile(resource, await agent.observe(resource)).steps, start=1):
        await until_ended(world, resource, number, by_name[step.tool], step.parameters)


async def until_ended(world: AgentWorld, resource: Instance, number: int, tool: AnyTool, parameters: Any) -> None:
    while True:
        ended = await tool.run(world.context(resource, step=number), tool.parse(parameters))
        if not isinstance(ended, NotYet):
            return
        await asyncio.sleep(ended.again_in)


async def replaced(world: AgentWorld) -> RepinParams:
    """A server of ours whose host shows NEW; what was approved then."""
    await carried_out(world, instance())
    (listed,) = await world.cloud.list_servers()
    world.hosts.host(listed.id).host_key = NEW.public_line
    was = fingerprint(world.secrets.held["web-host-key"][HOST_PUBLIC].decode())
    return RepinParams(**IDS, server_id=listed.id, was=was, becomes=NEW.fingerprint)


@pytest.mark.looptime
async def test_the_approved_key_is_pinned_and_the_private_half_of_the_old_one_goes() -> None:
    world = AgentWorld()
    params = await replaced(world)
    assert isinstance(await world.call(repin_host, instance(), params), Result)
    held = world.secrets.held["web-host-key"]
    assert fingerprint(held[HOST_PUBLIC].decode()) == NEW.fingerprint
    assert HOST_PRIVATE not in held
    assert (await InstanceAgent(world.ports).observe(instance())).reach is Reach.ANSWERING


@pytest.mark.looptime
async def test_after_a_crash_the_same_key_is_pinned_again() -> None:
    world = AgentWorld()
    params = await replaced(world)
    await world.call(repin_host, instance(), params)
    assert isinstance(await world.call(repin_host, instance(), params), Result)


@pytest.mark.looptime
async def test_another_key_than_the_approved_one_is_never_pinned() -> None:
    world = AgentWorld()
    params = await replaced(world)
    before = dict(world.secrets.held["web-host-key"])
    world.hosts.host(params.server_id or "").host_key = THIRD.public_line
    refusal = repin_host.holds(params, await repin_host.read(world.context(instance()), params))
    assert refusal is not None
    assert refusal.reason is Reason.HOST_KEY_MISMATCH
    with pytest.raises(HostKeyMismatch, match="nothing is trusted"):
        await repin_host.run(world.context(instance()), params)
    assert world.secrets.held["web-host-key"] == before


@pytest.mark.looptime
async def test_a_silent_host_is_not_repinned() -> None:
    world = AgentWorld()
    params = await replaced(world)
    world.hosts.host(params.server_id or "").cut = True
    with pytest.raises(Unavailable):
        await repin_host.read(world.context(instance()), params)


@pytest.mark.looptime
async def test_a_rebuild_after_a_repin_makes_a_new_pair_and_pins_it() -> None:
    world = AgentWorld()
    params = await replaced(world)
    await world.call(repin_host, instance(), params)
    await carried_out(world, instance(image="bookworm-20"))
    held = world.secrets.held["web-host-key"]
    shown = world.hosts.host(params.server_id or "").host_key
    assert (
        public_line(held[HOST_PRIVATE].decode()).split()[:2]
        == shown.split()[:2]
        == held[HOST_PUBLIC].decode().split()[:2]
    )
    assert fingerprint(shown) not in (params.was, params.becomes)
    assert (await world.cloud.get_server(params.server_id or "")).state is ServerState.RUNNING
