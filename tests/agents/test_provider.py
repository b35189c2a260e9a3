"""The Provider agent: plans as tables, its key tool on fakes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError
from tests.support.agents import NOW, AgentWorld, provider, tools_of
from tests.support.inventory import Lab

from agentmetal.agents.provider.agent import ProviderAgent, ProviderObservation
from agentmetal.agents.provider.api import Provider, SshSpec
from agentmetal.clients.keys import make_key_pair, public_line
from agentmetal.core.condition import ConditionStatus, ConditionType, Reason
from agentmetal.core.errors import Invalid
from agentmetal.core.machine import Location, Unusable
from agentmetal.core.resource import Key, Ref
from agentmetal.core.risk import Risk
from agentmetal.core.tool import Result
from agentmetal.providers.registry import ProviderRegistry
from agentmetal_tools.hosts import CLIENT_PRIVATE, CLIENT_PUBLIC
from agentmetal_tools.provider import ProviderKeyParams, create_provider_key, release_provider_key

CLOUD = provider()
PARAMS = ProviderKeyParams(provider="cloud", secret="cloud-ssh")
DISABLED = ProviderObservation(at=NOW, trouble=Reason.PROVIDER_TYPE_DISABLED, trouble_message="not enabled")
CASES = [
    ("a key is made", CLOUD, ProviderObservation(at=NOW), ["create_provider_key"]),
    ("a key is kept", CLOUD, ProviderObservation(at=NOW, public_key="k"), []),
    ("nothing is made for a disabled type", CLOUD, DISABLED, []),
]


def keyless() -> AgentWorld:
    world = AgentWorld()
    world.secrets.held.clear()
    return world


@pytest.mark.parametrize(("reason", "resource", "observed", "tools"), CASES, ids=[case[0] for case in CASES])
def test_given_this_world_then_this_plan(
    reason: str, resource: Provider, observed: ProviderObservation, tools: list[str]
) -> None:
    plan = ProviderAgent(AgentWorld().ports).reconcile(resource, observed)
    assert tools_of(plan) == tools, reason
    assert not plan.risk.exceeds(Risk.MODERATE)


def test_a_provider_in_use_waits_and_names_three_of_its_users() -> None:
    world = AgentWorld()
    agent = ProviderAgent(world.ports)
    going = provider(deleting=True)
    assert agent.waits_for(going) is None
    world.objects.referring = tuple(Key("Instance", "shop", f"web-{number}") for number in range(5))
    assert agent.waits_for(CLOUD) is None, "only deletion waits"
    waits = agent.waits_for(going)
    assert waits is not None
    assert waits.reason is Reason.WAITING_FOR_REFERRERS
    assert "web-0, Instance shop/web-1, Instance shop/web-2 and 2 more" in waits.message


@pytest.mark.looptime
async def test_the_catalogue_is_reported_and_what_is_left_to_buy_is_not() -> None:
    world = AgentWorld(quota=7)
    agent = ProviderAgent(world.ports)
    report = agent.report(CLOUD, await agent.observe(CLOUD))
    assert report.conditions[0].status is ConditionStatus.TRUE
    assert report.fields["types"][0] == {"name": "small", "vcpus": 1, "memoryMB": 256, "diskGB": 10}
    assert report.fields["keySecretRef"] == {"name": "cloud-ssh"}
    status = {**CLOUD.model_dump(by_alias=True), "status": dict(report.fields)}
    assert Provider.model_validate(status).status.images == ("bookworm", "bookworm-20", "bookworm-cloud")


@pytest.mark.looptime
async def test_a_disabled_type_is_said_and_not_asked() -> None:
    world = AgentWorld()
    agent = ProviderAgent(replace(world.ports, providers=ProviderRegistry(world.objects, {})))
    ready = agent.report(CLOUD, await agent.observe(CLOUD)).conditions[0]
    assert (ready.status, ready.reason) == (ConditionStatus.FALSE, Reason.PROVIDER_TYPE_DISABLED)
    assert "settings" in ready.message


@pytest.mark.looptime
async def test_a_missing_credentials_secret_is_said() -> None:
    agent = ProviderAgent(AgentWorld().ports)
    spec = CLOUD.spec.model_copy(update={"secret_ref": Ref(name="account")})
    wanted = CLOUD.model_copy(update={"spec": spec})
    ready = agent.report(wanted, await agent.observe(wanted)).conditions[0]
    assert ready.reason is Reason.SECRET_MISSING


@pytest.mark.looptime
async def test_the_key_pair_is_made_once() -> None:
    world = keyless()
    assert isinstance(await world.call(create_provider_key, CLOUD, PARAMS), Result)
    first = dict(world.secrets.held["cloud-ssh"])
    await world.call(create_provider_key, CLOUD, PARAMS)
    assert world.secrets.held["cloud-ssh"] == first
    made = public_line(first[CLIENT_PRIVATE].decode())
    assert made.split()[:2] == first[CLIENT_PUBLIC].decode().split()[:2]


@pytest.mark.looptime
async def test_a_secret_that_holds_something_else_is_not_taken_for_a_key() -> None:
    world = keyless()
    world.secrets.held["cloud-ssh"] = {"password": b"x"}
    with pytest.raises(Invalid, match="ssh-privatekey"):
        await world.call(create_provider_key, CLOUD, PARAMS)


@pytest.mark.looptime
async def test_teardown_lets_go_of_the_key_and_then_has_nothing_to_do() -> None:
    world, going = AgentWorld(), provider(deleting=True)
    agent = ProviderAgent(world.ports)
    assert tools_of(agent.teardown(going, await agent.observe(going))) == ["release_provider_key"]
    await world.call(release_provider_key, going, PARAMS)
    assert not agent.teardown(going, await agent.observe(going))
    assert world.cloud.calls == [], "an account that is given up need not answer"


@pytest.mark.parametrize("address", ["10.0.0.300", "10.0.0.0/24", "10.0.0.1.", "010.0.0.1", "10.0.0", "fe80::1", ""])
def test_what_is_no_ipv4_address_is_no_floating_one(address: str) -> None:
    assert SshSpec.model_validate({"floatingAddresses": ["10.0.0.1", "255.255.255.255"]}).floating_addresses
    with pytest.raises(ValidationError, match="pattern"):
        SshSpec.model_validate({"floatingAddresses": [address]})


def inventory(*hosts: str) -> Provider:
    key = make_key_pair("host").public_line
    entries = [{"name": name, "address": "192.0.2.1", "hostKey": key} for name in hosts]
    return Provider.model_validate(
        {**CLOUD.model_dump(by_alias=True), "spec": {"type": "SSH", "ssh": {"hosts": entries}}, "status": {}}
    )


def test_hosts_that_cannot_be_used_are_named_and_degrade_the_provider() -> None:
    agent = ProviderAgent(AgentWorld().ports)
    names = [f"host-{number:02}" for number in range(40)]
    unusable = tuple(Unusable(name=name, reason=Reason.NEEDS_ROOT, message="sudo") for name in reversed(names))
    places = (Location(name="hall-1", failure_domains=("rack-1", "rack-2")), Location(name="hall-2"))
    seen = ProviderObservation(at=NOW, public_key="k", unusable=unusable, locations=places, inventory=True)

    report = agent.report(inventory(*names), seen)

    ready = next(one for one in report.conditions if one.type is ConditionType.READY)
    degraded = next(one for one in report.conditions if one.type is ConditionType.DEGRADED)
    assert ready.message == "it answers: 40 hosts, 40 unusable, 0 types, 0 images, 2 locations"
    assert (degraded.type, degraded.reason) == (ConditionType.DEGRADED, Reason.HOSTS_UNUSABLE)
    assert "host-00 (NeedsRoot), host-01 (NeedsRoot), host-02 (NeedsRoot) and 37 more" in degraded.message
    status = Provider.model_validate({**CLOUD.model_dump(by_alias=True), "status": dict(report.fields)}).status
    assert [one.name for one in status.unusable] == names[:32]
    assert [place.failure_domains for place in status.locations] == [("rack-1", "rack-2"), ()]


def test_an_inventory_is_looked_at_again_soon_and_when_all_is_well_it_says_that_it_is_not_degraded() -> None:
    agent = ProviderAgent(AgentWorld().ports)

    report = agent.report(inventory("a"), ProviderObservation(at=NOW, public_key="k", inventory=True))

    (degraded,) = (condition for condition in report.conditions if condition.type is ConditionType.DEGRADED)
    assert degraded.status is ConditionStatus.FALSE, "`kubectl wait --for=condition=Degraded=False` ends"
    assert report.again_in == 60
    cloud = agent.report(CLOUD, ProviderObservation(at=NOW, public_key="k"))
    assert cloud.again_in is None
    assert ConditionType.DEGRADED not in [condition.type for condition in cloud.conditions]


@pytest.mark.looptime
async def test_an_inventory_is_observed_once_there_is_a_key_to_look_with() -> None:
    lab = Lab()
    lab.add("a")
    lab.add("b").cut = True
    world, wanted = keyless(), inventory("a")
    async with lab.provider(name="cloud") as provider:
        world.objects.objects[wanted.key] = wanted
        providers = ProviderRegistry(world.objects, {"SSH": lambda account: provider})
        agent = ProviderAgent(replace(world.ports, providers=providers))

        before = await agent.observe(wanted)
        await world.call(create_provider_key, wanted, PARAMS)
        after = await agent.observe(wanted)

    assert (before.unusable, before.inventory, lab.machines.connections) == ((), True, 1)
    assert [(one.name, one.reason) for one in after.unusable] == [("b", Reason.UNREACHABLE)]
    assert after.images == ("existing",)
