"""What a cache believes: nothing older than it has, no policy by hearsay, and no future once the past has come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.operations import instance

from agentmetal.agents import AGENTS
from agentmetal.agents.instance.api import Instance
from agentmetal.core.errors import StaleLeader
from agentmetal.core.operation import ApprovalPolicy
from agentmetal.core.ports import ObjectList, Ports
from agentmetal.core.resource import ResourceType
from agentmetal.kube.cache import Cache, Rewound

SPACE = instance().metadata.namespace


def policy(version: int, *, uid: str = "p-1", require: bool = True) -> dict[str, Any]:
    metadata = {"name": "p", "namespace": SPACE, "uid": uid, "resourceVersion": str(version)}
    return {
        "apiVersion": ApprovalPolicy.info.type.api_version,
        "kind": "ApprovalPolicy",
        "metadata": metadata,
        "spec": {"resources": ["instances"], "maxRisk": "Dangerous", "require": require},
    }


def body(version: int) -> dict[str, Any]:
    return instance(resourceVersion=str(version)).model_dump(mode="json", by_alias=True, exclude_none=True)


class Server:
    """An API server whose answers take a moment."""

    def __init__(self) -> None:
        self.version = 9
        self.policies: list[dict[str, Any]] = []
        self.objects: list[dict[str, Any]] = []
        self.lists = 0

    async def list(self, type: ResourceType, *_: Any, **__: Any) -> ObjectList:
        self.lists += 1
        own = self.objects if type == Instance.info.type else []
        items = tuple(self.policies) if type == ApprovalPolicy.info.type else tuple(own)
        version = str(self.version)
        await asyncio.sleep(0.01)
        return ObjectList(items=items, resource_version=version)

    async def get(self, *_: Any) -> dict[str, Any]:
        return body(self.version)


def _cache(server: Any) -> tuple[Cache, list[StaleLeader]]:
    lost: list[StaleLeader] = []
    cache = Cache(server, lambda key, priority: None, lost.append)
    ports: Any = Ports
    cache.serve(agent(ports) for agent in AGENTS)
    return cache, lost


def requires(cache: Cache) -> list[bool]:
    return [found.spec.require for found in cache.policies(SPACE)]


def test_an_old_event_does_not_bring_an_old_policy_back() -> None:
    cache, _ = _cache(Server())
    cache.put_policy(policy(5))
    cache.put_policy(policy(3, require=False))
    assert requires(cache) == [True]


def test_the_end_of_an_earlier_policy_of_that_name_does_not_end_this_one() -> None:
    cache, _ = _cache(Server())
    cache.put_policy(policy(7, uid="p-2"))
    cache.put_policy(policy(5), gone=True)
    assert requires(cache) == [True]


def test_a_late_event_does_not_bring_a_deleted_policy_back() -> None:
    cache, _ = _cache(Server())
    cache.put_policy(policy(5), gone=True)
    cache.put_policy(policy(4))
    assert requires(cache) == []


async def test_a_policy_that_the_watch_never_told_of_is_found_and_a_younger_one_stays() -> None:
    server = Server()
    cache, _ = _cache(server)
    server.policies = [policy(5)]
    assert await cache.compare() == 1
    assert requires(cache) == [True]
    server.policies = []
    cache.put_policy(policy(12))
    assert await cache.compare() == 0
    server.version = 13
    assert await cache.compare() == 1
    assert requires(cache) == []


@pytest.mark.looptime
async def test_many_who_ask_for_policies_share_a_list_that_began_after_they_asked() -> None:
    server = Server()
    cache, _ = _cache(server)
    first = asyncio.create_task(cache.read_policies(SPACE))
    await asyncio.sleep(0.005)
    server.policies = [policy(5)]
    later = [asyncio.create_task(cache.read_policies(SPACE)) for _ in range(50)]
    assert await first == ()
    assert all([[p.metadata.name for p in await one] == ["p"] for one in later])
    assert server.lists == 2


@pytest.mark.looptime
async def test_a_list_of_policies_serves_all_plans_of_a_quarter_of_a_second() -> None:
    server = Server()
    cache, _ = _cache(server)
    asked = []
    for _ in range(100):
        asked.append(asyncio.create_task(cache.read_policies(SPACE)))
        await asyncio.sleep(0.01)
    server.policies = [policy(5)]
    assert await cache.read_policies(SPACE), "what was made before it was asked is seen"
    await asyncio.gather(*asked)
    assert 4 <= server.lists <= 6
    before = asyncio.get_running_loop().time()
    await asyncio.sleep(1.0)
    await cache.read_policies(SPACE)
    assert asyncio.get_running_loop().time() - before < 1.1, "who asks alone waits for nobody"


async def test_a_policy_of_a_newer_version_asks_a_human_about_everything_and_ends_nothing() -> None:
    server = Server()
    unreadable = policy(5, require=False)
    unreadable["spec"] |= {"names": ["web-1"], "untilNoon": True}
    server.policies = [unreadable]
    cache, _ = _cache(server)
    await cache.prime()
    (known,) = await cache.read_policies(SPACE)
    assert known.spec.require
    assert set(known.spec.resources) == {agent.kind.info.plural for agent in AGENTS}
    assert not known.spec.names
    server.policies = [policy(6, require=False)]
    assert [one.spec.require for one in await cache.read_policies(SPACE)] == [False]


@pytest.mark.looptime
async def test_what_the_watch_says_right_after_the_list_was_not_missed() -> None:
    server = Server()
    cache, _ = _cache(server)
    cache.put(body(8))
    server.objects = [body(9)]
    comparing = asyncio.create_task(cache.compare())
    await asyncio.sleep(0.5)
    cache.put(body(9))
    assert await comparing == 0
    server.version, server.objects = 12, [body(12)]
    assert await cache.compare() == 1, "and what it never says was missed"


async def test_a_version_that_goes_back_means_that_the_past_was_restored() -> None:
    server = Server()
    cache, lost = _cache(server)
    cache.put(body(9))
    assert await cache.read(instance().key) is not None
    server.version = 4
    with pytest.raises(Rewound, match="etcd was restored"):
        await cache.read(instance().key)
    assert len(lost) == 1
    with pytest.raises(Rewound):
        await cache.compare()
