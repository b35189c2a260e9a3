"""Tools for floating addresses that hosts hold by themselves: hold one on a host, drop it, and look who has it.

Planned by the agents of services, run by the executor. `address_program.py` is what then runs on the host: it renews
the address only while a condition succeeds, so a host that is dead, frozen or wrong loses it without our doing.
An address is held where a plan says so; it is never moved by anything that runs on a host.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from agentmetal.core.condition import Reason
from agentmetal.core.errors import (
    AuthenticationFailed,
    ClaimedByOther,
    CommandFailed,
    HostKeyMismatch,
    Invalid,
    NotFound,
    Unavailable,
)
from agentmetal.core.machine import Completed, Floating, FloatingIp, ServerState, Ssh
from agentmetal.core.resource import ApiModel
from agentmetal.core.tool import NotYet, Refusal, Result, StepEnd, ToolContext, tool
from agentmetal_tools.address_program import HOME, digest, unit_of
from agentmetal_tools.hosts import POLL, READ_TIMEOUT, clean, end_of
from agentmetal_tools.risks import risk_of
from agentmetal_tools.servers import HostPorts, InstanceHost, locate, locks, visit

PROGRAM = PurePosixPath("/usr/local/lib/agentmetal/agentmetal-address")
LATE = 2
"""Seconds that a kernel may be late: nobody has an address this long after its lifetime. Wait for that, not less."""
_PYTHON = ("python3", "-I", str(PROGRAM))
_UNABLE = "it cannot hold a floating address"


def _ipv4(text: str) -> str:
    address = ipaddress.IPv4Address(text)  # raises ValueError, which pydantic reports
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        raise ValueError(f"{text} cannot move between hosts: give a unicast address of their network")
    return str(address)


Ipv4 = Annotated[str, Field(min_length=7, max_length=15), AfterValidator(_ipv4)]
Argument = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]


class AddressParams(ApiModel):
    """Which address, on which host."""

    host: InstanceHost = Field(description="The host.")
    address: Ipv4 = Field(description="The floating IPv4 address; the Provider must list it.")


class HoldParams(AddressParams):
    """How it is held."""

    epoch: int = Field(ge=1, le=2**53, description="Grows with every move: a host refuses an older one than it has.")
    lifetime_seconds: int = Field(
        ge=3, le=300, description="It is gone so long after the start of the last check that succeeded."
    )
    condition: tuple[Argument, ...] = Field(
        min_length=1, max_length=16, description="Run on the host every third of the lifetime; exit code 0: keep it."
    )
    device: str = Field(
        default="",
        max_length=15,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$",
        description="The network device; empty: the one in the same network.",
    )
    rivals: tuple[InstanceHost, ...] = Field(
        default=(), max_length=16, description="Hosts that may have it now; taking it from one is a failover."
    )


@dataclass(frozen=True, kw_only=True)
class AddressLook:
    """What a host says about one address. Untrusted: shown and compared, never executed or used as a path."""

    holds: bool = False
    """The kernel has it, for a bounded time."""
    permanent: bool = False
    """The kernel has it for ever: somebody else configured it."""
    running: bool = False
    """The unit runs; it may well wait for its condition."""
    installed: bool = False
    """Something of ours is there."""
    device: str = ""
    epoch: int = 0
    """Of the last order to hold it; 0 when there was none since the host booted."""
    since: str = ""
    check: str = ""
    """What is wrong with the condition, or else keeps it from being held; empty when all is well."""
    rival: str = ""
    """The hardware address of somebody else who answers for it, too."""
    undisputed: bool = False
    """Nobody else has answered for it for a while: what is sent to it ends here."""
    digest: str = ""
    """What program and configuration the unit runs by."""
    lacks: str = ""
    """What the host would need."""

    def __str__(self) -> str:
        if self.permanent:
            return "it is configured there for good"
        if self.holds:
            return f"held since {self.since}" + (f", {self.rival} answers for it, too" if self.rival else "")
        return f"waiting: {self.check}" if self.running and self.check else "not held"


@dataclass(frozen=True, kw_only=True)
class AddressFacts:
    """Where the address is."""

    here: AddressLook
    elsewhere: tuple[str, ...] = ()
    """Instances whose hosts have it, or may have it: those that run and do not answer."""
    offered: bool = True
    """The Provider lists it."""
    floating: Floating = Floating.LOCAL

    def __str__(self) -> str:
        there = f"; {', '.join(self.elsewhere)} has it or may have it" if self.elsewhere else ""
        return f"{self.here}{there}"


def address_facts(
    here: AddressLook, address: str, offered: Iterable[FloatingIp], floating: Floating, elsewhere: Sequence[str] = ()
) -> AddressFacts:
    """The facts as seen; for planning and for running alike."""
    listed = any(each.address == address for each in offered)
    return AddressFacts(here=here, elsewhere=tuple(elsewhere), offered=listed, floating=floating)


# -- looking -----------------------------------------------------------------------------------------------------------


class _Info(BaseModel):
    local: str = ""
    valid_life_time: int = 0
    prefixlen: int = 32

    @property
    def seconds(self) -> int:
        """Its lifetime. In a network it is the host's own, also where a lease of DHCP gives it one."""
        return self.valid_life_time if self.prefixlen == 32 else _FOREVER


