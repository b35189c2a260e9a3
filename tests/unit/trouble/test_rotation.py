"""A Provider's key is rotated under a running operator: Instances stay as they are, nobody is locked out."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from tests.support.system import NAMESPACE, System, running

from agentmetal.agents.provider.api import Provider
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import Operation, OperationPhase
from agentmetal.core.resource import Label

pytestmark = pytest.mark.looptime
AUTHORIZED = "/root/.ssh/authorized_keys"


def key(system: System, name: str = "ssh-publickey") -> str:
    """A value of the Secret with the client key."""
    body = system.cluster.peek(SECRET, NAMESPACE, "cloud-ssh") or {}
    return base64.b64decode(body["data"].get(name, "")).decode().strip()


def logins(system: System, name: str) -> list[str]:
    """The keys that the host of an Instance accepts."""
    host = system.hosts.host(system.see(name).status.provider_id)
    return host.files[AUTHORIZED].decode().split("\n")[:-1]


def cloud(system: System) -> Any:
    return system.see("cloud", kind=Provider)


def condition(resource: Any, type: str) -> Any:
    return next(c for c in resource.status.conditions if c.type == type)


def rotations(system: System) -> list[Operation]:
    return [op for op in system.operations() if op.spec.cause.issue == "KeyRotation"]


async def rotate(system: System, value: str = "r1") -> None:
    await system.annotate("cloud", as_=system.erin, kind=Provider, rotate=value)


async def over(system: System, value: str = "r1") -> None:
    while key(system, "rotation") != value or key(system, "previous-publickey"):  # noqa: ASYNC110 - virtual time; nobody tells
        await asyncio.sleep(5)
    await system.until(lambda: condition(cloud(system), "Ready").reason == "AsSpecified")


async def readiness_lost(system: System, *names: str) -> list[str]:
    """Watch until cancelled; who was not Ready once."""
    lost: list[str] = []
    try:
        while True:
            seen = [("cloud", cloud(system)), *((name, system.see(name)) for name in names)]
            lost += [name for name, resource in seen if condition(resource, "Ready").status != "True"]
            await asyncio.sleep(1)
    except asyncio.CancelledError:
        return lost


async def test_all_hosts_change_their_key_and_nobody_notices() -> None:
    async with running() as system:
        names = ("web-1", "web-2", "web-3")
        for name in names:
            await system.instance(name)
        for name in names:
            await system.ready(name)
        old = key(system)
        watching = asyncio.create_task(readiness_lost(system, *names))
        await rotate(system)
        await over(system)
        watching.cancel()
        assert await watching == []
        assert key(system) != old
        assert all(logins(system, name) == [key(system)] for name in names)
        assert cloud(system).status.public_key == key(system)
        assert not system.plans(OperationPhase.SUPERSEDED), "no Instance was touched"
        await system.instance("web-4")
        await system.ready("web-4")
        assert logins(system, "web-4") == [key(system)]
        (rotation,) = rotations(system)
        assert rotation.phase is OperationPhase.SUCCEEDED
        assert [step.risk.value for step in rotation.spec.steps] == ["Moderate"] * 4


async def test_the_same_value_rotates_once_and_another_one_again() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        await rotate(system)
        await over(system)
        first = key(system)
        await system.annotate("cloud", as_=system.erin, kind=Provider, reconcile_at="now")
        await asyncio.sleep(900)
        assert key(system) == first
        await rotate(system, "r2")
        await over(system, "r2")
        assert key(system) != first
        assert len(rotations(system)) == 2


async def test_a_server_ordered_in_the_overlap_accepts_both_keys() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        old = key(system)
        system.hosts.host(system.see().status.provider_id).cut = True
        await rotate(system)
        await system.until(lambda: key(system, "next-publickey"))
        await system.instance("web-2")
        await system.ready("web-2")
        assert logins(system, "web-2") == [old, key(system, "next-publickey")]
        system.hosts.host(system.see().status.provider_id).cut = False
        await over(system)
        assert logins(system, "web-2") == [key(system)]


async def test_a_silent_host_delays_the_rotation_and_is_named() -> None:
    async with running() as system:
        for name in ("web-1", "web-2"):
            await system.instance(name, powerState="On")
        for name in ("web-1", "web-2"):
            await system.ready(name)
        await system.edit("web-2", management={"mode": "Observe"})  # nobody resets it
        old, host = key(system), system.hosts.host(system.see("web-2").status.provider_id)
        host.cut = True
        await rotate(system)
        await system.until(lambda: condition(cloud(system), "Reconciling").status == "True")
        await asyncio.sleep(1800)
        assert key(system) == old
        assert "waiting for Instance web-2" in condition(cloud(system), "Reconciling").message
        assert logins(system, "web-1")[0] == old
        assert condition(cloud(system), "Ready").status == "True"
        await asyncio.sleep(1900)
        failed = cloud(system).status.last_operation.message
        assert "Instance web-2" in failed
        assert "1 of 2 hosts" in failed
        assert rotations(system)[-1].phase is OperationPhase.RUNNING, "it is tried again"
        assert condition(cloud(system), "Ready").status == "True", "it answers all the same"
        assert len(logins(system, "web-1")) == 2, "the overlap remains"
        host.cut = False
        await over(system)
        assert logins(system, "web-2") == logins(system, "web-1") == [key(system)]


async def test_a_key_that_the_user_made_is_left_alone() -> None:
    system = System()
    try:
        await system.start()
        data = {name: base64.b64encode(b"theirs").decode() for name in ("ssh-privatekey", "ssh-publickey")}
        metadata = {"name": "cloud-ssh", "namespace": NAMESPACE, "labels": {Label.USABLE: "true"}}
        await system.admin.create(SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
        await system.provider()
        await system.ready("cloud", kind=Provider)
        await rotate(system)
        await system.until(lambda: any(c.type == "Degraded" for c in cloud(system).status.conditions))
        assert "rotate the key in it yourself" in condition(cloud(system), "Degraded").message
        assert condition(cloud(system), "Ready").status == "True"
        assert rotations(system) == []
        assert key(system) == "theirs"
    finally:
        await system.close()


async def test_a_paused_provider_is_ready_and_rotates_later() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        old = key(system)
        await system.annotate("cloud", as_=system.erin, kind=Provider, paused="true", rotate="r1")
        await system.until(lambda: condition(cloud(system), "Paused").status == "True")
        await asyncio.sleep(600)
        assert key(system) == old
        assert condition(cloud(system), "Ready").status == "True"
        await system.annotate("cloud", as_=system.erin, kind=Provider, paused=None)
        await over(system)


async def spreading(system: System) -> str:
    """A rotation that waits for the silent host of web-1; the key before it."""
    for name in ("web-1", "web-2"):
        await system.instance(name)
    for name in ("web-1", "web-2"):
        await system.ready(name)
    await system.edit("web-1", management={"mode": "Observe"})  # nobody resets it
    old = key(system)
    system.hosts.host(system.see().status.provider_id).cut = True
    await rotate(system)
    await system.until(lambda: len(logins(system, "web-2")) == 2)
    return old


async def test_a_value_that_changes_in_the_middle_is_followed_once() -> None:
    async with running() as system:
        await spreading(system)
        await rotate(system, "r2")
        await asyncio.sleep(120)
        system.hosts.host(system.see().status.provider_id).cut = False
        await over(system, "r2")
        done = key(system)
        await asyncio.sleep(3600)
        assert key(system) == done, "and no other one follows"
        assert logins(system, "web-1") == logins(system, "web-2") == [done]


@pytest.mark.parametrize("value", [None, " "])
async def test_a_rotation_that_is_not_asked_for_any_more_is_ended_all_the_same(value: str | None) -> None:
    async with running() as system:
        old = await spreading(system)
        await system.annotate("cloud", as_=system.erin, kind=Provider, rotate=value)
        await asyncio.sleep(120)
        system.hosts.host(system.see().status.provider_id).cut = False
        await system.until(lambda: key(system) != old, timeout=3600)
        await system.until(lambda: not key(system, "previous-publickey"), timeout=3600)
        assert logins(system, "web-1") == logins(system, "web-2") == [key(system)]
        await system.until(lambda: condition(cloud(system), "Ready").reason == "AsSpecified")


async def test_an_instance_that_goes_in_the_middle_is_not_waited_for() -> None:
    async with running() as system:
        old = await spreading(system)
        await system.delete("web-1")
        await system.edit("web-1", management={"mode": "Manage"})
        await system.annotate("web-1", as_=system.ann, approve=await system.awaiting("web-1"))
        await system.gone("web-1")
        await over(system)
        assert logins(system, "web-2") == [key(system)] != [old]


async def test_a_provider_that_goes_in_the_middle_takes_both_keys_along() -> None:
    async with running() as system:
        await spreading(system)
        await system.delete("cloud", kind=Provider)
        for name in ("web-1", "web-2"):
            await system.edit(name, management={"deletionPolicy": "Retain"})
            await system.delete(name)
            await system.gone(name)
        await system.gone("cloud", kind=Provider)
        assert system.cluster.peek(SECRET, NAMESPACE, "cloud-ssh") is None
