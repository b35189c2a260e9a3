"""The way to hosts whose addresses people write: resolved once, checked, and that very address is dialled.

An inventory is written by an editor, and the operator dials from inside the cluster: without this, whoever may edit a
Provider could make it knock at the cluster's own services, at a cloud's metadata, at itself. `agentmetal.providing`
builds the `Dial` of `SshMachines` from it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from agentmetal.clients.ssh.connection import Dial
from agentmetal.core.condition import Reason
from agentmetal.core.errors import Invalid, Unavailable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str], Awaitable[Sequence[Address]]]
"""The addresses of a DNS name."""

THIS_NETWORK = IPv4Network("0.0.0.0/8")
"""Means this host; Linux dials 0.0.0.0 as loopback."""
BROADCAST = IPv4Address("255.255.255.255")
NAT64 = IPv6Network("64:ff9b::/96")
"""IPv4 addresses in IPv6 clothes, for whoever has a gateway that undresses them."""


class AddressNotAllowed(Invalid):
    """An address that the operator may not dial."""

    reason = Reason.ADDRESS_NOT_ALLOWED.value


async def resolved(name: str) -> Sequence[Address]:
    """What the system's resolver says, without doubles. Raises Unavailable, and Invalid for what is no name."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"{name!r} has no address: {error.strerror or error}") from error
    except UnicodeError as error:  # `a..b`, or a part of over 63 characters
        raise Invalid(f"{name!r} can be no host's name: correct the address") from error
    return tuple(dict.fromkeys(ip_address(entry[4][0]) for entry in found))


async def connected(address: str, port: int, timeout: float) -> socket.socket:
    """A connected socket of this network namespace. Raises Unavailable."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):  # TimeoutError is one
            raise Unavailable(f"{address}:{port} does not answer: {error.strerror or 'timed out'}") from error
        raise
    return connection


@dataclass(frozen=True, kw_only=True)
class CheckedDial:
    """Dials allowed addresses only. Implements `Dial`. Raises AddressNotAllowed, Unavailable."""

    forbidden: Sequence[Network] = ()
    loopback: bool = False
    """May this very host be dialled? For development."""
    elsewhere: Mapping[Network, Dial] = field(default_factory=dict)
    """Networks that are dialled in another way: the lab of a development system."""
    resolve: Resolve = resolved
    dial: Dial = connected

    async def __call__(self, address: str, port: int, timeout: float) -> socket.socket:
        """A connected socket to the address, or to the first address of that name that answers."""
        allowed = await self._allowed(address, timeout)
        refusal: Unavailable | None = None
        for one in allowed:
            try:
                return await self._way(one)(str(one), port, timeout / len(allowed))
            except Unavailable as error:
                refusal = error
        raise refusal or Unavailable(f"{address!r} has no address")

    async def _allowed(self, address: str, timeout: float) -> Sequence[Address]:
        """Where a name leads, if all of it is allowed: a name that also leads elsewhere is not to be trusted."""
        try:
            found: Sequence[Address] = (ip_address(address),)
        except ValueError:
            try:
                async with asyncio.timeout(timeout):
                    found = await self.resolve(address)
            except TimeoutError as error:
                raise Unavailable(f"{address!r} could not be resolved in time") from error
        for one in found:
            if why := self._refused(one):
                named = repr(address) if str(one) == address else f"{address!r} ({one})"
                raise AddressNotAllowed(f"address {named} may not be dialled: {why}")
        return found

    def _way(self, address: Address) -> Dial:
        return next((dial for network, dial in self.elsewhere.items() if address in network), self.dial)

    def _refused(self, address: Address) -> str:
        """Why it may not be dialled; empty when it may."""
        plain = _undressed(address)
        if any(address in network for network in self.elsewhere):
            return ""
        if plain.is_loopback:
            return "" if self.loopback else "it is the operator's own host"
        if plain.is_unspecified or plain in THIS_NETWORK:
            return "it means no host in particular"
        if plain.is_link_local:
            return "it is link-local"
        if plain.is_multicast or plain == BROADCAST:
            return "it means many hosts"
        inside = next((network for network in self.forbidden if plain in network), None)
        return f"it is inside {inside}, which the operator's setting forbidden_networks names" if inside else ""


def _undressed(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, else the same."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address
