"""Rotation where hosts are listed in an inventory: free ones too must let the new key in, for claiming takes it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from tests.support.inventories import Inventory, stocked
from tests.support.system import NAMESPACE

from agentmetal.agents.provider.api import Provider
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import Operation, OperationPhase

pytestmark = pytest.mark.looptime


def held(lab: Inventory) -> dict[str, str]:
    body = lab.system.cluster.peek(SECRET, NAMESPACE, "lab-ssh") or {}
    return {name: base64.b64decode(value).decode().strip() for name, value in body["data"].items()}


def logins(lab: Inventory, name: str) -> list[str]:
    host = lab.hosts[name]
    return host.files[host.logins("root")].decode().splitlines()


async def rotate(lab: Inventory) -> None:
    await lab.system.annotate("lab", as_=lab.system.erin, kind=Provider, rotate="r1")


async def over(lab: Inventory) -> None:
    async with asyncio.timeout(7200):
        while held(lab).keys() != {"ssh-privatekey", "ssh-publickey", "rotation"}:  # noqa: ASYNC110 - virtual time; nobody tells
            await asyncio.sleep(5)


def rotation(lab: Inventory) -> Operation:
    found: Any = [op for op in lab.system.operations() if op.spec.cause.issue == "KeyRotation"]
    return Operation.model_validate(found[-1])


async def test_claimed_and_free_hosts_get_the_new_key() -> None:
    async with stocked("h1", "h2", "h3") as lab:
        await lab.wants()
        await lab.system.ready()
        await rotate(lab)
        await over(lab)
        assert all(logins(lab, name) == [held(lab)["ssh-publickey"]] for name in lab.hosts)
        await lab.wants("web-2")
        await lab.system.ready("web-2")


async def test_a_silent_free_host_delays_until_it_leaves_the_inventory() -> None:
    async with stocked("h1", "h2") as lab:
        old = held(lab)["ssh-publickey"]
        lab.hosts["h2"].cut = True
        await rotate(lab)
        await asyncio.sleep(1200)
        assert held(lab)["ssh-publickey"] == old
        del lab.entries["h2"]
        await lab.rewrite()
        await over(lab)
        assert logins(lab, "h1") == [held(lab)["ssh-publickey"]]


async def test_a_free_host_that_cannot_be_written_is_not_locked() -> None:
    async with stocked("h1", "h2") as lab:
        old = held(lab)["ssh-publickey"]
        lab.hosts["h2"].full = True
        await rotate(lab)
        await asyncio.sleep(1200)
        assert held(lab)["ssh-publickey"] == old
        lab.hosts["h2"].full = False
        await over(lab)
        assert logins(lab, "h2") == [held(lab)["ssh-publickey"]]


async def test_a_claimed_host_that_left_the_inventory_delays_and_is_named() -> None:
    async with stocked("h1") as lab:
        await lab.wants()
        await lab.system.ready()
        entry = lab.entries.pop("h1")
        await lab.rewrite()
        old = held(lab)["ssh-publickey"]
        await rotate(lab)
        await asyncio.sleep(3700)
        assert held(lab)["ssh-publickey"] == old
        lab_now = lab.system.see("lab", kind=Provider)
        assert "Instance web-1 (host 'h1' is not in the inventory" in lab_now.status.last_operation.message
        lab.entries["h1"] = entry
        await lab.rewrite()
        await over(lab)
        assert logins(lab, "h1") == [held(lab)["ssh-publickey"]]


async def test_hosts_that_are_closed_to_us_or_somebody_elses_are_not_touched_and_named() -> None:
    async with stocked("h1", "h2", "h3") as lab:
        old = held(lab)["ssh-publickey"]
        lab.claim("h2", "u-9", cluster="another-cluster")
        lab.hosts["h3"].files[lab.hosts["h3"].logins("root")] = b"ssh-ed25519 AAAAsomebody\n"
        before = {name: dict(lab.hosts[name].files) for name in ("h2", "h3")}
        await rotate(lab)
        await over(lab)
        assert {name: lab.hosts[name].files for name in ("h2", "h3")} == before
        assert logins(lab, "h2") == [old]
        assert rotation(lab).phase is OperationPhase.SUCCEEDED
        told = rotation(lab).status.steps[1].result or ""
        assert "host h2 (it is claimed by another-cluster/" in told
        assert "host h3 (" in told
