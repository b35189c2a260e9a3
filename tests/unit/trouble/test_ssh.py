"""Hosts that refuse us, or are not who they should be. Nothing is repaired on a host that nobody vouches for."""

from __future__ import annotations

import pytest
from tests.support.system import System, running
from tests.support.trouble import condition, look_again, only_server, phases, quiet, running_step, says

from agentmetal.clients.keys import fingerprint, make_key_pair
from agentmetal.core.errors import Unavailable
from agentmetal.providers.fake_hosts import FakeHost

pytestmark = pytest.mark.looptime


async def _ready_host(system: System) -> FakeHost:
    await system.instance()
    await system.ready()
    return system.hosts.host((await only_server(system)).id)


async def test_refused_connections_during_a_boot_are_waited_out() -> None:
    async with running() as system:
        system.hosts.faults.fail(Unavailable("connection refused"), times=20, call="connect")
        await system.instance()
        await system.ready()
        assert phases(system) == ["Succeeded"]


async def test_a_host_that_refuses_our_key_says_so_and_is_left_alone() -> None:
    async with running() as system:
        host = await _ready_host(system)
        keys = host.files["/root/.ssh/authorized_keys"]
        host.files["/root/.ssh/authorized_keys"] = b""
        await system.hosts.forget(system.see().key)
        await look_again(system)
        said = await says(system, "the host refuses the Provider's key")
        assert (said.status, said.reason) == ("False", "AuthenticationFailed")
        await quiet(600)
        assert phases(system) == ["Succeeded"]
        host.files["/root/.ssh/authorized_keys"] = keys
        await system.ready(timeout=70)


async def test_another_host_key_is_a_mismatch_that_tells_what_to_do_and_nothing_is_repaired() -> None:
    async with running() as system:
        host = await _ready_host(system)
        pinned, other = host.host_key, make_key_pair("somebody").public_line
        host.host_key = other
        await system.hosts.forget(system.see().key)
        await look_again(system)
        said = await says(system, "find out", type="HostKeyMismatch")
        assert said.status == "True"
        assert "put that back on the host" in said.message
        assert f"annotate agentmetal.io/repin={fingerprint(other)}" in said.message
        assert system.see().status.host_key_fingerprint in said.message
        assert condition(system.see()).reason == "HostKeyMismatch"
        await quiet(600)
        assert phases(system) == ["Succeeded"]
        host.host_key = pinned
        ready = await system.ready(timeout=70)
        assert "HostKeyMismatch" not in [c.type for c in ready.status.conditions if c.status == "True"]


async def test_a_wrong_host_key_at_the_first_boot_ends_the_plan_and_asks_for_a_human() -> None:
    async with running() as system:
        await system.instance()
        await running_step(system, "provision_instance")
        host = system.hosts.host((await only_server(system)).id)
        pinned, host.host_key = host.host_key, make_key_pair("somebody").public_line
        await says(system, "find out", type="HostKeyMismatch", status="True")
        (failed,) = system.plans()
        assert failed.phase == "Failed"
        assert "whoever knows why the key changed must act" in failed.status.message
        await quiet(600)
        assert phases(system) == ["Failed"]
        host.host_key = pinned
        await system.ready()


async def test_a_powered_off_host_with_another_key_is_started_and_then_left_alone() -> None:
    async with running() as system:
        host = await _ready_host(system)
        host.host_key = make_key_pair("somebody").public_line
        system.cloud.lose_power(host.server.id)
        await says(system, "find out", type="HostKeyMismatch", status="True")
        assert phases(system) == ["Succeeded", "Failed"]
        await quiet(600)
        assert phases(system) == ["Succeeded", "Failed"]


async def test_a_deletion_with_a_mismatch_still_deletes_the_server() -> None:
    async with running() as system:
        host = await _ready_host(system)
        host.host_key = make_key_pair("somebody").public_line
        await system.hosts.forget(system.see().key)
        await look_again(system)
        await says(system, "find out", type="HostKeyMismatch")
        await system.delete("web-1")
        await system.annotate("web-1", approve=await system.awaiting())
        await system.gone()
        assert await system.cloud.list_servers() == ()
