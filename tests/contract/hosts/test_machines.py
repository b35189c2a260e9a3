"""Claims about real machines only: what a simulation cannot show."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.hosts.worlds import CLUSTER, OWNER, NspawnWorld, back, end_of, soon

from agentmetal.clients.keys import make_key_pair
from agentmetal.clients.ssh import wrapper
from agentmetal.core.errors import AuthenticationFailed, LimitReached, Transient, Unavailable
from agentmetal.core.machine import Ssh, UnitPhase

pytestmark = pytest.mark.needs_machines


@pytest.fixture
async def host(real: NspawnWorld) -> Ssh:
    host = await real.machines.connect(real.identity())
    await host.install_wrapper(epoch=1)
    return host


async def test_a_frozen_machine_is_told_to_its_owner(real: NspawnWorld, host: Ssh) -> None:
    await real.freeze()
    await real.lost.wait(5.0)
    await real.thaw()

    assert [owner for owner, _ in real.lost.told] == [OWNER]
    with pytest.raises(Unavailable):
        await host.run(["true"])


async def test_a_machine_that_loses_power_under_a_command_is_told(real: NspawnWorld, host: Ssh) -> None:
    running = asyncio.create_task(host.run(["sleep", "60"], timeout=70))
    await asyncio.sleep(0.1)

    await real.power_cycle()

    with pytest.raises(Unavailable):
        await running
    assert real.lost.told
    await back(real)


async def test_forty_at_once_stay_within_what_sshd_allows(host: Ssh, operation: str) -> None:
    path = f"/var/lib/agentmetal-tests/{operation}"

    done = await asyncio.gather(*(host.run(["sh", "-c", "sleep 0.05; echo ok"]) for _ in range(40)))
    held = await asyncio.gather(*(host.create_file(path, f"{n}".encode()) for n in range(20)))

    assert {one.stdout for one in done} == {"ok\n"}
    assert len(set(held)) == 1


async def test_a_command_that_takes_too_long_does_not_stay(host: Ssh) -> None:
    with pytest.raises(Unavailable):
        await host.run(["sleep", "7654"], timeout=0.3)

    async def gone() -> bool:
        return (await host.run(["pgrep", "-f", "^sleep 7654"])).exit_code == 1

    await soon(gone)


async def test_the_wrapper_is_renewed_only_when_it_differs(host: Ssh) -> None:
    stat = ["stat", "-c", "%i %a", wrapper.PATH]
    before = (await host.run(stat)).stdout

    await host.install_wrapper(epoch=1)
    assert (await host.run(stat)).stdout == before
    assert before.endswith(" 755\n")

    await host.write_file(wrapper.PATH, b"#!/bin/sh\n", mode=0o755)
    await host.install_wrapper(epoch=1)
    assert (await host.run(["cat", wrapper.PATH])).stdout.encode() == wrapper.program()


async def test_arguments_reach_the_unit_as_they_are(host: Ssh, operation: str) -> None:
    arguments = ["$HOME", "${X}", "$$", "%n%%", "", "a\nb", "it's", '"', "\\", "ä", "*", "`id`", "-x", "a=b", "\t ;"]

    await host.start_unit(f"{operation}-1-1", ["printf", "%s|", *arguments], epoch=7, timeout=60)

    assert (await end_of(host, f"{operation}-1-1")).output == "".join(f"{argument}|" for argument in arguments)


async def test_output_of_a_unit_is_its_last_kibibyte(host: Ssh, operation: str) -> None:
    script = "head -c 100000 /dev/zero | tr '\\0' x; echo last"
    await host.start_unit(f"{operation}-1-1", ["sh", "-c", script], epoch=7, timeout=60)

    state = await end_of(host, f"{operation}-1-1")

    assert len(state.output) == 1024
    assert state.output.endswith("xlast\n")


async def test_a_command_killed_by_another_is_told_by_its_signal(host: Ssh, operation: str) -> None:
    await host.start_unit(f"{operation}-1-1", ["sleep", "60"], epoch=7, timeout=60)

    await host.run(["systemctl", "kill", "-s", "KILL", f"agentmetal-{operation}-1-1.service"])

    state = await end_of(host, f"{operation}-1-1")
    assert (state.exit_code, state.killed_by) == (None, "KILL")


async def test_a_command_that_ignores_the_timeout_is_killed_all_the_same(host: Ssh, operation: str) -> None:
    command = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    await host.start_unit(f"{operation}-1-1", command, epoch=7, timeout=1)

    assert (await end_of(host, f"{operation}-1-1")).killed_by == "timeout"


@pytest.mark.parametrize("after", [0.0, 0.01, 0.02, 0.03, 0.05, 0.08])
async def test_a_start_cut_off_at_any_moment_runs_at_most_once(real: NspawnWorld, operation: str, after: float) -> None:
    name, command = f"{operation}-1-1", real.command(operation, seconds=0.2)
    host = await real.machines.connect(real.identity())
    starting = asyncio.create_task(host.start_unit(name, command, epoch=7, timeout=60))
    await asyncio.sleep(after)
    await real.machines.forget(OWNER)
    await asyncio.gather(starting, return_exceptions=True)

    host = await real.machines.connect(real.identity())
    await soon(lambda: _started(host, name, command))
    state = await end_of(host, name)

    assert (state.phase, state.exit_code) == (UnitPhase.ENDED, 0)
    assert await real.runs(operation) == 1


async def _started(host: Ssh, name: str, command: list[str]) -> bool:
    try:
        return (await host.start_unit(name, command, epoch=7, timeout=60)).phase is not UnitPhase.NEVER
    except Transient:
        return False


async def test_a_wrapper_killed_while_starting_leaves_a_state_that_tells(
    real: NspawnWorld, host: Ssh, operation: str
) -> None:
    name, command = f"{operation}-1-1", real.command(operation, seconds=0.2)
    start = wrapper.start_argv(CLUSTER, name, command, epoch=7, timeout=60)
    for milliseconds in range(2, 60, 6):
        await host.run(["timeout", "-s", "KILL", f"0.{milliseconds:03}", *start])

    await soon(lambda: _started(host, name, command))
    await end_of(host, name)

    assert await real.runs(operation) == 1


async def test_two_clusters_do_not_see_each_others_epochs_and_units(real: NspawnWorld, operation: str) -> None:
    other = real.new_machines(cluster="another-cluster")
    try:
        host = await other.connect(real.identity())
        await host.start_unit(f"{operation}-1-1", ["true"], epoch=1, timeout=60)
        assert (await end_of(host, f"{operation}-1-1")).exit_code == 0
    finally:
        await other.close()

    host = await real.machines.connect(real.identity())
    assert (await host.unit_state(f"{operation}-1-1")).phase is UnitPhase.NEVER


async def test_a_wrong_client_key_is_refused(real: NspawnWorld) -> None:
    stranger = real.new_machines(client_key=make_key_pair("stranger"))

    with pytest.raises(AuthenticationFailed):
        await stranger.connect(real.identity())


async def test_a_full_disk_refuses_before_anything_starts(real: NspawnWorld, operation: str) -> None:
    machines = real.new_machines(cluster="full-disk")
    host = await machines.connect(real.identity())
    await small_disk(host)
    try:
        await host.run(["sh", "-c", "cat /dev/zero >/var/lib/agentmetal/full-disk/filler"])
        with pytest.raises(LimitReached):
            await host.start_unit(f"{operation}-1-1", real.command(operation), epoch=7, timeout=60)
        assert (await host.unit_state(f"{operation}-1-1")).phase is UnitPhase.NEVER
        assert await real.runs(operation) == 0

        await host.remove_file("/var/lib/agentmetal/full-disk/filler")
        await host.start_unit(f"{operation}-1-1", real.command(operation), epoch=7, timeout=60)
        assert (await end_of(host, f"{operation}-1-1")).exit_code == 0
    finally:
        await host.run(["umount", "/var/lib/agentmetal/full-disk"])
        await machines.close()


async def test_an_end_is_noted_even_when_the_command_filled_the_disk(real: NspawnWorld, operation: str) -> None:
    machines = real.new_machines(cluster="full-disk")
    host = await machines.connect(real.identity())
    await small_disk(host)
    try:
        script = "cat /dev/zero >/var/lib/agentmetal/full-disk/filler; exit 5"
        await host.start_unit(f"{operation}-1-1", ["sh", "-c", script], epoch=7, timeout=60)
        assert (await end_of(host, f"{operation}-1-1")).exit_code == 5
    finally:
        await host.run(["umount", "/var/lib/agentmetal/full-disk"])
        await machines.close()


async def small_disk(host: Ssh) -> None:
    """256 KiB for everything of the cluster `full-disk`."""
    await host.run(["mkdir", "-p", "/var/lib/agentmetal/full-disk"])
    mounted = await host.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", "/var/lib/agentmetal/full-disk"])
    assert mounted.exit_code == 0


async def test_an_end_that_was_lost_is_unknown_and_never_run_again(
    real: NspawnWorld, host: Ssh, operation: str
) -> None:
    name, command = f"{operation}-1-1", real.command(operation, seconds=0.5)
    await host.start_unit(name, command, epoch=7, timeout=60)
    room = f"/var/lib/agentmetal/{CLUSTER}/units/{name}/room"
    assert (await host.run(["sh", "-c", 'rm "$1" && mkdir "$1"', "sh", room])).exit_code == 0  # no end can be written

    state = await end_of(host, name)
    again = await host.start_unit(name, command, epoch=7, timeout=60)

    assert state.phase is again.phase is UnitPhase.UNKNOWN
    assert await real.runs(operation) == 1


async def test_starting_and_asking_are_quick(host: Ssh, operation: str) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await host.start_unit(f"{operation}-1-1", ["true"], epoch=7, timeout=60)
    started = loop.time()
    await host.unit_state(f"{operation}-1-1")

    assert started - began < 2.0
    assert loop.time() - started < 1.0
