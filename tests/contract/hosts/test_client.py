"""Claims about the SSH client that need no whole machine: against a server in this process."""

from __future__ import annotations

import asyncio
import socket
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.sshd import OWNER, Cable, Sshd, sshd

from agentmetal.clients.keys import fingerprint, make_key_pair
from agentmetal.clients.ssh import SshMachines
from agentmetal.core.errors import (
    AgentMetalError,
    AuthenticationFailed,
    Forbidden,
    HostKeyMismatch,
    Invalid,
    NotFound,
    Unavailable,
)
from agentmetal.core.machine import SecretKey
from agentmetal.core.resource import Key


class Lost:
    """Collects what `on_lost` was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Key, str]] = []
        self._event = asyncio.Event()

    def __call__(self, owner: Key, reason: str) -> None:
        self.told.append((owner, reason))
        self._event.set()

    async def wait(self, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            await self._event.wait()


@pytest.fixture
async def server() -> AsyncIterator[Sshd]:
    async with sshd() as running:
        yield running


@pytest.fixture
async def cable() -> AsyncIterator[Cable]:
    cable = Cable()
    yield cable
    await cable.close()


@pytest.fixture
def lost() -> Lost:
    return Lost()


@pytest.fixture
async def machines(server: Sshd, cable: Cable, lost: Lost) -> AsyncIterator[SshMachines]:
    machines = SshMachines(server.load_key, cable.dial, lost, cluster="c1", keepalive_interval=0.5)
    yield machines
    await machines.close()


async def test_a_command_tells_its_end_and_both_streams(server: Sshd, machines: SshMachines) -> None:
    host = await machines.connect(server.identity())

    done = await host.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in")

    assert (done.exit_code, done.stdout, done.stderr) == (3, "in", "err\n")


async def test_arguments_arrive_as_they_are(server: Sshd, machines: SshMachines) -> None:
    host = await machines.connect(server.identity())
    arguments = ["$HOME", "a b", "it's", "", "*", "`id`", "\n", "ä"]

    done = await host.run(["printf", "%s|", *arguments])

    assert done.stdout == "".join(f"{argument}|" for argument in arguments)


@pytest.mark.parametrize("argv", [[], [""], ["true", "\0"]])
async def test_what_is_no_command_is_refused_before_anything_is_sent(
    server: Sshd, machines: SshMachines, argv: list[str]
) -> None:
    host = await machines.connect(server.identity())

    with pytest.raises(Invalid):
        await host.run(argv)

    assert server.sessions == 0


async def test_a_killed_command_is_told_as_by_a_shell(server: Sshd, machines: SshMachines) -> None:
    host = await machines.connect(server.identity())

    assert (await host.run(["sh", "-c", "kill -9 $$"])).exit_code != 0


async def test_output_is_bounded_and_the_command_still_ends(server: Sshd, machines: SshMachines) -> None:
    host = await machines.connect(server.identity())

    done = await host.run(["sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; echo end >&2; exit 4"])

    assert (done.exit_code, len(done.stdout), done.stderr) == (4, 65536, "end\n")


async def test_output_that_is_no_text_is_replaced(server: Sshd, machines: SshMachines) -> None:
    host = await machines.connect(server.identity())

    assert (await host.run(["printf", "\\377ok"])).stdout == "\ufffdok"


async def test_a_command_may_leave_its_input_unread(server: Sshd, machines: SshMachines) -> None:
    host = await machines.connect(server.identity())

    assert (await host.run(["true"], stdin=b"x" * 3_000_000)).exit_code == 0


async def test_a_command_that_takes_too_long_is_unavailable_and_ended(
    server: Sshd, machines: SshMachines, tmp_path: Path
) -> None:
    host = await machines.connect(server.identity())
    pid = tmp_path / "pid"

    with pytest.raises(Unavailable, match="not in time"):
        await host.run(["sh", "-c", 'echo $$ >"$1"; exec sleep 60', "sh", str(pid)], timeout=0.5)

    assert (await host.run(["true"])).exit_code == 0
    assert await soon(lambda: ended(int(pid.read_text())))


async def test_eight_sessions_at_once_and_the_rest_waits(server: Sshd, machines: SshMachines, tmp_path: Path) -> None:
    host = await machines.connect(server.identity())
    script = 'd=$(mktemp "$1/XXXXXX"); ls "$1" | wc -l; sleep 0.2; rm "$d"'

    done = await asyncio.gather(*(host.run(["sh", "-c", script, "sh", str(tmp_path)]) for _ in range(20)))

    assert max(int(one.stdout) for one in done) <= 8
    assert all(one.exit_code == 0 for one in done)


async def test_whoever_asks_at_once_shares_one_connection(server: Sshd, machines: SshMachines, cable: Cable) -> None:
    hosts = await asyncio.gather(*(machines.connect(server.identity()) for _ in range(10)))

    assert cable.dialled == len(server.connections) == 1
    assert all(host is hosts[0] for host in hosts)


async def test_who_gives_up_waiting_does_not_end_the_attempt_of_others(
    server: Sshd, machines: SshMachines, cable: Cable
) -> None:
    impatient = asyncio.create_task(machines.connect(server.identity()))
    patient = asyncio.create_task(machines.connect(server.identity()))
    await asyncio.sleep(0)
    impatient.cancel()

    assert (await (await patient).run(["true"])).exit_code == 0
    assert cable.dialled == 1
    assert impatient.cancelled()


async def test_another_pin_is_another_connection(server: Sshd, machines: SshMachines) -> None:
    await machines.connect(server.identity())

    with pytest.raises(HostKeyMismatch):
        await machines.connect(server.identity(pin=make_key_pair("other").public_line))


async def test_a_wrong_host_key_shows_both_fingerprints_and_sends_nothing(server: Sshd, machines: SshMachines) -> None:
    pinned = make_key_pair("pinned")

    with pytest.raises(HostKeyMismatch) as caught:
        await machines.connect(server.identity(pin=pinned.public_line))

    assert pinned.fingerprint in caught.value.message
    assert server.host_key.fingerprint in caught.value.message
    assert (server.logins, server.sessions) == ([], 0)


async def test_a_host_without_a_key_of_the_pinned_kind_is_a_mismatch(lost: Lost) -> None:
    async with sshd(host_key_kind="ecdsa-sha2-nistp256") as server:
        machines = SshMachines(server.load_key, None, lost, cluster="c1")

        with pytest.raises(HostKeyMismatch, match=r"none of that kind"):
            await machines.connect(server.identity())

        assert server.logins == []


async def test_a_wrong_client_key_is_refused_and_tried_again_later(server: Sshd, lost: Lost) -> None:
    keys = [make_key_pair("wrong"), server.client_key]

    async def load(place: SecretKey) -> str:
        return keys.pop(0).private_openssh

    machines = SshMachines(load, None, lost, cluster="c1")

    with pytest.raises(AuthenticationFailed):
        await machines.connect(server.identity())
    assert server.sessions == 0

    assert (await (await machines.connect(server.identity())).run(["true"])).exit_code == 0
    await machines.close()
    assert lost.told == []


async def test_an_unreadable_private_key_names_its_secret_and_not_its_content(server: Sshd, lost: Lost) -> None:
    async def load(place: SecretKey) -> str:
        return "not-a-key-but-secret"

    with pytest.raises(AuthenticationFailed, match="web-1-ssh") as caught:
        await SshMachines(load, None, lost, cluster="c1").connect(server.identity())

    assert "not-a-key-but-secret" not in caught.value.message


async def test_passwords_are_never_offered(lost: Lost) -> None:
    async with sshd(methods=frozenset({"password", "kbdint"})) as server:
        with pytest.raises(AuthenticationFailed):
            await SshMachines(server.load_key, None, lost, cluster="c1").connect(server.identity())

        assert server.logins == []


async def test_a_closed_connection_is_told_at_once_and_made_anew(
    server: Sshd, machines: SshMachines, lost: Lost
) -> None:
    host = await machines.connect(server.identity())
    server.hang_up()
    await lost.wait(1.0)

    assert [owner for owner, _ in lost.told] == [OWNER]
    with pytest.raises(Unavailable):
        await host.run(["true"])
    assert (await (await machines.connect(server.identity())).run(["true"])).exit_code == 0


async def test_a_connection_lost_under_a_command_is_unavailable(
    server: Sshd, machines: SshMachines, lost: Lost, tmp_path: Path
) -> None:
    host = await machines.connect(server.identity())
    running = asyncio.create_task(host.run(["sh", "-c", 'touch "$1"; sleep 30', "sh", str(tmp_path / "runs")]))
    assert await soon((tmp_path / "runs").exists)

    server.hang_up()

    with pytest.raises(Unavailable):
        await running
    assert len(lost.told) == 1


async def test_a_frozen_host_is_told_by_keepalive(
    server: Sshd, machines: SshMachines, cable: Cable, lost: Lost
) -> None:
    host = await machines.connect(server.identity())
    cable.freeze()
    began = time.monotonic()

    with pytest.raises(Unavailable):
        await host.run(["true"], timeout=5.0)
    await lost.wait(2.0)

    assert time.monotonic() - began < 2.0
    assert lost.told[0][0] == OWNER


async def test_a_host_that_answers_nothing_is_given_up_in_time(machines: SshMachines, server: Sshd) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    identity = replace(server.identity(), port=silent.getsockname()[1])
    began = time.monotonic()

    with silent, pytest.raises(Unavailable, match="not in time"):
        await machines.connect(identity)

    assert time.monotonic() - began < 6.0


async def test_a_host_that_did_not_answer_costs_a_second_the_next_time(
    server: Sshd, machines: SshMachines, cable: Cable, lost: Lost
) -> None:
    cable.pulled = True
    with pytest.raises(Unavailable, match="pulled"):
        await machines.connect(server.identity())
    cable.pulled = False
    cable.freeze()
    began = time.monotonic()

    with pytest.raises(Unavailable, match="still does not answer"):
        await machines.connect(server.identity())
    assert time.monotonic() - began < 2.0

    cable.thaw()  # the attempt went on meanwhile
    await lost.wait(5.0)
    assert lost.told == [(OWNER, "the host answers again")]
    assert (await (await machines.connect(server.identity())).run(["true"])).exit_code == 0
    assert cable.dialled == 2


async def test_a_refused_connection_is_unavailable(server: Sshd, lost: Lost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(Unavailable):
        await SshMachines(server.load_key, None, lost, cluster="c1").connect(replace(server.identity(), port=port))


async def test_forgetting_closes_what_nobody_else_uses_and_tells_nobody(
    server: Sshd, machines: SshMachines, lost: Lost, cable: Cable
) -> None:
    other = Key("Provider", "default", "lab")
    host = await machines.connect(server.identity())
    assert await machines.connect(server.identity(owner=other)) is host
    assert cable.dialled == 1

    await machines.forget(OWNER)
    assert (await host.run(["true"])).exit_code == 0
    await machines.forget(other)

    with pytest.raises(Unavailable):
        await host.run(["true"])
    assert lost.told == []


async def test_every_owner_is_told_of_a_lost_connection(server: Sshd, machines: SshMachines, lost: Lost) -> None:
    owners = [OWNER, Key("Provider", "default", "lab"), Key("Instance", "default", "web-2")]
    for owner in owners:
        await machines.connect(server.identity(owner=owner))
    await machines.forget(owners[2])

    server.hang_up()
    await lost.wait(1.0)
    await asyncio.sleep(0)

    assert sorted(owner for owner, _ in lost.told) == sorted(owners[:2])


async def test_another_client_key_is_another_connection(server: Sshd, machines: SshMachines, cable: Cable) -> None:
    next_key = replace(server.identity().client_key, key="next")

    one = await machines.connect(server.identity())
    two = await machines.connect(replace(server.identity(), client_key=next_key))

    assert (one is two, cable.dialled) == (False, 2)


async def test_who_is_forgotten_while_others_wait_too_ends_nothing_for_them(
    server: Sshd, machines: SshMachines, cable: Cable
) -> None:
    other = Key("Provider", "default", "lab")
    cable.freeze()
    mine = asyncio.create_task(machines.connect(server.identity()))
    theirs = asyncio.create_task(machines.connect(server.identity(owner=other)))
    assert await soon(lambda: cable.dialled == 1)

    await machines.forget(OWNER)
    cable.thaw()

    with pytest.raises(Unavailable, match="forgotten"):
        await mine
    assert (await (await theirs).run(["true"])).exit_code == 0


async def test_a_connection_made_anew_while_the_old_one_closes_is_kept(
    server: Sshd, machines: SshMachines, cable: Cable
) -> None:
    await machines.connect(server.identity())
    forgetting = asyncio.create_task(machines.forget(OWNER))
    await asyncio.sleep(0)
    anew = await machines.connect(server.identity())
    await forgetting

    assert await machines.connect(server.identity()) is anew
    assert (await anew.run(["true"])).exit_code == 0


async def test_the_shown_key_is_told_and_nobody_logs_in(server: Sshd, machines: SshMachines) -> None:
    pinned = make_key_pair("pinned")

    shown = await machines.shown_host_key(server.identity(pin=pinned.public_line))

    assert fingerprint(shown) == server.host_key.fingerprint
    assert (server.logins, server.sessions) == ([], 0)


async def test_a_shown_key_of_another_kind_is_told_too(lost: Lost) -> None:
    async with sshd(host_key_kind="ecdsa-sha2-nistp256") as server:
        shown = await SshMachines(server.load_key, None, lost, cluster="c1").shown_host_key(server.identity())

        assert shown.startswith("ecdsa-sha2-nistp256 ")
        assert server.logins == []


async def test_forgetting_while_connecting_ends_the_attempt(server: Sshd, machines: SshMachines, cable: Cable) -> None:
    cable.freeze()
    connecting = asyncio.create_task(machines.connect(server.identity()))
    assert await soon(lambda: cable.dialled == 1)

    await machines.forget(OWNER)

    with pytest.raises(Unavailable, match="forgotten"):
        await connecting


async def test_a_file_is_replaced_whole(server: Sshd, machines: SshMachines, tmp_path: Path) -> None:
    host = await machines.connect(server.identity())
    target = tmp_path / "new dir" / "it's $HOME"
    await host.write_file(str(target), b"old")

    with target.open("rb") as reader:
        await host.write_file(str(target), b"new\0\xff", mode=0o600)
        assert reader.read() == b"old"

    assert target.read_bytes() == b"new\0\xff"
    assert target.stat().st_mode & 0o777 == 0o600
    assert names(target.parent) == [target.name]


async def test_one_of_many_creates_the_file_and_all_are_told_what_it_holds(
    server: Sshd, machines: SshMachines, tmp_path: Path
) -> None:
    host = await machines.connect(server.identity())
    target = tmp_path / "claim"

    told = await asyncio.gather(*(host.create_file(str(target), f"claim {n}".encode()) for n in range(6)))

    assert set(told) == {target.read_bytes()}
    assert names(tmp_path) == ["claim"]


async def test_removing_twice_is_as_good_as_once(server: Sshd, machines: SshMachines, tmp_path: Path) -> None:
    host = await machines.connect(server.identity())
    (tmp_path / "f").write_text("")

    await host.remove_file(str(tmp_path / "f"))
    await host.remove_file(str(tmp_path / "f"))

    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("path", ["relative", "/", "/a/../b", "/a\0b", ""])
async def test_a_path_must_be_absolute_and_plain(server: Sshd, machines: SshMachines, path: str) -> None:
    host = await machines.connect(server.identity())

    with pytest.raises(Invalid):
        await host.write_file(path, b"")


@pytest.mark.parametrize(("path", "error"), [("/proc/1/nowhere/f", (NotFound, Forbidden, Unavailable))])
async def test_a_file_that_cannot_be_written_is_an_error_of_ours(
    server: Sshd, machines: SshMachines, path: str, error: tuple[type[AgentMetalError], ...]
) -> None:
    host = await machines.connect(server.identity())

    with pytest.raises(error):
        await host.write_file(path, b"x")


HOSTILE = """
    import asyncio, os, sys
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    from agentmetal.clients.ssh import SshMachines
    from agentmetal.core.errors import AgentMetalError
    from agentmetal.core.machine import MachineIdentity, SecretKey
    from agentmetal.core.resource import Key

    async def load(place):
        return sys.argv[3]

    async def main():
        owner, secret = Key("Instance", "d", "n"), SecretKey(namespace="d", name="n", key="k")
        identity = MachineIdentity(owner=owner, server_id="s", address="127.0.0.1", port=int(sys.argv[1]), user="root",
                                   host_key=sys.argv[2], client_key=secret)
        machines = SshMachines(load, None, print, cluster="c1")
        print((await machines.shown_host_key(identity)).split()[0])
        try:
            print((await (await machines.connect(identity)).run(["echo", "reached"])).stdout.strip())
        except AgentMetalError as error:
            print(error.reason)
        await machines.close()
        print([path for path in opened if path.startswith(os.environ["HOME"])])

    asyncio.run(main())
