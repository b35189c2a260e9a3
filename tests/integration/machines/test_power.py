"""Reboot, resize, rescue and another host key on a real machine: every command and every file is really there."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.agents import instance, tools_of
from tests.support.life import Life

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.agents.provider.api import key_secret_name
from agentmetal.clients.keys import make_key_pair
from agentmetal.core.clock import rfc3339
from agentmetal.core.machine import Server
from agentmetal.core.resource import Annotation
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal_tools.hosts import pinned

pytestmark = [pytest.mark.needs_machines, pytest.mark.timeout(300)]

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"


class Machine:
    """One Instance on a real machine."""

    def __init__(self, provider: NspawnProvider) -> None:
        self.life, self.uid = Life(provider), str(uuid.uuid4())

    async def becomes(self, annotations: Mapping[str, str] | None = None, **spec: Any) -> tuple[Instance, list[str]]:
        """Do what is needed until nothing is; the tools that it took."""
        made = instance(uid=self.uid, **spec)
        resource = made.model_copy(
            update={"metadata": made.metadata.model_copy(update={"annotations": dict(annotations or {})})}
        )
        agent, used = self.life.agent, list[str]()
        while plan := self._wanted(resource, await agent.observe(resource)):
            await self.life.carry_out(plan, resource)
            used += tools_of(plan)
        return resource, used

    async def seen(self, resource: Instance) -> InstanceObservation:
        return await self.life.agent.observe(resource)

    def _wanted(self, resource: Instance, observed: InstanceObservation) -> Any:
        agent = self.life.agent
        plans = (agent.heal(resource, observed, issue) for issue in agent.issues(resource, observed))
        return next(filter(None, plans), None) or agent.reconcile(resource, observed)

    async def end(self) -> None:
        """Delete it."""
        going = instance(uid=self.uid, deleting=True)
        await self.life.carry_out(self.life.agent.teardown(going, await self.seen(going)), going)
        await self.life.machines.close()


def running(observed: InstanceObservation) -> Server:
    assert observed.reach is Reach.ANSWERING, observed
    assert observed.server is not None
    return observed.server


async def test_a_real_machine_reboots_resizes_is_rescued_and_trusted_anew(nspawn: NspawnProvider) -> None:
    machine = Machine(nspawn)
    try:
        await rebooted(machine)
        await resized(machine)
        await rescued(machine)
        await repinned(machine)
    finally:
        await machine.end()


async def rebooted(machine: Machine) -> None:
    """Once: the same annotation does nothing to the next boot."""
    resource, _ = await machine.becomes()
    before = await machine.seen(resource)
    asked = {Annotation.REBOOT_AT: rfc3339(datetime.now(UTC))}
    resource, tools = await machine.becomes(asked)
    assert tools[0] == "reboot_host"
    assert tools.count("reboot_host") == 1
    after = await machine.seen(resource)
    assert before.look and after.look
    assert before.look.boot.id != after.look.boot.id
    assert after.look.boot.up_seconds < 120
    assert before.look.machine_id == after.look.machine_id


async def resized(machine: Machine) -> None:
    resource, tools = await machine.becomes(type="medium")
    assert tools[:3] == ["stop_instance", "resize_instance", "start_instance"]
    assert running(await machine.seen(resource)).type == "medium"


async def rescued(machine: Machine) -> None:
    resource, tools = await machine.becomes(type="medium", powerState="Rescue")
    assert tools == ["rescue_instance", "wait_for_ready"]
    assert running(await machine.seen(resource)).rescue
    resource, tools = await machine.becomes(type="medium")
    assert tools[:2] == ["stop_instance", "start_instance"]
    assert not running(await machine.seen(resource)).rescue
    assert (await machine.seen(resource)).unprepared == ()


async def repinned(machine: Machine) -> None:
    resource, _ = await machine.becomes(type="medium")
    seen, pair = await machine.seen(resource), make_key_pair("somebody new")
    await shows(machine, resource, seen, pair.private_openssh)
    doubted = await machine.seen(resource)
    assert (doubted.reach, doubted.shown) == (Reach.WRONG_HOST_KEY, pair.fingerprint)
    resource, tools = await machine.becomes({Annotation.REPIN: pair.fingerprint}, type="medium")
    assert tools == ["repin_host"]
    assert (await machine.seen(resource)).fingerprint == pair.fingerprint


async def shows(machine: Machine, resource: Instance, seen: InstanceObservation, private: str) -> None:
    """Somebody gives the host another key."""
    machines, secret = machine.life.machines, key_secret_name("cloud")
    host = await machines.connect(pinned(running(seen), resource.key, seen.host_key, secret))
    await host.write_file(HOST_KEY, private.encode(), mode=0o600)
    assert (await host.run(["systemctl", "restart", "ssh"])).exit_code == 0
    await machines.forget(resource.key)
