"""The health server over a real socket on the loopback interface."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from agentmetal.core.errors import Unavailable
from agentmetal.engine.metrics import Metrics
from agentmetal.kube.health import HealthServer


class World:
    """What the two functions answer."""

    def __init__(self) -> None:
        self.healthy = (True, "ok")
        self.ready = (False, "the cache is not primed yet")
        self.leading = (False, "standing by: 'a' leads")
        self.metrics = Metrics()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def server(world: World) -> AsyncIterator[HealthServer]:
    async with HealthServer(
        world.metrics, lambda: world.healthy, lambda: world.ready, lambda: world.leading, "127.0.0.1", 0
    ) as running:
        yield running


async def get(server: HealthServer, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{server.port}{path}") as answer:
        return answer.status, await answer.text(), answer.headers["Content-Type"]


async def test_metrics_are_shown_in_the_format_of_prometheus(server: HealthServer, world: World) -> None:
    world.metrics.queue_added()
    status, text, content_type = await get(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert 'workqueue_adds_total{name="agentmetal"} 1.0' in text


async def test_health_and_readiness_answer_for_themselves(server: HealthServer, world: World) -> None:
    assert (await get(server, "/healthz"))[:2] == (200, "ok\n")
    assert (await get(server, "/readyz"))[:2] == (503, "the cache is not primed yet\n")
    assert (await get(server, "/leading"))[:2] == (503, "standing by: 'a' leads\n")
    world.healthy, world.ready = (False, "the watch of Instance is silent for 100 s"), (True, "ok")
    assert (await get(server, "/healthz"))[:2] == (503, "the watch of Instance is silent for 100 s\n")
    assert (await get(server, "/readyz"))[:2] == (200, "ok\n")


async def test_there_is_nothing_else(server: HealthServer) -> None:
    assert (await get(server, "/"))[0] == 404


async def test_a_taken_port_is_said(server: HealthServer, world: World) -> None:
    second = HealthServer(
        world.metrics, lambda: world.healthy, lambda: world.ready, lambda: world.leading, "127.0.0.1", server.port
    )
    with pytest.raises(Unavailable, match="end what listens there, or set another metrics port"):
        await second.start()


async def test_a_stopped_server_gives_its_port_back(world: World) -> None:
    first = HealthServer(
        world.metrics, lambda: world.healthy, lambda: world.ready, lambda: world.leading, "127.0.0.1", 0
    )
    await first.start()
    await first.stop()
    async with HealthServer(
        world.metrics, lambda: world.healthy, lambda: world.ready, lambda: world.leading, "127.0.0.1", first.port
    ):
        pass
