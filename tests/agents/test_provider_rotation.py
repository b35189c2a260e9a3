"""Rotation of a Provider's key: plans as tables, the tools on fake hosts. At every moment a login works."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from tests.support.agents import CLUSTER, NOW, AgentWorld, DictSecrets, instance, provider, tools_of

from agentmetal.agents.provider.agent import ProviderAgent, ProviderObservation
from agentmetal.agents.provider.api import Provider
from agentmetal.agents.provider.rotation import Rotation
from agentmetal.clients.keys import KeyPair, make_key_pair
from agentmetal.core.condition import ConditionStatus, ConditionType, Reason
from agentmetal.core.errors import AuthenticationFailed, Conflict, Unavailable
from agentmetal.core.machine import MachineIdentity, OwnerTag, SecretKey, ServerSpec
from agentmetal.core.resource import Annotation, Key
from agentmetal.core.risk import Risk
from agentmetal.core.tool import AnyTool, NotYet, Result, StepEnd
from agentmetal_tools import login_keys
from agentmetal_tools.hosts import CLIENT_PRIVATE, CLIENT_PUBLIC, HOST_PUBLIC
from agentmetal_tools.login_keys import NEXT_PRIVATE, NEXT_PUBLIC, PREVIOUS_PRIVATE, PREVIOUS_PUBLIC, Stage
from agentmetal_tools.rotation import (
    LOOK_AGAIN,
    REST,
    RevokeParams,
    RotationFacts,
    RotationParams,
    make_next_key,
    revoke_old_key,
    spread_key,
    switch_key,
)

ALL = ["make_next_key", "spread_key", "switch_key", "revoke_old_key"]
PARAMS = RotationParams(provider="cloud", secret="cloud-ssh", rotation="r1")
REVOKE = RevokeParams(provider="cloud", secret="cloud-ssh", rotation="r1", overlap_seconds=300)
SECRET = "cloud-ssh"


def asked(value: str = "r1") -> Provider:
    given = provider()
    metadata = given.metadata.model_copy(update={"annotations": {Annotation.ROTATE: value}})
    return given.model_copy(update={"metadata": metadata})


def seen(stage: Stage, *, wanted: str = "", ours: bool = True) -> ProviderObservation:
    rotation = Rotation(facts=RotationFacts(stage=stage, ours=ours), wanted=wanted)
    return ProviderObservation(at=NOW, public_key="k", rotation=rotation)


PLANS = [
    ("nothing is asked for", seen(Stage.STEADY), []),
    ("a rotation is asked for", seen(Stage.STEADY, wanted="r1"), ALL),
    ("one was begun", seen(Stage.SPREADING, wanted="r1"), ALL),
    ("one was begun, and the annotation was taken away", seen(Stage.SPREADING), ALL),
    ("the old key is still accepted somewhere", seen(Stage.REVOKING), ["revoke_old_key"]),
    ("the next rotation waits for the end of this one", seen(Stage.REVOKING, wanted="r2"), ["revoke_old_key"]),
    ("a key that is not ours", seen(Stage.STEADY, wanted="r1", ours=False), []),
    ("the provider is not asked", ProviderObservation(at=NOW, public_key="k"), []),
]


@pytest.mark.parametrize(("reason", "observed", "tools"), PLANS, ids=[case[0] for case in PLANS])
def test_given_this_world_then_this_plan(reason: str, observed: ProviderObservation, tools: list[str]) -> None:
    agent = ProviderAgent(AgentWorld().ports)
    plans = [agent.heal(asked(), observed, issue) for issue in agent.issues(asked(), observed)]
    assert [tools_of(plan) for plan in plans] == ([tools] if tools else []), reason
    assert not any(plan.risk.exceeds(Risk.MODERATE) for plan in plans)


def test_while_it_rotates_it_is_ready_and_says_so() -> None:
    agent = ProviderAgent(AgentWorld().ports)
    report = agent.report(asked(), seen(Stage.SPREADING, wanted="r1"))
    (ready,) = (condition for condition in report.conditions if condition.type is ConditionType.READY)
    assert (ready.status, ready.reason) == (ConditionStatus.TRUE, Reason.KEY_ROTATION)


def test_a_key_of_the_users_own_is_refused_with_a_sentence() -> None:
    agent = ProviderAgent(AgentWorld().ports)
    report = agent.report(asked(), seen(Stage.STEADY, wanted="r1", ours=False))
    (degraded,) = (condition for condition in report.conditions if condition.type is ConditionType.DEGRADED)
    assert degraded.status is ConditionStatus.TRUE
    assert "was not made by AgentMetal: rotate the key in it yourself" in degraded.message


@pytest.mark.parametrize("value", ["x" * 65, "grün", "two\nlines"])
def test_an_odd_value_of_the_annotation_has_a_short_name_of_its_own(value: str) -> None:
    named = login_keys.rotation_named(value)
    assert len(named) == 64
    assert named != login_keys.rotation_named(value + "!")


@pytest.mark.parametrize("value", [" r1", "r1 ", "r1\n", " "])
def test_blanks_around_the_annotation_do_not_ask_for_ever(value: str) -> None:
    named = login_keys.rotation_named(value)
    held = {login_keys.ROTATION: named.encode()}
    assert login_keys.rotation_done(held) == login_keys.rotation_named(value)


# ---- the tools


@dataclass
class Meddled(DictSecrets):
    """Somebody exchanges the next key right after a tool has read it."""

    other: bytes = b""
    reads: list[str] = field(default_factory=list)

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        held = await super().read(namespace, name)
        self.reads.append(name)
        if name == SECRET and self.reads.count(SECRET) == 2:  # once for the facts, once by the tool itself
            self.held[SECRET] = {**held, NEXT_PRIVATE: self.other}
        return held


class Rotating(AgentWorld):
    """A Provider with Instances on fake hosts."""

    def __init__(self, *names: str) -> None:
        super().__init__(boot_seconds=0)
        self.old = self.pair()
        self.names = names
        self.ids: dict[str, str] = {}

    async def order(self) -> None:
        for number, name in enumerate(self.names):
            await self.add(name, f"aaaabbbb-0000-4000-8000-{number:012}", self.old.public_line)

    async def add(self, name: str, uid: str, *keys: str) -> None:
        """An Instance whose server accepts these keys."""
        given = instance(uid=uid)
        resource = given.model_copy(update={"metadata": given.metadata.model_copy(update={"name": name})})
        tag = OwnerTag(cluster=CLUSTER, namespace="shop", uid=uid)
        host_key = make_key_pair("host")
        spec = ServerSpec(
            name=name,
            owner=tag,
            type="small",
            image="bookworm",
            authorized_keys=keys,
            host_key=host_key.private_openssh,
        )
        self.ids[name] = (await self.cloud.provision_server(spec)).id
        self.secrets.held[f"{name}-host-key"] = {HOST_PUBLIC: host_key.public_line.encode()}
        self.objects.objects[resource.key] = resource
        self.objects.referring = (*self.objects.referring, resource.key)

    def pair(self) -> KeyPair:
        held = self.secrets.held[SECRET]
        private, public = held[CLIENT_PRIVATE].decode(), held[CLIENT_PUBLIC].decode()
        return KeyPair(private_openssh=private, public_line=public, fingerprint="")

    @property
    def stage(self) -> Stage:
        return login_keys.stage_of(self.secrets.held[SECRET])

    async def accepts(self, name: str, key: str = CLIENT_PRIVATE) -> bool:
        """Does the host let that key of the Secret in, on a new connection?"""
        server = await self.cloud.get_server(self.ids[name])
        owner = Key("Test", "shop", "probe")
        identity = MachineIdentity(
            owner=owner,
            server_id=server.id,
            address=server.addresses[0],
            port=server.port,
            user=server.user,
            host_key=self.secrets.held[f"{name}-host-key"][HOST_PUBLIC].decode(),
            client_key=SecretKey(namespace="shop", name=SECRET, key=key),
        )
        await self.hosts.forget(owner)
        try:
            await self.hosts.connect(identity)
        except AuthenticationFailed:
            return False
        await self.hosts.forget(owner)
        return True

    async def logins(self, name: str) -> list[str]:
        content = self.hosts.host(self.ids[name]).files["/root/.ssh/authorized_keys"].decode()
        return [line.split()[1] for line in content.splitlines()]

    async def end(self, tool: AnyTool, params: RotationParams = PARAMS) -> StepEnd:
        return await self.call(tool, asked(), params)


def silence(world: Rotating, name: str, *, silent: bool = True) -> None:
    world.hosts.host(world.ids[name]).cut = silent


async def world_of(*names: str) -> Rotating:
    world = Rotating(*names)
    await world.order()
    return world


@pytest.mark.looptime
async def test_a_rotation_from_the_beginning_to_the_end() -> None:
    world = await world_of("web-1", "web-2")
    before = world.pair()
    for tool in (make_next_key, spread_key, switch_key):
        assert isinstance(await world.end(tool), Result)
        assert await world.accepts("web-1")
        assert await world.accepts("web-2")
    after = world.pair()
    assert after.public_line != before.public_line
    assert isinstance(await world.end(revoke_old_key, REVOKE), NotYet), "an order that began before knows the old one"
    await asyncio.sleep(301)
    assert isinstance(await world.end(revoke_old_key, REVOKE), Result)
    for name in world.names:
        assert await world.logins(name) == [after.public_line.split()[1]]
        assert await world.accepts(name)
    assert world.secrets.held[SECRET].keys() == {CLIENT_PRIVATE, CLIENT_PUBLIC, login_keys.ROTATION}
    assert not ProviderAgent(world.ports).issues(asked(), await ProviderAgent(world.ports).observe(asked()))


@pytest.mark.looptime
async def test_every_step_may_be_called_again() -> None:
    world = await world_of("web-1")
    await world.end(make_next_key)
    made = world.secrets.held[SECRET][NEXT_PUBLIC]
    await world.end(make_next_key)
    assert world.secrets.held[SECRET][NEXT_PUBLIC] == made
    for tool in (spread_key, switch_key):
        await world.end(tool)
        await world.end(tool)
    await world.end(make_next_key)
    assert world.pair().public_line.encode() == made
    await asyncio.sleep(301)
    for _ in range(2):
        assert isinstance(await world.end(revoke_old_key, REVOKE), Result)
    await world.end(make_next_key)
    assert world.stage is Stage.STEADY, "this rotation is done"


@pytest.mark.looptime
@pytest.mark.parametrize("tool", [spread_key, switch_key], ids=lambda tool: str(tool.name))
async def test_a_silent_host_delays_the_switch_and_is_named(tool: AnyTool) -> None:
    world = await world_of("web-1", "web-2")
    await world.end(make_next_key)
    silence(world, "web-2")
    ended = await world.end(tool)
    assert isinstance(ended, NotYet)
    assert "1 of 2 hosts" in ended.message
    assert ended.again_in == LOOK_AGAIN + REST, "the more there are, the less often"
    assert "Instance web-2" in ended.message
    assert "does not answer" in ended.message
    assert world.stage is Stage.SPREADING
    silence(world, "web-2", silent=False)
    assert isinstance(await world.end(tool), Result)


@pytest.mark.looptime
async def test_a_host_that_is_off_is_named_and_one_that_is_gone_is_not_waited_for() -> None:
    world = await world_of("web-1", "web-2")
    await world.end(make_next_key)
    await world.cloud.stop_server(world.ids["web-1"], force=True)
    ended = await world.end(spread_key)
    assert isinstance(ended, NotYet)
    assert "Instance web-1 (it is Stop" in ended.message
    tag = OwnerTag(cluster=CLUSTER, namespace="shop", uid="aaaabbbb-0000-4000-8000-000000000000")
    await world.cloud.decommission_server(world.ids["web-1"], tag)
    await asyncio.sleep(60)
    while isinstance(ended := await world.end(spread_key), NotYet):
        assert "web-1" in ended.message
    assert isinstance(ended, Result)


@pytest.mark.looptime
async def test_a_host_that_turns_up_late_with_the_old_key_alone_is_taken_along() -> None:
    world = await world_of("web-1")
    for tool in (make_next_key, spread_key, switch_key):
        await world.end(tool)
    await world.add("late", "aaaabbbb-0000-4000-8000-000000000099", world.old.public_line)
    assert not await world.accepts("late")
    await asyncio.sleep(301)
    assert isinstance(await world.end(revoke_old_key, REVOKE), Result)
    assert await world.accepts("late")
    assert await world.logins("late") == [world.pair().public_line.split()[1]]


@pytest.mark.looptime
async def test_the_old_key_stays_as_long_as_one_host_was_not_visited() -> None:
    world = await world_of("web-1", "web-2")
    for tool in (make_next_key, spread_key, switch_key):
        await world.end(tool)
    await asyncio.sleep(301)
    silence(world, "web-1")
    ended = await world.end(revoke_old_key, REVOKE)
    assert isinstance(ended, NotYet)
    assert "Instance web-1" in ended.message
    assert {PREVIOUS_PRIVATE, PREVIOUS_PUBLIC, NEXT_PRIVATE} <= world.secrets.held[SECRET].keys()
    assert await world.accepts("web-2")
    silence(world, "web-1", silent=False)
    assert isinstance(await world.end(revoke_old_key, REVOKE), Result)


@pytest.mark.looptime
async def test_a_pair_that_somebody_exchanged_after_the_proof_is_not_switched_to() -> None:
    world = await world_of("web-1")
    await world.end(make_next_key)
    await world.end(spread_key)
    world.secrets = Meddled(world.secrets.held, other=make_key_pair("other").private_openssh.encode())
    with pytest.raises(Conflict):
        await world.end(switch_key)
    assert world.stage is Stage.SPREADING


@pytest.mark.looptime
async def test_what_somebody_else_may_log_in_with_stays() -> None:
    world = await world_of("web-1")
    alice = make_key_pair("alice").public_line
    host = world.hosts.host(world.ids["web-1"])
    host.files["/root/.ssh/authorized_keys"] += f"# alice\n{alice}\n".encode()
    for tool in (make_next_key, spread_key, switch_key):
        await world.end(tool)
    await asyncio.sleep(301)
    await world.end(revoke_old_key, REVOKE)
    content = host.files["/root/.ssh/authorized_keys"].decode()
    assert f"# alice\n{alice}\n" in content
    assert world.old.public_line.split()[1] not in content


@pytest.mark.looptime
async def test_what_restricts_the_old_key_restricts_the_new_one() -> None:
    world = await world_of("web-1")
    host = world.hosts.host(world.ids["web-1"])
    host.files["/root/.ssh/authorized_keys"] = f'from="10.0.0.5" {world.old.public_line}\n'.encode()
    for tool in (make_next_key, spread_key, switch_key):
        await world.end(tool)
    await asyncio.sleep(301)
    await world.end(revoke_old_key, REVOKE)
    assert host.files["/root/.ssh/authorized_keys"].decode() == f'from="10.0.0.5" {world.pair().public_line}\n'


@pytest.mark.looptime
async def test_new_servers_get_both_keys_while_both_count() -> None:
    world = await world_of("web-1")
    held = world.secrets.held
    assert login_keys.public_keys(held[SECRET]) == (world.old.public_line,)
    await world.end(make_next_key)
    assert len(login_keys.public_keys(held[SECRET])) == 2
    await world.end(spread_key)
    await world.end(switch_key)
    assert login_keys.public_keys(held[SECRET]) == (world.pair().public_line,)


@pytest.mark.looptime
async def test_a_connection_of_the_last_rotation_proves_nothing_about_this_one() -> None:
    world = await world_of("web-1")
    for tool in (make_next_key, spread_key, switch_key):
        await world.end(tool)
    await asyncio.sleep(301)
    await world.end(revoke_old_key, REVOKE)  # no clean-up: its connections are still open
    again = PARAMS.model_copy(update={"rotation": "r2"})
    await world.end(make_next_key, again)
    await world.end(spread_key, again)
    assert world.secrets.held[SECRET][NEXT_PUBLIC].decode().split()[1] in await world.logins("web-1")


@pytest.mark.looptime
async def test_a_provider_that_cannot_be_asked_is_waited_for() -> None:
    world = await world_of("web-1")
    await world.end(make_next_key)
    world.cloud.faults.fail(Unavailable("no answer"), call="list_servers")
    ended = await world.end(spread_key)
    assert isinstance(ended, NotYet)
    assert "cannot be listed: no answer" in ended.message