class _Link(BaseModel):
    ifname: str = Field(default="", max_length=15)
    addr_info: list[_Info] = Field(default=[], max_length=1024)


_LINKS = TypeAdapter(list[_Link])
_FOREVER = 2**32 - 1


async def look_address(host: Ssh, address: str) -> AddressLook:
    """Ask a host about one address. Raises Unavailable when it stops answering."""
    shown = await host.run(["ip", "-j", "-4", "addr", "show"], timeout=READ_TIMEOUT)
    told = await host.run(["cat", "--", _state_path(address)], timeout=READ_TIMEOUT)
    unit = await host.run(["systemctl", "is-active", "--", unit_of(address)], timeout=READ_TIMEOUT)
    program = await host.run(["test", "-e", str(PROGRAM)], timeout=READ_TIMEOUT)
    device, lifetime = ("", 0) if shown.exit_code == 127 else _where(shown, address)
    state = _state(told.stdout) if told.exit_code == 0 else {}
    return AddressLook(
        holds=bool(device) and lifetime != _FOREVER,
        permanent=bool(device) and lifetime == _FOREVER,
        running=unit.exit_code == 0,
        installed=program.exit_code == 0 or told.exit_code == 0,
        device=device,
        epoch=_number(state.get("epoch", "")),
        since=state.get("since", ""),
        check=state.get("check", ""),
        rival=state.get("rival", ""),
        undisputed=bool(device) and state.get("undisputed") == "yes",
        digest=state.get("digest", ""),
        lacks="iproute2" if shown.exit_code == 127 else "",
    )


async def find_holders(
    ports: HostPorts, namespace: str, address: str, hosts: Sequence[InstanceHost]
) -> tuple[str, ...]:
    """The Instances among these whose hosts have the address, or run and cannot be asked. Unknown counts as having."""
    found = await asyncio.gather(*(_may_hold(ports, namespace, address, host) for host in hosts))
    return tuple(sorted(host.instance for host, holds in zip(hosts, found, strict=True) if holds))


async def _may_hold(ports: HostPorts, namespace: str, address: str, host: InstanceHost) -> bool:
    """Only its provider can say that a host is off, and only one that makes servers that it is gone."""
    provider = await ports.providers.of(namespace, host.provider)
    server = await locate(provider, host.server, host.server_id)
    if server is None or server.state is ServerState.STOPPED:
        return server is None and not provider.capabilities.makes_servers
    try:
        look = await look_address(await visit(ports, namespace, host), address)
    except (Unavailable, HostKeyMismatch, AuthenticationFailed, ClaimedByOther, NotFound):
        return True
    return look.holds or look.permanent


