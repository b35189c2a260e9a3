"""Claims about real machines in trouble: disks, cables, limits of sshd, and sudo that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from tests.contract.hosts.worlds import OPERATOR, OWNER, TYPIST, NspawnWorld, back, end_of, logins

from agentmetal.clients.keys import make_key_pair
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.errors import AuthenticationFailed, Forbidden, Invalid, LimitReached, Transient, Unavailable
from agentmetal.core.machine import Ssh, UnitPhase
from agentmetal.core.resource import Key
from agentmetal_tools.wiping import removal

pytestmark = pytest.mark.needs_machines

PLACE = "/srv/trouble"


@pytest.fixture(params=["real", "real_sudo"])
def world(request: pytest.FixtureRequest) -> NspawnWorld:
    return cast(NspawnWorld, request.getfixturevalue(request.param))


@pytest.fixture
async def host(world: NspawnWorld) -> Ssh:
    host = await world.machines.connect(world.identity())
    await host.install_wrapper(epoch=1)
    return host


async def does(host: Ssh, *argv: str) -> str:
    """A command that must succeed."""
    done = await host.run(argv)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@asynccontextmanager
async def small_disk(host: Ssh) -> AsyncIterator[None]:
    """A file system of 256 KiB, and a file on it."""
    await does(host, "mkdir", "-p", PLACE)
    await does(host, "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", PLACE)
    try:
        await host.write_file(f"{PLACE}/settings", b"old")
        yield
    finally:
        await does(host, "umount", PLACE)


async def test_a_full_disk_takes_no_half_file(host: Ssh) -> None:
    async with small_disk(host):
        await host.run(["dd", "if=/dev/zero", f"of={PLACE}/filler", "status=none"])

        with pytest.raises(LimitReached, match="space"):
            await host.write_file(f"{PLACE}/settings", b"new" * 5000)
        with pytest.raises(LimitReached, match="space"):
            await host.create_file(f"{PLACE}/claim", b"mine" * 5000)

        assert await does(host, "ls", "-A", PLACE) == "filler\nsettings\n"
        assert await does(host, "cat", f"{PLACE}/settings") == "old"

        await host.remove_file(f"{PLACE}/filler")
        assert await host.create_file(f"{PLACE}/claim", b"mine") == b"mine"


async def test_a_wipe_removes_what_was_named_and_follows_no_link(host: Ssh, operation: str) -> None:
    await does(host, "mkdir", "-p", "/srv/wiped/a/b", "/srv/wiped/bb", "/srv/elsewhere/x")
    await does(host, "ln", "-sfT", "/srv/elsewhere", "/srv/link")
    paths = ["/srv/wiped/a", "/srv/link/x", "/opt/not/there"]
    await host.start_unit(f"{operation}-1-1", removal(paths), epoch=7, timeout=60)
    ended = await end_of(host, f"{operation}-1-1")
    assert (ended.exit_code, ended.output) == (0, "")
    assert await does(host, "find", "/srv/wiped", "/srv/elsewhere", "-type", "d") == (
        "/srv/wiped\n/srv/wiped/bb\n/srv/elsewhere\n/srv/elsewhere/x\n"
    )
    await does(host, "rm", "-rf", "/srv/wiped", "/srv/elsewhere", "/srv/link")


async def test_a_disk_that_is_read_only_is_told_and_keeps_what_it_had(host: Ssh, operation: str) -> None:
    await host.write_file("/root/settings", b"old")
    await host.start_unit(f"{operation}-2-1", ["false"], epoch=7, timeout=60)
    ended = await end_of(host, f"{operation}-2-1")
    await does(host, "mount", "-o", "remount,ro", "/")
    try:
        with pytest.raises(Forbidden, match="read-only"):
            await host.write_file("/root/settings", b"new")
        with pytest.raises(Forbidden, match="read-only"):
            await host.create_file("/root/claim", b"mine")
        with pytest.raises(Forbidden, match="read-only"):
            await host.create_file("/srv/not/there/claim", b"mine")
        with pytest.raises(Forbidden, match="read-only"):
            await host.remove_file("/root/settings")
        with pytest.raises(Forbidden, match="read-only"):
            await host.remove_wrapper(epoch=999)
        with pytest.raises(Forbidden, match="read-only"):
            await host.authorize(make_key_pair("new").public_line)
        with pytest.raises(Forbidden, match="read-only"):
            await host.start_unit(f"{operation}-1-1", ["true"], epoch=7, timeout=60)
        assert (await host.unit_state(f"{operation}-1-1")).phase is UnitPhase.NEVER
        assert await host.start_unit(f"{operation}-2-1", ["false"], epoch=7, timeout=60) == ended  # not "never started"
    finally:
        await does(host, "mount", "-o", "remount,rw", "/")

    assert await does(host, "cat", "/root/settings") == "old"
    assert "agentmetal" not in await does(host, "ls", "-A", "/root")


async def test_a_peer_that_vanished_without_a_word_is_noticed_and_every_owner_told(world: NspawnWorld) -> None:
    other = Key("Provider", "default", "lab")
    machines = world.new_machines(keepalive_interval=600.0)  # the kernel alone
    host = await machines.connect(world.identity())
    await machines.connect(world.identity(owner=other))
    running = asyncio.create_task(host.run(["sleep", "60"], timeout=70))
    await asyncio.sleep(0.2)
    loop = asyncio.get_running_loop()

    await world.cut()
    began = loop.time()
    try:
        with pytest.raises(Unavailable):
            await running
        await world.lost.wait(5.0)
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await host.run(["true"])
    finally:
        await world.heal()
        await machines.close()

    assert loop.time() - began < 9.0
    assert {owner for owner, _ in world.lost.told} == {OWNER, other}
    await back(world)


async def test_many_who_connect_at_once_all_come_in(real: NspawnWorld) -> None:
    """sshd turns away some when more than ten have not logged in yet: that passes, and is told as such."""
    crowd = [real.new_machines() for _ in range(40)]

    async def enter(machines: SshMachines) -> str:
        while True:
            try:
                return (await (await machines.connect(real.identity())).run(["echo", "in"])).stdout
            except Transient:
                await asyncio.sleep(0.2)

    try:
        async with asyncio.timeout(60):
            assert set(await asyncio.gather(*map(enter, crowd))) == {"in\n"}
    finally:
        for machines in crowd:
            await machines.close()


async def test_files_and_commands_together_stay_within_what_sshd_allows(host: Ssh, operation: str) -> None:
    path = f"/var/lib/agentmetal-tests/{operation}"

    held, done, keys = await asyncio.gather(
        asyncio.gather(*(host.create_file(path, f"{n}".encode()) for n in range(12))),
        asyncio.gather(*(host.run(["echo", "ok"]) for _ in range(20))),
        asyncio.gather(*(host.authorized() for _ in range(5))),
    )

    assert len(set(held)) == len(set(keys)) == 1
    assert {one.stdout for one in done} == {"ok\n"}


async def test_a_key_that_is_let_in_logs_in_until_it_is_revoked(world: NspawnWorld, host: Ssh) -> None:
    key = make_key_pair("next")
    await host.authorize(key.public_line)
    newcomer = world.new_machines(client_key=key)
    try:
        assert (await (await newcomer.connect(world.identity())).run(["id", "-u"])).stdout == "0\n"
    finally:
        await newcomer.close()
    told = await does(host, "stat", "-c", "%a %U", "--", logins(world.user))

    await host.revoke(key.public_line)

    with pytest.raises(AuthenticationFailed):
        await newcomer.connect(world.identity())
    assert told == f"600 {world.user}\n"


async def test_keys_that_are_kept_elsewhere_are_left_alone(world: NspawnWorld, host: Ssh) -> None:
    path = logins(world.user)
    await does(host, "mv", path, "/srv/keys")
    await does(host, "ln", "-s", "/srv/keys", path)
    try:
        with pytest.raises(Invalid, match="symbolic link"):
            await host.authorize(make_key_pair("next").public_line)
    finally:
        await does(host, "mv", "-fT", "/srv/keys", path)


async def test_an_account_that_sudo_asks_for_a_password_is_refused_and_told_how_to_mend_it(real: NspawnWorld) -> None:
    with pytest.raises(Forbidden) as refused:
        await real.machines.connect(real.identity(user=TYPIST))

    assert f"`{TYPIST} ALL=(root) NOPASSWD: ALL`" in refused.value.message
    assert "password" in refused.value.message
    assert real.lost.told == []


async def test_sudo_that_begins_to_ask_later_is_no_answer_of_any_command(
    real: NspawnWorld, real_sudo: NspawnWorld
) -> None:
    root, host = await real.machines.connect(real.identity()), await real_sudo.machines.connect(real_sudo.identity())
    rule, missing = f"/etc/sudoers.d/{OPERATOR}", ["test", "-e", "/nowhere"]
    assert (await host.run(missing)).exit_code == 1
    await does(root, "mv", rule, "/srv/rule")
    try:
        with pytest.raises(Forbidden, match="cannot become root without a password"):
            await host.run(missing)
        with pytest.raises(Forbidden):
            await host.create_file("/srv/later", b"x")
    finally:
        await does(root, "mv", "/srv/rule", rule)
    assert (await host.run(["cat", "/srv/later"])).exit_code == 1
    assert (await host.run(["cat", "/sudo"])).exit_code == 1  # the word alone makes no refusal


async def test_a_host_without_sudo_is_told(real: NspawnWorld, real_sudo: NspawnWorld) -> None:
    root = await real.machines.connect(real.identity())
    await does(root, "mv", "/usr/bin/sudo", "/usr/bin/sudo.away")
    try:
        with pytest.raises(Forbidden, match="no sudo"):
            await real_sudo.machines.connect(real_sudo.identity())
    finally:
        await does(root, "mv", "/usr/bin/sudo.away", "/usr/bin/sudo")
