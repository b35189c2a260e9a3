"""Machines that belong to somebody else: named, and never touched."""

from __future__ import annotations

import pytest
from tests.support.system import running
from tests.support.trouble import condition, look_again, only_server, phases, quiet, running_step, says

from agentmetal.core.claim import CLAIM_PATH, Claim
from agentmetal.core.machine import OwnerTag, ServerSpec

pytestmark = pytest.mark.looptime

OTHER = OwnerTag(cluster="c-2", namespace="shop", uid="u-9")


async def test_a_host_claimed_by_another_instance_is_named_with_its_claim_file() -> None:
    async with running() as system:
        await system.instance()
        await running_step(system, "provision_instance")
        host = system.hosts.host((await only_server(system)).id)
        host.files[CLAIM_PATH] = Claim.of(OTHER).file()
        said = await says(system, f"is claimed by {OTHER}")
        assert CLAIM_PATH in said.message
        assert said.reason == "ClaimedByOther"
        assert not host.installed
        await quiet(600)
        assert not host.installed
        assert phases(system) == ["Failed"]
        del host.files[CLAIM_PATH]
        await system.ready()


async def test_a_claim_that_appears_on_a_running_host_is_told_and_not_overwritten() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        host = system.hosts.host((await only_server(system)).id)
        host.files[CLAIM_PATH] = Claim.of(OTHER).file()
        await look_again(system)
        await says(system, f"its host is claimed by {OTHER}")
        await quiet(600)
        assert host.files[CLAIM_PATH] == Claim.of(OTHER).file()
        assert phases(system) == ["Succeeded"]


async def test_a_server_of_our_name_with_another_owner_is_left_alone_for_ever() -> None:
    async with running(hosts=False) as system:
        await system.apply("Instance", "web-1", _spec(mode="Observe"))
        await says(system, "there is no server yet")
        name = f"web-1-{system.see().uid[:8]}"
        spec = ServerSpec(
            name=name,
            owner=OTHER,
            type="small",
            image="bookworm",
            location="north",
            hostname="x",
            authorized_keys=(),
            host_key="",
        )
        await system.cloud.provision_server(spec)
        await system.edit("web-1", management={"mode": "Manage"})
        said = await says(system, f"a server of its name belongs to {OTHER}: rename the Instance")
        assert said.reason == "ClaimedByOther"
        await quiet(600)
        assert phases(system) == []
        await system.delete("web-1")
        await system.gone(timeout=60)
        assert (await only_server(system)).owner == OTHER
        assert "decommission_server" not in system.cloud.calls


async def test_of_two_instances_that_want_one_host_the_second_is_told_whose_it_is() -> None:
    async with running() as system:
        await system.instance("first")
        await system.ready("first")
        first = system.see("first")
        await system.instance("second")
        await system.until(lambda: len(system.cloud._servers) == 2)
        mine, theirs = (system.hosts.host(id) for id in sorted(system.cloud._servers))
        theirs.files[CLAIM_PATH] = mine.files[CLAIM_PATH]
        said = await says(system, first.uid, name="second")
        assert said.reason == "ClaimedByOther"
        assert condition(system.see("first")).status == "True"


def _spec(*, mode: str) -> dict[str, object]:
    return {
        "providerRef": {"name": "cloud"},
        "type": "small",
        "image": "bookworm",
        "management": {"mode": mode},
    }