def _where(shown: Completed, address: str) -> tuple[str, int]:
    """The device that has the address, and for how long. Raises Unavailable: what is not understood proves nothing."""
    try:
        links = _LINKS.validate_json(shown.stdout)
    except ValidationError as error:
        said = clean(shown.stderr or shown.stdout, 200)
        raise Unavailable(f"`ip -j addr` of the host is not understood, is it iproute2's? {said!r}") from error
    found = [(link.ifname, info.seconds) for link in links for info in link.addr_info if info.local == address]
    device, lifetime = max(found, key=lambda each: each[1], default=("", 0))
    return clean(device, 15), lifetime


def _state(text: str) -> Mapping[str, str]:
    """What the program wrote down, printable and bounded."""
    lines = [line.partition("=") for line in text[:4096].splitlines()[:32]]
    return {name: clean(value, 256) for name, _, value in lines}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else 0


def _state_path(address: str) -> str:
    return f"{HOME}/{address}.state"


def _conf_path(address: str) -> str:
    return f"{HOME}/{address}.conf"


# -- the tools ---------------------------------------------------------------------------------------------------------


async def _read(ctx: ToolContext, params: AddressParams) -> AddressFacts:
    namespace = ctx.resource.metadata.namespace
    provider = await ctx.providers.of(namespace, params.host.provider)
    rivals = [each for each in params.rivals if each != params.host] if isinstance(params, HoldParams) else []
    here, elsewhere, offered = await asyncio.gather(
        _look_here(ctx, params),
        find_holders(ctx, namespace, params.address, rivals),
        provider.list_floating_ips(),
    )
    return address_facts(here, params.address, offered, provider.capabilities.floating, elsewhere)


async def _look_here(ctx: ToolContext, params: AddressParams) -> AddressLook:
    return await look_address(await _host(ctx, params), params.address)


async def _host(ctx: ToolContext, params: AddressParams) -> Ssh:
    return await visit(ctx, ctx.resource.metadata.namespace, params.host)


def _locks(params: AddressParams) -> tuple[str, ...]:
    return (*locks(params.host), f"address/{params.address}")


def holdable(params: HoldParams, facts: AddressFacts) -> Refusal | None:
    """The Provider offers it, and nobody has a better right to it on that host."""
    address, instance = params.address, params.host.instance
    if facts.floating is Floating.NONE:
        message = f"Provider {params.host.provider!r} has no floating addresses"
        return Refusal(reason=Reason.NOT_SUPPORTED, message=message)
    if not facts.offered:
        message = f"Provider {params.host.provider!r} does not list the floating address {address!r}: add it there"
        return Refusal(reason=Reason.ADDRESS_NOT_ALLOWED, message=message)
    if facts.here.lacks:
        message = f"the host of {instance!r} lacks {facts.here.lacks}: install it, without it {_UNABLE}"
        return Refusal(reason=Reason.NOT_SUPPORTED, message=message)
    if facts.here.permanent:
        message = f"{address!r} is configured on the host of {instance!r} for good: remove it there, or use another"
        return Refusal(reason=Reason.CLAIMED_BY_OTHER, message=message)
    if facts.here.epoch > params.epoch:
        message = f"the host of {instance!r} was told to hold {address!r} by epoch {facts.here.epoch} already"
        return Refusal(reason=Reason.CLAIMED_BY_OTHER, message=message)
    return None


def _anyway(params: AddressParams, facts: AddressFacts) -> None:
    """Letting go is always allowed."""


def _hold(params: HoldParams) -> str:
    return (
        f"Hold {params.address} on the host of Instance {params.host.instance!r} (epoch {params.epoch}) as long as"
        f" {' '.join(params.condition)!r} succeeds there, at most {params.lifetime_seconds} s longer"
    )


def _drop(params: AddressParams) -> str:
    return f"Take {params.address} off the host of Instance {params.host.instance!r}"


async def _forget_units(ctx: ToolContext, params: AddressParams) -> None:
    await (await _host(ctx, params)).forget_units(ctx.operation)


