"""One look at a host, as root and by sudo: everything is read, and what is ill shows."""

from __future__ import annotations

from typing import cast

import pytest
from tests.contract.hosts.worlds import NspawnWorld

from agentmetal.core.clock import SystemClock
from agentmetal.core.machine import Ssh
from agentmetal_tools.hosts import boot_of
from agentmetal_tools.looks import Look, look


@pytest.fixture(params=["real", "real_sudo"])
def machine_world(request: pytest.FixtureRequest) -> NspawnWorld:
    return cast(NspawnWorld, request.getfixturevalue(request.param))


@pytest.fixture
async def real_host(machine_world: NspawnWorld) -> Ssh:
    return await machine_world.machines.connect(machine_world.identity())


async def see(host: Ssh) -> Look:
    return await look(host, SystemClock())


async def said(host: Ssh, *argv: str) -> str:
    return (await host.run(argv)).stdout.strip()


async def test_a_look_reads_all_there_is(host: Ssh) -> None:
    seen = await see(host)
    assert seen.machine_id == await said(host, "cat", "/etc/machine-id")
    assert seen.hostname == await said(host, "hostname")
    assert seen.kernel == await said(host, "uname", "-r")
    assert seen.architecture == await said(host, "uname", "-m")
    assert seen.os.startswith("Debian GNU/Linux")
    assert seen.cpus >= 1
    assert seen.memory_mb > 0
    assert seen.packages_from.startswith("20")
    assert seen.boot.id == (await boot_of(host)).id
    assert 0 < seen.boot.up_seconds < 3600
    assert seen.vitals.disk_free_ratio
    assert seen.vitals.memory_available_ratio
    assert seen.vitals.load_per_cpu is not None
    assert seen.vitals.packages_age_seconds
    assert seen.vitals.clock_offset_seconds == 0.0
    assert not seen.root_read_only


@pytest.mark.needs_machines
async def test_failed_units_and_a_wish_to_reboot_show(real_host: Ssh) -> None:
    await real_host.run(["systemd-run", "--wait", "--unit", "broken-one", "false"], timeout=20)
    await real_host.run(["touch", "/run/reboot-required"])
    try:
        seen = await see(real_host)
        assert "broken-one.service" in seen.failed_units
        assert seen.reboot_required
    finally:
        await real_host.run(["rm", "-f", "/run/reboot-required"])
        await real_host.run(["systemctl", "reset-failed", "broken-one"])


@pytest.mark.needs_machines
async def test_a_read_only_root_shows(real_host: Ssh) -> None:
    assert (await real_host.run(["mount", "-o", "remount,bind,ro", "/"])).exit_code == 0
    try:
        assert (await see(real_host)).root_read_only
    finally:
        await real_host.run(["mount", "-o", "remount,bind,rw", "/"])