"""


@pytest.mark.parametrize("right_pin", [True, False])
async def test_nothing_of_a_hostile_home_is_used(server: Sshd, tmp_path: Path, right_pin: bool) -> None:
    agent_calls: list[str] = []
    agent = await hostile_home(tmp_path, server, agent_calls)
    pin = server.host_key.public_line if right_pin else make_key_pair("pinned").public_line
    key = server.client_key.private_openssh if right_pin else make_key_pair("wrong").private_openssh

    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(HOSTILE), str(server.port), pin, key),
        env={
            "HOME": str(tmp_path),
            "SSH_AUTH_SOCK": str(tmp_path / "agent"),
            "PATH": "/usr/bin:/bin",
            "LOGNAME": "root",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    async with agent:
        out, _ = await child.communicate()

    assert out.decode().splitlines() == ["ssh-ed25519", "reached" if right_pin else "HostKeyMismatch", "[]"]
    assert not (tmp_path / "proxied").exists()
    assert agent_calls == []


async def hostile_home(home: Path, server: Sshd, calls: list[str]) -> asyncio.Server:
    """A home whose SSH set-up would send a careless client somewhere else, and an agent that notes its calls."""
    ssh = home / ".ssh"
    ssh.mkdir()
    (ssh / "config").write_text(
        f"Host *\n  ProxyCommand touch {home}/proxied\n  User nobody\n  Port 1\n  StrictHostKeyChecking no\n"
        f"  ForwardAgent yes\n  UserKnownHostsFile {ssh}/known_hosts\n"
    )
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {server.host_key.public_line}\n")
    (ssh / "id_ed25519").write_text(server.client_key.private_openssh)
    (ssh / "ca-bundle.crt").write_text("not a certificate")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append("asked")
        writer.close()

    return await asyncio.start_unix_server(answer, home / "agent")


def ended(pid: int) -> bool:
    """Gone, or only waiting for somebody to take note."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b""
    except FileNotFoundError:
        return True


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def soon(true: Callable[[], bool], timeout: float = 5.0) -> bool:
    """Whether it becomes true in time. For effects of other processes, which nobody announces."""
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True
