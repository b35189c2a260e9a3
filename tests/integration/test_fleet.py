"""Machines that people have: brought under management, rebooted, replaced and let go with kubectl alone."""

from __future__ import annotations

from tests.support.devsystem import Dev

from agentmetal.dev.demo_fleet import HOSTS, tell_fleet
from agentmetal.dev.report import Quiet
from agentmetal.dev.story import Chapter
from agentmetal.dev.watching import client


async def test_the_story_of_a_fleet_that_exists_comes_to_its_good_end(dev_system: Dev) -> None:
    """Each chapter raises unless the world is as it tells: what is on the hosts is read by their administrator."""
    told: list[Chapter] = []

    async with client(dev_system.kubeconfig("admin")) as api:
        await tell_fleet(dev_system.system, api, Quiet(), told)

    titles = [chapter.title for chapter in told]
    assert titles == ["inventory", "observed", "managed", "reboot", "replaced", "released", "audit"]
    left = await dev_system.kubectl("get", "instances", "-n", "default", "-o", "name")
    assert not [name for name in HOSTS if f"/{name}\n" in left]
