"""Claims about every host that implements `core.machine.Ssh`: simulated and real ones."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.hosts.worlds import OWNER, World, back, end_of, logins

from agentmetal.clients.keys import fingerprint, make_key_pair
from agentmetal.clients.ssh import wrapper
from agentmetal.core.claim import CLAIM_PATH
from agentmetal.core.errors import HostKeyMismatch, Invalid, NotFound, StaleLeader, Unavailable
from agentmetal.core.machine import Ssh, UnitPhase
from agentmetal.core.resource import Key


async def test_a_name_never_started_is_never(host: Ssh, operation: str) -> None:
    assert (await host.unit_state(f"{operation}-1-1")).phase is UnitPhase.NEVER


async def test_a_unit_runs_and_tells_its_end_and_output(world: World, host: Ssh, operation: str) -> None:
    started = await host.start_unit(
        f"{operation}-1-1", world.command(operation, exit_code=3, seconds=0.5), epoch=7, timeout=60
    )
    state = await end_of(host, f"{operation}-1-1")

    assert started.phase is UnitPhase.RUNNING
    assert (state.phase, state.exit_code, state.killed_by) == (UnitPhase.ENDED, 3, "")
    assert "out" in state.output
    assert "err" in state.output


async def test_started_twice_it_runs_once(world: World, host: Ssh, operation: str) -> None:
    name, command = f"{operation}-1-1", world.command(operation)
    await host.start_unit(name, command, epoch=7, timeout=60)
    await end_of(host, name)

    again = await host.start_unit(name, command, epoch=7, timeout=60)

    assert (again.phase, again.exit_code) == (UnitPhase.ENDED, 0)
    assert await world.runs(operation) == 1


async def test_six_at_once_run_it_once(world: World, host: Ssh, operation: str) -> None:
    name, command = f"{operation}-1-1", world.command(operation, seconds=0.2)

    states = await asyncio.gather(*(host.start_unit(name, command, epoch=7, timeout=60) for _ in range(6)))
    await end_of(host, name)

    assert {state.phase for state in states} <= {UnitPhase.RUNNING, UnitPhase.ENDED}
    assert await world.runs(operation) == 1


async def test_an_older_epoch_starts_nothing(world: World, host: Ssh, operation: str) -> None:
    await host.start_unit(f"{operation}-1-1", world.command(f"{operation}.1"), epoch=7, timeout=60)

    with pytest.raises(StaleLeader):
        await host.start_unit(f"{operation}-2-1", world.command(f"{operation}.2"), epoch=6, timeout=60)
    await host.start_unit(f"{operation}-3-1", world.command(f"{operation}.3"), epoch=7, timeout=60)

    assert (await host.unit_state(f"{operation}-2-1")).phase is UnitPhase.NEVER
    await end_of(host, f"{operation}-3-1")
    assert [await world.runs(f"{operation}.{n}") for n in (1, 2, 3)] == [1, 0, 1]


async def test_a_timeout_kills_and_says_so(world: World, host: Ssh, operation: str) -> None:
    await host.start_unit(f"{operation}-1-1", world.command(operation, seconds=60), epoch=7, timeout=1)

    state = await end_of(host, f"{operation}-1-1", timeout=30)

    assert (state.phase, state.exit_code, state.killed_by) == (UnitPhase.ENDED, None, "timeout")


async def test_a_program_that_is_not_there_is_not_started(host: Ssh, operation: str) -> None:
    with pytest.raises(NotFound):
        await host.start_unit(f"{operation}-1-1", ["/no/such/program"], epoch=7, timeout=60)

    assert (await host.unit_state(f"{operation}-1-1")).phase is UnitPhase.NEVER


async def test_forgetting_drops_the_units_of_one_operation(world: World, host: Ssh, operation: str) -> None:
    mine, other = f"{operation}-1-1", f"{operation}1-1-1"
    for name in (mine, other):
        await host.start_unit(name, world.command(operation), epoch=7, timeout=60)
        await end_of(host, name)

    await host.forget_units(operation)
    await host.forget_units(operation)

    assert (await host.unit_state(mine)).phase is UnitPhase.NEVER
    assert (await host.unit_state(other)).phase is UnitPhase.ENDED


@pytest.mark.parametrize("cleanly", [True, False])
async def test_what_ran_when_the_machine_went_down_was_interrupted(
    world: World, host: Ssh, operation: str, cleanly: bool
) -> None:
    name, command = f"{operation}-1-1", world.command(operation, seconds=300)
    await host.start_unit(name, command, epoch=7, timeout=600)

    await (world.restart() if cleanly else world.power_cycle())
    host = await back(world)

    assert (await host.unit_state(name)).phase is UnitPhase.INTERRUPTED
    assert (await host.start_unit(name, command, epoch=7, timeout=600)).phase is UnitPhase.INTERRUPTED


async def test_a_unit_survives_its_connection(world: World, host: Ssh, operation: str) -> None:
    name = f"{operation}-1-1"
    await host.start_unit(name, world.command(operation, exit_code=4, seconds=0.5), epoch=7, timeout=60)
    await world.machines.forget(OWNER)

    host = await world.machines.connect(world.identity())

    assert (await end_of(host, name)).exit_code == 4


async def test_another_host_key_is_a_mismatch(world: World) -> None:
    with pytest.raises(HostKeyMismatch):
        await world.machines.connect(world.identity(pin=make_key_pair("other").public_line))


async def test_a_frozen_host_is_unavailable_in_time(world: World, host: Ssh) -> None:
    await world.freeze()

    with pytest.raises(Unavailable):
        await host.run(["true"], timeout=1.0)
    await world.thaw()

    assert (await (await back(world)).run(["true"])).exit_code == 0


async def test_a_file_is_created_once_and_replaced_by_name(host: Ssh, operation: str) -> None:
    path = f"/var/lib/agentmetal-tests/{operation}"

    assert await host.create_file(path, b"first") == b"first"
    assert await host.create_file(path, b"second") == b"first"
    await host.write_file(path, b"third")
    assert await host.create_file(path, b"fourth") == b"third"
    await host.remove_file(path)
    await host.remove_file(path)
    assert await host.create_file(path, b"fifth") == b"fifth"


async def test_a_file_that_holds_something_else_by_now_is_left_as_it_is(host: Ssh, operation: str) -> None:
    path = f"/var/lib/agentmetal-tests/{operation}"
    await host.write_file(path, b"theirs\n")

    assert not await host.swap_file(path, b"mine\n", None)
    assert not await host.swap_file(path, b"mine\n", b"new\n")
    assert not await host.swap_file(path, b"theirs", b"new\n"), "part of it is not it"
    assert await host.create_file(path, b"") == b"theirs\n"


async def test_a_file_that_holds_what_was_said_is_replaced_or_removed(host: Ssh, operation: str) -> None:
    path = f"/var/lib/agentmetal-tests/{operation}"
    await host.write_file(path, b"mine\n")

    assert await host.swap_file(path, b"mine\n", b"new\n")
    assert await host.create_file(path, b"") == b"new\n"
    assert await host.swap_file(path, b"new\n", None)
    assert not await host.swap_file(path, b"new\n", None), "it is gone"
    assert await host.create_file(path, b"first") == b"first"


async def test_owners_share_a_connection_until_the_last_one_is_forgotten(world: World) -> None:
    other = Key("Provider", "default", "lab")
    mine = await world.machines.connect(world.identity())
    theirs = await world.machines.connect(world.identity(owner=other))
    assert mine is theirs

    await world.machines.forget(OWNER)
    assert (await theirs.run(["true"])).exit_code == 0

    await world.machines.forget(other)
    with pytest.raises(Unavailable):
        await theirs.run(["true"])


async def test_the_key_that_is_shown_is_told_without_logging_in(world: World) -> None:
    other = make_key_pair("other")

    for pin in (world.host_key.public_line, other.public_line):
        shown = await world.machines.shown_host_key(world.identity(pin=pin, user="nobody-there"))
        assert fingerprint(shown) == world.host_key.fingerprint


async def test_a_key_is_let_in_and_revoked_and_nothing_else_is_touched(world: World, host: Ssh) -> None:
    key, path = make_key_pair("ours now"), logins(world.user)
    before = await host.authorized()
    content = f"# by hand\n\n{(await host.run(['cat', path])).stdout}no-such-line".encode()
    await put(world, host, content)

    await host.authorize(key.public_line)
    await host.authorize(f"{key.public_line.rsplit(' ', 2)[0]} under another name")

    assert [one for one in await host.authorized() if one not in before] == [key.public_line]
    assert (await host.run(["cat", path])).stdout == f"{content.decode()}\n{key.public_line}\n"

    await host.revoke(key.public_line)
    await host.revoke(key.public_line)

    assert await host.authorized() == before
    assert (await host.run(["cat", path])).stdout == f"{content.decode()}\n"


async def test_a_key_like_another_one_gets_its_options(world: World, host: Ssh) -> None:
    old, new, path = make_key_pair("old"), make_key_pair("new"), logins(world.user)
    content = (await host.run(["cat", path])).stdout + f'from="192.0.2.1",no-pty {old.public_line}\n'
    await put(world, host, content.encode())

    await host.authorize(new.public_line, like=old.public_line)
    await host.revoke(old.public_line)

    assert (await host.run(["cat", path])).stdout.splitlines()[-1] == f'from="192.0.2.1",no-pty {new.public_line}'


async def put(world: World, host: Ssh, content: bytes) -> None:
    """Write the file of keys; it stays its owner's."""
    await host.write_file(logins(world.user), content, mode=0o600)
    await host.run(["chown", f"{world.user}:", logins(world.user)])


