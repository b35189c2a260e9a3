"""What is removed from a host that is let go of: what was named, nothing that it leads to, and nothing that we need."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.agents.test_instance_adoption import HOST, WEB, ours

from agentmetal.core.errors import CommandFailed, Invalid, Unavailable
from agentmetal.core.machine import Completed
from agentmetal.core.tool import NotYet, Refusal, Result
from agentmetal.providers.fake_hosts import Effect
from agentmetal_tools.servers import ServerFacts
from agentmetal_tools.wiping import HOME_STAYS, NO_SUCH_USER, WipeParams, removal, wipe_host

FACTS = ServerFacts(exists=True, server_id="fake-1", user="admin")
FIND = ["find", "-P"]


def wiping(*paths: str, user: str = "") -> WipeParams:
    return WipeParams(**HOST, server_id="fake-1", paths=paths, user=user)


async def test_a_wipe_runs_argument_vectors_and_forgives_what_is_absent() -> None:
    world = await ours()
    world.hosts.unit(FIND, Effect())
    world.hosts.unit(["userdel"], Effect(exit_code=NO_SUCH_USER))
    assert isinstance(await world.call(wipe_host, WEB, wiping("/srv/a", "/opt/b")), Result)
    gone = await wipe_host.run(world.context(WEB, step=2), wiping(user="bob"))
    assert gone == Result(message="there is no account 'bob'")
    assert [run.argv for run in world.hosts.journal] == [
        removal(["/srv/a", "/opt/b"]),
        ("userdel", "--remove", "--", "bob"),
    ]


async def test_a_wipe_that_fails_is_known_to_have_failed() -> None:
    world = await ours()
    world.hosts.unit(FIND, Effect(exit_code=1, output="busy"))
    with pytest.raises(CommandFailed, match="busy"):
        await world.call(wipe_host, WEB, wiping("/srv/a"))


async def test_an_account_whose_home_stays_is_no_success() -> None:
    world = await ours()
    world.hosts.unit(["userdel"], Effect(exit_code=HOME_STAYS, output="home not owned by bob"))
    with pytest.raises(Invalid, match="files of its are not: home not owned"):
        await world.call(wipe_host, WEB, wiping(user="bob"))


async def test_a_link_is_not_followed_and_not_taken_for_what_it_leads_to() -> None:
    world = await ours()
    world.hosts.command(["realpath"], lambda host, argv, stdin: Completed(exit_code=0, stdout="/etc\0", stderr=""))
    world.hosts.command(
        ["realpath", "-m", "-z"], lambda host, argv, stdin: Completed(exit_code=0, stdout="/etc/x\0", stderr="")
    )
    with pytest.raises(Invalid, match="'/srv/link/x' leads to '/etc/x' by a symbolic link; nothing was removed"):
        await world.call(wipe_host, WEB, wiping("/srv/link/x"))
    assert world.hosts.journal == []


@pytest.mark.parametrize("place", ["/srv/data", r"/srv/data/a\040b"])
async def test_what_is_mounted_is_not_removed(place: str) -> None:
    world = await ours()
    world.hosts.host("fake-1").files["/proc/self/mounts"] = f"/dev/sdb1 {place} ext4 rw 0 0\n".encode()
    with pytest.raises(Invalid, match="something is mounted at '/srv/data"):
        await world.call(wipe_host, WEB, wiping("/srv/data"))
    assert world.hosts.journal == []


async def test_what_is_on_a_mounted_disk_can_be_removed() -> None:
    world = await ours()
    world.hosts.unit(FIND, Effect())
    world.hosts.host("fake-1").files["/proc/self/mounts"] = b"/dev/sdb1 /srv/data ext4 rw 0 0\n"
    assert isinstance(await world.call(wipe_host, WEB, wiping("/srv/data/postgres")), Result)


@pytest.mark.parametrize("command", [["realpath", "-m", "-z"], ["getent", "passwd"], ["cat"]])
async def test_what_cannot_be_known_is_not_removed(command: list[str]) -> None:
    world = await ours()
    world.hosts.command(command, lambda host, argv, stdin: Completed(exit_code=1, stdout="", stderr=""))
    with pytest.raises(Unavailable, match="cannot be read"):
        await world.call(wipe_host, WEB, wiping("/srv/data"))
    assert world.hosts.journal == []


async def test_the_home_of_who_logs_in_stays() -> None:
    world = await ours()
    world.hosts.command(
        ["getent", "passwd"],
        lambda host, argv, stdin: Completed(exit_code=0, stdout="root:x:0:0::/home/ops:/bin/sh\n", stderr=""),
    )
    with pytest.raises(Invalid, match="'/home/ops' holds the home of 'root'"):
        await world.call(wipe_host, WEB, wiping("/home/ops"))


async def test_a_wipe_that_runs_is_not_judged_by_what_it_has_done_already() -> None:
    world = await ours()
    world.hosts.unit(FIND, Effect(seconds=3600.0))
    assert isinstance(await world.call(wipe_host, WEB, wiping("/srv/data")), NotYet)
    world.hosts.host("fake-1").files["/proc/self/mounts"] = b"/dev/sdb1 /srv/data ext4 rw 0 0\n"
    assert isinstance(await wipe_host.run(world.context(WEB), wiping("/srv/data")), NotYet)


@pytest.mark.parametrize("path", ["/usr/local/lib", "/usr/local/lib/agentmetal", "/var/lib/agentmetal/claim.json"])
def test_what_removes_does_not_remove_itself(path: str) -> None:
    refusal = wipe_host.holds(wiping(path), FACTS)
    assert isinstance(refusal, Refusal)
    assert repr(path) in refusal.message


@pytest.mark.parametrize("user", ["root", "admin"])
def test_whoever_logs_in_is_not_removed(user: str) -> None:
    refusal = wipe_host.holds(wiping(user=user), FACTS)
    assert isinstance(refusal, Refusal)
    assert repr(user) in refusal.message


@pytest.mark.parametrize(
    "path", ["/", "/srv", "/etc/passwd", "/srv/../etc", "srv/a", "/srv/a b", "/srv/-rf/..", "/srv/"]
)
def test_no_other_paths_are_wiped(path: str) -> None:
    with pytest.raises(Invalid):
        wipe_host.parse({**wiping().wire(), "paths": [path]})


def test_the_command_removes_what_was_named_and_follows_no_link(tmp_path: Path) -> None:
    """The real one: find and rm of this machine, on a directory of the test."""
    root = tmp_path.resolve()
    for name in ("a/b", "a/bb", "elsewhere/x"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text("data")
    (root / "link").symlink_to("elsewhere")
    (root / "a" / "b" / "out").symlink_to(root / "elsewhere")
    paths = [f"{root}/{name}" for name in ("a/b", "link/x", "absent/x")]
    subprocess.run(removal(paths), check=True, timeout=60)
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert left == ["a", "a/bb", "a/bb/file", "elsewhere", "elsewhere/x", "elsewhere/x/file", "link"]
