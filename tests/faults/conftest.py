"""One real development system for all faults. A test that leaves something broken does not break the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests.support.devsystem import Dev, new_name, running
from tests.support.faults import NAMESPACE, SOON, Story, metrics
from tests.support.trail import forget_heads
from tests.support.trail import postgres_url as postgres_url  # a fixture: found by its name

from agentmetal.agents.provider.api import Provider
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.dev.machines import PROVIDER
from agentmetal.dev.watching import client

StoryMaker = Callable[[], Story]


@pytest.fixture(scope="session")
def dev_system() -> Iterator[Dev]:
    """Without machines: each story orders its own."""
    with running(machines=0) as dev:
        yield dev


@pytest.fixture
async def api(dev_system: Dev) -> AsyncIterator[KubernetesClient]:
    """The API as administrator; it waits through outages that tests make."""
    async with client(dev_system.kubeconfig("admin")) as found:
        yield found


@pytest.fixture
async def new_story(dev_system: Dev, api: KubernetesClient) -> AsyncIterator[StoryMaker]:
    """Makes Instances to be told about. Afterwards the system is whole again, and nobody refused the operator."""
    made: list[Story] = []

    def make() -> Story:
        made.append(Story(dev_system, api, new_name()))
        return made[-1]

    yield make
    await dev_system.system.plane.up()
    if dev_system.system.operator.pid() is None:
        await forget_heads(api)
    await dev_system.start_operator()
    await asyncio.gather(*(story.leave() for story in made))
    await forget_racks(dev_system, api)
    answers = await metrics(dev_system.system.operator.metrics_port)
    refused = {
        labels for (name, labels) in answers if name.startswith("rest_client_requests") and 'code="403"' in labels
    }
    assert not refused, f"the operator's account lacks rights: {refused}"


async def forget_racks(dev: Dev, api: KubernetesClient) -> None:
    """Inventories of hosts that are gone: what is looked at of them, and told, would be a surprise in another test."""
    names = [provider["metadata"]["name"] for provider in (await api.list(Provider.info.type, NAMESPACE)).items]
    if racks := [name for name in names if name != PROVIDER]:
        await dev.ask_kubectl("delete", "provider", *racks, f"--timeout={SOON:g}s")


@pytest.fixture
def story(new_story: StoryMaker) -> Story:
    """One of them."""
    return new_story()


@pytest.fixture
async def store_url(dev_system: Dev, api: KubernetesClient, postgres_url: str) -> str:
    """A store for operators that follow each other, or stand by for each other; the system's own one is ended."""
    await dev_system.system.operator.stop()
    await forget_heads(api)
    return postgres_url
