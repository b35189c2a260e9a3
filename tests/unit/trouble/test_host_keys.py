"""Another machine at the same address: nothing is trusted until a human named the shown key, and approved it.

The second half is about hosts of an inventory, also about what it means that nobody can switch their power.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.system import NAMESPACE, System, running
from tests.support.trouble import condition, look_again, only_server, phases, quiet, running_step, says, tools

from agentmetal.agents.provider.api import Provider
from agentmetal.clients.keys import KeyPair, make_key_pair
from agentmetal.core.claim import CLAIM_PATH, claimant
from agentmetal.core.errors import NotFound
from agentmetal.core.operation import OperationPhase
from agentmetal.kube.secrets import KubeSecrets
from agentmetal.providers.fake_host import FakeHost
from agentmetal_tools.hosts import CLIENT_PUBLIC, HOST_PRIVATE, HOST_PUBLIC

pytestmark = pytest.mark.looptime

ADDRESS = "192.0.2.7"


async def exchanged(system: System) -> tuple[FakeHost, KeyPair]:
    """A Ready Instance whose machine was replaced by a blank one: another key, another machine-id, nothing of ours."""
    await system.instance()
    await system.ready()
    host, pair = system.hosts.host((await only_server(system)).id), make_key_pair("replaced")
    host.host_key, host.installed, host.epoch = pair.public_line, False, 0
    host.units.clear()
    del host.files[CLAIM_PATH]
    host.files["/etc/machine-id"] = b"0123456789abcdef0123456789abcdef\n"
    await system.hosts.forget(system.see().key)
    await look_again(system)
    await says(system, pair.fingerprint, type="HostKeyMismatch", status="True")
    return host, pair


async def test_a_replaced_machine_is_trusted_after_its_key_was_named_and_approved() -> None:
    async with running() as system:
        host, pair = await exchanged(system)
        before = system.see().status
        await system.annotate("web-1", as_=system.erin, repin=pair.fingerprint)
        digest = await system.awaiting()
        shown = system.see().status.plan
        assert (shown.risk, [step.tool for step in shown.steps]) == ("Dangerous", ["repin_host"])
        assert before.host_key_fingerprint in shown.steps[0].description
        assert pair.fingerprint in shown.steps[0].description
        assert f"machine-id {before.machine_id}" in shown.evidence[0]
        assert CLAIM_PATH not in host.files, "nothing is done before the approval"
        await system.annotate("web-1", approve=digest)
        after = (await system.ready()).status
        assert after.host_key_fingerprint == pair.fingerprint
        assert after.machine_id == "0123456789abcdef0123456789abcdef"
        assert CLAIM_PATH in host.files
        assert "HostKeyMismatch" not in [c.type for c in system.see().status.conditions]
        await quiet(120)
        assert phases(system)[1:] == ["Succeeded", "Succeeded"], "the annotation that stays is inert"


async def test_a_key_that_is_not_shown_is_not_planned_for() -> None:
    async with running() as system:
        host, pair = await exchanged(system)
        other = make_key_pair("other").fingerprint
        await system.annotate("web-1", as_=system.erin, repin=other)
        said = await says(system, f"it asks for '{other}' now", type="HostKeyMismatch")
        assert f"repin={pair.fingerprint}" in said.message
        await quiet(120)
        assert phases(system) == ["Succeeded"]
        assert CLAIM_PATH not in host.files


async def test_a_key_that_changes_again_after_the_approval_is_not_trusted() -> None:
    async with running() as system:
        host, pair = await exchanged(system)
        await system.annotate("web-1", as_=system.erin, repin=pair.fingerprint)
        digest = await system.awaiting()
        host.host_key = make_key_pair("third").public_line
        await system.annotate("web-1", approve=digest)
        await says(system, "it asks for", type="HostKeyMismatch")
        held = await KubeSecrets(system.operator_api).read(NAMESPACE, "web-1-host-key")
        assert HOST_PRIVATE in held, "the pin is the one we made"
        assert OperationPhase.SUCCEEDED not in {op.phase for op in system.plans()[1:]}


async def test_an_operator_that_crashes_while_it_changes_the_pin_changes_it_once() -> None:
    async with running() as system:
        _, pair = await exchanged(system)
        await system.annotate("web-1", as_=system.erin, repin=pair.fingerprint)
        digest = await system.awaiting()
        system.hosts.faults.latency = 0.5
        await system.annotate("web-1", approve=digest)
        await running_step(system, "repin_host")
        await system.processes[-1].crash()
        system.hosts.faults.latency = 0.0
        await system.start()
        assert (await system.ready()).status.host_key_fingerprint == pair.fingerprint
        assert [tools(op)[0] for op in system.plans()] == ["provision_instance", "repin_host", "prepare_host"]


async def test_a_rebuild_after_a_repin_has_a_key_of_ours_again() -> None:
    async with running() as system:
        _, pair = await exchanged(system)
        await system.annotate("web-1", as_=system.erin, repin=pair.fingerprint)
        await system.annotate("web-1", approve=await system.awaiting())
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        await system.annotate("web-1", approve=await system.awaiting())
        ready = await system.ready()
        assert ready.status.host_key_fingerprint != pair.fingerprint
        held = await KubeSecrets(system.operator_api).read(NAMESPACE, "web-1-host-key")
        assert HOST_PRIVATE in held


# In an inventory: the entry must say that key, too, and there is no power control.


def entry(pair: KeyPair) -> dict[str, Any]:
    return {"hosts": [{"name": "h1", "address": ADDRESS, "hostKey": pair.public_line}]}


async def client_key(system: System) -> str:
    """The public key of the Provider, once it is made."""

    async def made() -> str:
        try:
            return (await KubeSecrets(system.operator_api).read(NAMESPACE, "lab-ssh"))[CLIENT_PUBLIC].decode()
        except NotFound:
            return ""

    while not (key := await made()):
        await quiet(1)
    return key


async def stands(system: System, pair: KeyPair, machine_id: str) -> FakeHost:
    """A machine at the address, which lets our key in."""
    key = await client_key(system)
    return system.hosts.plain(
        "h1", address=ADDRESS, host_key=pair.public_line, authorized_keys=(key,), machine_id=machine_id
    )


async def listed(system: System) -> tuple[FakeHost, KeyPair]:
    """An Instance on the only host of an inventory."""
    pair = make_key_pair("h1")
    await system.apply("Provider", "lab", {"type": "SSH", "ssh": entry(pair)})
    host = await stands(system, pair, "1" * 32)
    await system.ready("lab", kind=Provider)
    await system.instance(providerRef={"name": "lab"}, type="host", image="existing")
    await system.ready()
    return host, pair


async def test_a_host_that_was_replaced_at_the_same_address_becomes_ready_after_two_human_decisions() -> None:
    async with running() as system:
        old, before = await listed(system)
        system.hosts.lose_power(old)
        after = make_key_pair("h1 new")
        new = await stands(system, after, "2" * 32)
        await look_again(system)
        await says(system, "put it into the inventory", type="HostKeyMismatch", status="True")
        await system.annotate("web-1", as_=system.erin, repin=after.fingerprint)
        await quiet(120)
        assert phases(system) == ["Succeeded"], "the inventory does not know that machine"
        await system.edit("lab", kind=Provider, ssh=entry(after))
        digest = await system.awaiting()
        assert tools(system.plans()[-1]) == ["repin_host"]
        assert before.fingerprint in system.see().status.plan.steps[0].description
        (evidence,) = system.see().status.plan.evidence
        assert f"had machine-id {'1' * 32}; the one that answers says {'2' * 32}" in evidence
        assert CLAIM_PATH not in new.files
        await system.annotate("web-1", approve=digest)
        ready = await system.ready()
        assert (ready.status.machine_id, ready.status.host_key_fingerprint) == ("2" * 32, after.fingerprint)
        assert ready.uid in claimant(new.files[CLAIM_PATH])


async def test_an_edited_host_key_is_never_taken_over_silently() -> None:
    async with running() as system:
        host, pair = await listed(system)
        other = make_key_pair("a mistake")
        await system.edit("lab", kind=Provider, ssh=entry(other))
        said = await says(system, "the inventory", type="HostKeyMismatch", status="True")
        assert pair.fingerprint in said.message
        await system.annotate("web-1", as_=system.erin, repin=other.fingerprint)
        await says(system, "put the pinned key back into the entry of 'h1'", type="HostKeyMismatch")
        await quiet(120)
        assert phases(system) == ["Succeeded"], "the host does not show that key"
        await system.edit("lab", kind=Provider, ssh=entry(pair))
        await system.ready()
        assert HOST_PUBLIC in await KubeSecrets(system.operator_api).read(NAMESPACE, "web-1-host-key")
        assert CLAIM_PATH in host.files


async def test_a_host_key_that_was_renewed_on_the_host_and_in_the_inventory_is_trusted_after_an_approval() -> None:
    async with running() as system:
        host, _ = await listed(system)
        renewed = make_key_pair("renewed")
        host.host_key = renewed.public_line
        await system.edit("lab", kind=Provider, ssh=entry(renewed))
        await says(system, f"repin={renewed.fingerprint}", type="HostKeyMismatch", status="True")
        await system.annotate("web-1", as_=system.erin, repin=renewed.fingerprint)
        await system.annotate("web-1", approve=await system.awaiting())
        assert (await system.ready()).status.host_key_fingerprint == renewed.fingerprint


async def test_a_host_without_power_control_is_never_said_to_be_fenced() -> None:
    async with running() as system:
        await listed(system)
        fence = {"holder": "Database default/db", "epoch": 1, "reason": "failover"}
        await system.operator_api.patch(system.see().info.type, NAMESPACE, "web-1", {"spec": {"fence": fence}})
        said = await says(system, "it cannot be fenced by power", type="Fenced", status="False")
        assert said.message.startswith("host 'h1' has no power control")
        await quiet(120)
        assert phases(system) == ["Succeeded"]


async def test_a_silent_host_without_power_control_is_reported_and_waited_for() -> None:
    async with running() as system:
        host, _ = await listed(system)
        host.cut = True
        await look_again(system)
        await says(system, "somebody must look at the machine", status="False")
        await quiet(120)
        assert phases(system) == ["Succeeded"]
        host.cut = False
        await system.ready()


async def test_a_host_of_an_inventory_is_rebooted_through_its_own_system() -> None:
    async with running() as system:
        host, _ = await listed(system)
        await quiet(60)
        await system.annotate("web-1", as_=system.erin, reboot_at="2026-01-01T00:01:30Z")
        await system.until(
            lambda: [op for op in system.plans(OperationPhase.SUCCEEDED) if tools(op) == ["reboot_host"]]
        )
        await quiet(120)
        assert len(host.server.boots) == 2
        assert host.server.boots[0].clean
        assert condition(system.see()).status == "True"


@pytest.mark.parametrize("seconds", [1.0, 4.0, 12.0])
async def test_an_operator_that_forgot_all_about_a_host_that_reboots_waits_for_it(seconds: float) -> None:
    async with running() as system:
        host, _ = await listed(system)
        await quiet(60)
        host.server.boot_seconds = 30.0
        await system.annotate("web-1", as_=system.erin, reboot_at="2026-01-01T00:01:30Z")
        await running_step(system, "reboot_host")
        await quiet(seconds)
        await system.processes[-1].crash()
        await system.start()
        await system.until(
            lambda: [op for op in system.plans(OperationPhase.SUCCEEDED) if tools(op) == ["reboot_host"]]
        )
        await system.ready()
        await quiet(600)
        assert len(host.server.boots) == 2
        assert phases(system) == ["Succeeded", "Succeeded"]
