"""The cache's second net: what its own LIST shows that the watch never told, and what is no difference at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.agents import provider
from tests.support.operations import instance

from agentmetal.agents import AGENTS
from agentmetal.agents.instance.api import Instance
from agentmetal.core.errors import StaleLeader
from agentmetal.core.ports import ObjectList, Ports
from agentmetal.core.resource import Key, ResourceType
from agentmetal.kube.cache import AT_A_TIME, ON_ITS_WAY, Cache


def body(**spec: Any) -> dict[str, Any]:
    wire = instance(resourceVersion="7").model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**wire, "spec": {**wire["spec"], **spec}}


class Shelf:
    """An API that holds one Instance, whatever a newer CRD lets in."""

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held
        self.version = "9"

    async def list(self, type: ResourceType, *_: Any, **__: Any) -> ObjectList:
        items = (self.held,) if type == Instance.info.type else ()
        return ObjectList(items=items, resource_version=self.version)

    async def get(self, *_: Any) -> dict[str, Any]:
        return self.held


def _cache(held: dict[str, Any], shelf: type[Shelf] = Shelf) -> tuple[Cache, list[Key]]:
    woken: list[Key] = []
    api: Any = shelf(held)
    cache = Cache(api, lambda key, priority: woken.append(key))
    ports: Any = Ports
    cache.serve(agent(ports) for agent in AGENTS)
    return cache, woken


async def test_an_object_that_the_watch_never_told_of_is_found() -> None:
    cache, woken = _cache(body())
    assert await cache.compare() == 1
    assert woken == [instance().key]
    assert await cache.compare() == 0


async def test_an_object_that_is_not_valid_for_this_version_is_no_fault_of_the_watch() -> None:
    cache, woken = _cache(body(ofANewerVersion=True))
    assert await cache.compare() == 0
    assert woken == []


async def test_an_object_that_is_not_valid_for_this_version_any_more_is_not_gone() -> None:
    cache, _ = _cache({**body(ofANewerVersion=True), "metadata": {**body()["metadata"], "resourceVersion": "8"}})
    cache.put(body())
    assert await cache.compare() == 0
    assert cache.get(instance().key)
    cache.put({**body(), "metadata": {**body()["metadata"], "resourceVersion": "9"}})
    known = cache.get(instance().key)
    assert known and known.metadata.resource_version == "9", "valid again, it is seen again"


async def test_a_history_that_goes_back_between_two_comparisons_is_noticed() -> None:
    cache, _ = _cache(body())
    shelf: Any = cache._api
    await cache.prime()
    shelf.version = "8"  # newer than every object, older than what was listed
    with pytest.raises(StaleLeader, match="restored"):
        await cache.compare()


async def test_another_object_of_the_same_name_is_news_although_nothing_else_differs() -> None:
    cache, woken = _cache(body())
    cache.put(body())
    woken.clear()
    anew = body()
    anew["metadata"] |= {"uid": "u-2", "resourceVersion": "8"}
    cache.put(anew)
    assert woken == [instance().key]


async def test_whoever_refers_to_an_object_hears_of_its_new_spec() -> None:
    """A host that leaves an inventory changes no readiness, and its Instance must say so at once all the same."""
    cache, woken = _cache(body())
    inventory = provider()
    wire = inventory.model_dump(mode="json", by_alias=True, exclude_none=True)
    wire["metadata"] |= {"namespace": instance().key.namespace, "name": instance().spec.provider_ref.name}
    cache.put({**wire, "metadata": {**wire["metadata"], "resourceVersion": "8"}})
    cache.put(body())
    woken.clear()

    cache.put({**wire, "metadata": {**wire["metadata"], "resourceVersion": "9", "generation": 2}})

    assert instance().key in woken


async def test_whoever_stands_by_knows_everything_and_wakes_nobody() -> None:
    cache, woken = _cache(body())
    cache.asleep = True
    cache.put(body())
    cache.drop(body())
    cache.put({**body(), "metadata": {**body()["metadata"], "uid": "another", "resourceVersion": "9"}})
    assert [cache.get(key) is not None for key in cache.all_keys()] == [True]
    assert woken == []
    cache.asleep = False
    cache.drop({**body(), "metadata": {**body()["metadata"], "uid": "another", "resourceVersion": "10"}})
    assert instance().key in woken


async def test_who_takes_over_does_not_wait_for_what_is_on_its_way() -> None:
    cache, _ = _cache(body())
    began = asyncio.get_running_loop().time()
    assert await cache.compare(patient=False) == 1
    assert asyncio.get_running_loop().time() - began < ON_ITS_WAY / 2
    assert cache.get(instance().key)


class FullShelf(Shelf):
    """It holds many."""

    async def list(self, type: ResourceType, *_: Any, **__: Any) -> ObjectList:
        named = [{**self.held["metadata"], "name": f"web-{n}", "uid": f"u-{n}"} for n in range(4 * AT_A_TIME)]
        items = tuple({**self.held, "metadata": metadata} for metadata in named) if type == Instance.info.type else ()
        return ObjectList(items=items, resource_version="9")


async def test_while_many_are_taken_up_the_lease_can_be_renewed() -> None:
    cache, _ = _cache(body(), FullShelf)
    turns = 0

    async def renew() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    renewing = asyncio.create_task(renew())
    await cache.prime()
    renewing.cancel()
    assert len(cache.all_keys()) == 4 * AT_A_TIME
    assert turns > 3