@pytest.mark.parametrize("key", ["", "no key", "ssh-ed25519 AAAA", "# a comment"])
async def test_what_is_no_public_key_is_not_let_in(host: Ssh, key: str) -> None:
    before = await host.authorized()

    with pytest.raises(Invalid):
        await host.authorize(key)
    with pytest.raises(Invalid):
        await host.revoke(key)

    assert await host.authorized() == before


async def test_two_lines_are_never_let_in_as_one_key(host: Ssh) -> None:
    one, two = make_key_pair("one"), make_key_pair("two")

    with pytest.raises(Invalid):
        await host.authorize(f"{one.public_line}\n{two.public_line}")


async def test_the_wrapper_goes_with_all_it_remembers(world: World, host: Ssh, operation: str) -> None:
    await host.create_file(CLAIM_PATH, b"{}")
    await host.start_unit(f"{operation}-1-1", world.command(operation), epoch=90, timeout=60)
    await end_of(host, f"{operation}-1-1")

    await host.remove_wrapper(epoch=999)
    await host.remove_wrapper(epoch=999)

    assert (await host.run(["test", "-e", wrapper.PATH])).exit_code != 0
    assert (await host.run(["test", "-e", CLAIM_PATH])).exit_code == 0  # goes last, and not by this
    with pytest.raises(Unavailable):
        await host.start_unit(f"{operation}-2-1", world.command(operation), epoch=91, timeout=60)

    await host.install_wrapper(epoch=1)
    assert (await host.unit_state(f"{operation}-1-1")).phase is UnitPhase.NEVER
    await host.remove_file(CLAIM_PATH)


async def test_an_older_leader_does_not_make_the_host_forget_what_ran(world: World, host: Ssh, operation: str) -> None:
    await host.start_unit(f"{operation}-1-1", world.command(operation), epoch=90, timeout=60)
    await end_of(host, f"{operation}-1-1")

    with pytest.raises(StaleLeader):
        await host.remove_wrapper(epoch=89)

    again = await host.start_unit(f"{operation}-1-1", world.command(operation), epoch=90, timeout=60)
    assert again.phase is UnitPhase.ENDED
    await host.remove_wrapper(epoch=90)
    await host.install_wrapper(epoch=1)


async def test_a_late_command_of_an_older_leader_is_refused_by_a_host_just_prepared(
    world: World, host: Ssh, operation: str
) -> None:
    await host.remove_wrapper(epoch=999)
    await host.install_wrapper(epoch=91)

    with pytest.raises(StaleLeader):
        await host.start_unit(f"{operation}-1-1", world.command(operation), epoch=90, timeout=60)

    assert (await host.unit_state(f"{operation}-1-1")).phase is UnitPhase.NEVER
    await host.remove_wrapper(epoch=999)
    await host.install_wrapper(epoch=1)
