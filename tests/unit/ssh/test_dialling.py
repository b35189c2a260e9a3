"""Addresses that people write: what is dialled, and what never is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Network, ip_address

import pytest

from agentmetal.clients.ssh.connection import Dial
from agentmetal.clients.ssh.dialling import Address, AddressNotAllowed, CheckedDial, Network, connected, resolved
from agentmetal.core.condition import Reason
from agentmetal.core.errors import Invalid, Unavailable

PODS = IPv4Network("10.42.0.0/16")
LAB = IPv4Network("10.77.0.0/16")


class Line:
    """A network that answers, and remembers who was dialled and what was resolved."""

    def __init__(self, *dead: str, **names: Sequence[str]) -> None:
        self.dead, self.names = dead, names
        self.dialled: list[str] = []
        self.asked: list[str] = []
        self.open: list[socket.socket] = []

    async def resolve(self, name: str) -> Sequence[Address]:
        self.asked.append(name)
        if name not in self.names:
            raise Unavailable(f"{name!r} has no address")
        return tuple(map(ip_address, self.names[name]))

    async def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        self.dialled.append(address)
        if address in self.dead:
            raise Unavailable(f"{address}:{port} does not answer")
        self.open.append(socket.socket(socket.AF_UNIX))
        return self.open[-1]

    def checked(self, *, loopback: bool = False, lab: Line | None = None) -> CheckedDial:
        elsewhere: dict[Network, Dial] = {LAB: lab.dial} if lab else {}
        return CheckedDial(
            forbidden=(PODS,), loopback=loopback, elsewhere=elsewhere, resolve=self.resolve, dial=self.dial
        )


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line("192.0.2.1", web=["192.0.2.7"], two=["192.0.2.1", "2001:db8::2"], trap=["192.0.2.7", "127.0.0.1"])
    yield line
    for one in line.open:
        one.close()


@pytest.mark.parametrize("address", ["192.0.2.7", "10.41.255.255", "2001:db8::7", "169.253.0.1"])
async def test_what_is_allowed_is_dialled_as_it_is(line: Line, address: str) -> None:
    await line.checked()(address, 22, 5.0)

    assert (line.dialled, line.asked) == ([address], [])


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "own host"),
        ("127.9.9.9", "own host"),
        ("::1", "own host"),
        ("::ffff:127.0.0.1", "own host"),
        ("64:ff9b::7f00:1", "own host"),
        ("0.0.0.0", "no host in particular"),  # noqa: S104 - nothing is bound
        ("0.1.2.3", "no host in particular"),
        ("::", "no host in particular"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("224.0.0.1", "many hosts"),
        ("ff02::1", "many hosts"),
        ("255.255.255.255", "many hosts"),
        ("10.42.7.7", "inside 10.42.0.0/16.*forbidden_networks"),
        ("::ffff:10.42.7.7", "inside 10.42.0.0/16"),
    ],
)
async def test_what_is_not_allowed_is_never_dialled(line: Line, address: str, why: str) -> None:
    with pytest.raises(AddressNotAllowed, match=why) as error:
        await line.checked()(address, 22, 5.0)

    assert line.dialled == []
    assert error.value.reason == Reason.ADDRESS_NOT_ALLOWED


async def test_loopback_is_allowed_where_the_settings_say_so(line: Line) -> None:
    await line.checked(loopback=True)("127.0.0.1", 2222, 5.0)

    assert line.dialled == ["127.0.0.1"]


async def test_a_name_is_resolved_once_and_that_very_address_is_dialled(line: Line) -> None:
    await line.checked()("web", 22, 5.0)

    assert (line.asked, line.dialled) == (["web"], ["192.0.2.7"])


async def test_the_next_address_of_a_name_is_tried(line: Line) -> None:
    await line.checked()("two", 22, 5.0)

    assert line.dialled == ["192.0.2.1", "2001:db8::2"]


async def test_a_name_that_also_leads_where_nobody_may_go_is_refused(line: Line) -> None:
    with pytest.raises(AddressNotAllowed, match=r"'trap' \(127.0.0.1\)"):
        await line.checked()("trap", 22, 5.0)

    assert line.dialled == []


async def test_silence_is_told(line: Line) -> None:
    with pytest.raises(Unavailable, match=r"192.0.2.1:22 does not answer"):
        await line.checked()("192.0.2.1", 22, 5.0)
    with pytest.raises(Unavailable, match="'nobody' has no address"):
        await line.checked()("nobody", 22, 5.0)


@pytest.mark.looptime
async def test_a_resolver_that_hangs_costs_the_timeout_only() -> None:
    async def hang(name: str) -> Sequence[Address]:
        await asyncio.Event().wait()
        return ()

    with pytest.raises(Unavailable, match="could not be resolved in time"):
        await CheckedDial(resolve=hang)("web", 22, 5.0)

    assert asyncio.get_running_loop().time() == pytest.approx(5.0)


async def test_the_lab_is_dialled_from_inside_and_nothing_else_is(line: Line) -> None:
    lab = Line()
    checked = line.checked(lab=lab)

    for address in ("10.77.3.4", "192.0.2.7"):
        await checked(address, 22, 5.0)

    assert (lab.dialled, line.dialled) == (["10.77.3.4"], ["192.0.2.7"])
    lab.open[0].close()


async def test_a_real_socket_is_connected_and_a_closed_port_is_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (await connected("127.0.0.1", port, 5.0)).close()

    with pytest.raises(Unavailable, match=f"127.0.0.1:{port} does not answer"):
        await connected("127.0.0.1", port, 5.0)


@pytest.mark.parametrize("name", ["a..b", ".", f"{'x' * 64}.example.com"])
async def test_what_can_be_no_name_is_told_to_its_author(name: str) -> None:
    with pytest.raises(Invalid, match="can be no host's name"):
        await resolved(name)