@tool(
    read=_read,
    risk=risk_of("hold_address"),
    holds=holdable,
    render=_hold,
    locks=_locks,
    idempotent=True,
    patience=300.0,
    releases_while_waiting=True,
    proposable=False,
    clean_up=_forget_units,
)
async def hold_address(ctx: ToolContext, params: HoldParams) -> StepEnd:
    """Hold a floating address on a host as long as a condition succeeds there; ends once it is held."""
    host, conf = await _host(ctx, params), conf_of(params)
    look = await look_address(host, params.address)
    if not look.running or look.digest != digest(conf, program()):
        await _install(host, params)
        await host.write_file(_conf_path(params.address), conf)
        doing = f"starting to hold {params.address}"
        state = await ctx.unit(host, (*_PYTHON, "hold", params.address), timeout=30.0)
        if not isinstance(ended := end_of(state, doing=doing, done=doing), Result):
            return ended
        look = await look_address(host, params.address)
        if not look.running:
            raise CommandFailed(f"{unit_of(params.address)!r} does not run: see its journal on the host")
    if not look.holds or look.digest != digest(conf, program()):
        return NotYet(again_in=POLL, message=f"{params.address} is not held yet: {look.check or 'it is being checked'}")
    provider = await ctx.providers.of(ctx.resource.metadata.namespace, params.host.provider)
    server = await locate(provider, params.host.server, params.host.server_id)
    if server is not None:
        await provider.assign_floating_ip(params.address, server.id)
    return Result(message=f"{params.address} is held on {look.device!r} since {look.since}")


@tool(
    read=_read,
    risk=risk_of("drop_address"),
    holds=_anyway,
    render=_drop,
    locks=_locks,
    idempotent=True,
    proposable=False,
    clean_up=_forget_units,
)
async def drop_address(ctx: ToolContext, params: AddressParams) -> StepEnd:
    """Take a floating address off a host at once, with all that held it there."""
    await _unassign(ctx, params)
    host = await _host(ctx, params)
    look = await look_address(host, params.address)
    if look.installed:
        argv = (*_PYTHON, "drop", params.address)
        return end_of(
            await ctx.unit(host, argv, timeout=30.0),
            doing=f"taking {params.address} off",
            done=f"{params.address} is not held by {params.host.instance!r} any more",
        )
    if look.holds:  # nothing renews it
        return NotYet(again_in=POLL, message=f"{params.address} lapses by itself")
    return Result(message=f"{params.address} is not held by {params.host.instance!r}")


# -- parts of tools ----------------------------------------------------------------------------------------------------


def program() -> bytes:
    """The program, as it is installed on hosts."""
    return files(__package__).joinpath("address_program.py").read_bytes()


def conf_of(params: HoldParams) -> bytes:
    """What the program reads."""
    values = {
        "address": params.address,
        "epoch": params.epoch,
        "lifetime": params.lifetime_seconds,
        "device": params.device,
    }
    lines = [f"{name}={value}" for name, value in values.items()] + [f"condition={each}" for each in params.condition]
    return "".join(f"{line}\n" for line in lines).encode()


async def _install(host: Ssh, params: HoldParams) -> None:
    """Put the program on the host, and ask it whether it can work there. Raises Invalid with what is missing."""
    await host.write_file(str(PROGRAM), program(), mode=0o755)
    checked = await host.run([*_PYTHON, "check"])
    if checked.exit_code == 127:
        raise Invalid(f"the host of {params.host.instance!r} lacks python3: install python3-minimal, else {_UNABLE}")
    if checked.exit_code != 0:
        said = clean(checked.stderr, 256)
        raise Invalid(f"the host of {params.host.instance!r} is not fit, {_UNABLE}: {said}")


async def _unassign(ctx: ToolContext, params: AddressParams) -> None:
    """Its provider sends nothing there any more, if it did."""
    provider = await ctx.providers.of(ctx.resource.metadata.namespace, params.host.provider)
    if provider.capabilities.floating is not Floating.ROUTED:
        return
    server = await locate(provider, params.host.server, params.host.server_id)
    there = {each.address: each.server_id for each in await provider.list_floating_ips()}
    if server is not None and there.get(params.address) == server.id:
        await provider.unassign_floating_ip(params.address)
