"""The development fleet as a provider of servers: real systemd machines on this computer. Built by `app.py`.

It translates between the provider protocol and the fleet, and checks what was ordered. Its users are root on this
computer, so it exists only in development mode.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from agentmetal.core.errors import ClaimedByOther, Invalid, NotFound
from agentmetal.core.machine import (
    Capabilities,
    Floating,
    FloatingIp,
    Location,
    OwnerTag,
    Server,
    ServerSpec,
    ServerType,
    Unusable,
)
from agentmetal.providers.nspawn.fleet import Fleet, Machine
from agentmetal.providers.nspawn.images import RECIPES, recipe_of, runs_cloud_init
from agentmetal.providers.nspawn.record import FLOATING, SIZES

LOCATION = "local"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class NspawnProvider:
    """Hands out machines of a fleet. Implements `core.machine.ServerProvider`; lists are never late."""

    def __init__(self, directory: Path, *, at_most: int | None = None) -> None:
        self.fleet = Fleet(directory, at_most=at_most)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(hosts=True, resize=True, rescue=True, floating=Floating.LOCAL)

    async def list_servers(self) -> tuple[Server, ...]:
        return tuple(_server(machine) for machine in await self.fleet.machines())

    async def find_server(self, name: str) -> Server | None:
        return next((server for server in await self.list_servers() if server.name == name), None)

    async def get_server(self, server_id: str) -> Server:
        return _server(await self._machine(server_id))

    async def provision_server(self, spec: ServerSpec) -> Server:
        _check(spec)
        return _server(await self.fleet.create(spec))

    async def decommission_server(self, server_id: str, owner: OwnerTag) -> None:
        try:
            machine = await self._machine(server_id)
        except NotFound:
            return
        if machine.record.owner != str(owner):
            raise ClaimedByOther(f"server {server_id!r} belongs to {machine.record.owner!r}: it is not ours to delete")
        await self.fleet.remove(machine.record.name)

    async def start_server(self, server_id: str) -> None:
        await self.fleet.start(await self._name(server_id))

    async def stop_server(self, server_id: str, *, force: bool = False) -> None:
        name = await self._name(server_id)
        await self.fleet.stop(name)
        if force:
            await self.fleet.kill(name)

    async def reboot_server(self, server_id: str, *, force: bool = False) -> None:
        name = await self._name(server_id)
        await (self.fleet.reset(name) if force else self.fleet.reboot(name))

    async def rebuild_server(self, server_id: str, spec: ServerSpec) -> None:
        _check(spec)
        machine = await self._machine(server_id)
        if machine.record.owner != str(spec.owner):
            raise ClaimedByOther(f"server {server_id!r} belongs to {machine.record.owner!r}: it is not ours to rebuild")
        await self.fleet.rebuild(machine.record.name, spec)

    async def adopt_server(self, server_id: str, name: str, owner: OwnerTag, *, was: OwnerTag | None) -> Server:
        """It keeps its own name: its directory is called so, and its supervisor lives there."""
        await self.fleet.adopt(await self._name(server_id), owner, was=was)
        return await self.get_server(server_id)

    async def resize_server(self, server_id: str, type: str) -> None:
        name = await self._name(server_id)
        _check_type(type)
        await self.fleet.resize(name, type)

    async def rescue_server(self, server_id: str) -> None:
        await self.fleet.rescue(await self._name(server_id))

    def runs_cloud_init(self, image: str) -> bool:
        return image in RECIPES and runs_cloud_init(image)

    async def list_unusable(self) -> tuple[Unusable, ...]:
        return ()

    async def list_floating_ips(self) -> tuple[FloatingIp, ...]:
        return tuple(FloatingIp(address=address) for address in FLOATING)

    async def assign_floating_ip(self, address: str, server_id: str) -> None:
        _check_floating(address)
        await self._machine(server_id)

    async def unassign_floating_ip(self, address: str) -> None:
        _check_floating(address)

    async def list_server_types(self) -> tuple[ServerType, ...]:
        return tuple(
            ServerType(name=name, vcpus=size.vcpus, memory_mb=size.memory_mb, disk_gb=size.disk_gb)
            for name, size in SIZES.items()
        )

    async def list_images(self) -> tuple[str, ...]:
        return tuple(sorted(RECIPES))

    async def list_locations(self) -> tuple[Location, ...]:
        return (Location(name=LOCATION, description="this computer"),)

    async def close(self) -> None:
        """Nothing is kept: machines outlive whoever asked for them."""

    async def _machine(self, server_id: str) -> Machine:
        for machine in await self.fleet.machines():
            if machine.record.id == server_id:
                return machine
        raise NotFound(f"server {server_id!r} does not exist (any more)")

    async def _name(self, server_id: str) -> str:
        return (await self._machine(server_id)).record.name


def _check(spec: ServerSpec) -> None:
    """Refuse what cannot be made, with what can."""
    for what, name in (("name", spec.name), ("hostname", spec.hostname or spec.name)):
        if not _NAME.fullmatch(name):
            raise Invalid(f"{what} {name!r} is not a host name: use up to 63 of a-z, 0-9 and -")
    _check_type(spec.type)
    if spec.location not in ("", LOCATION):
        raise Invalid(f"location {spec.location!r} does not exist: use {LOCATION!r}")
    if spec.failure_domain:
        raise Invalid(f"failure domain {spec.failure_domain!r} does not exist: all machines fail with this computer")
    if spec.labels:
        raise Invalid(f"machines have no labels, asked for was {', '.join(spec.labels)}: leave them out")
    if spec.user_data and not runs_cloud_init(spec.image):
        raise Invalid(f"image {spec.image!r} has no cloud-init for the user data: use another image")
    recipe_of(spec.image)


def _check_type(type: str) -> None:
    if type not in SIZES:
        raise Invalid(f"server type {type!r} does not exist: use one of {', '.join(SIZES)}")


def _check_floating(address: str) -> None:
    if address not in FLOATING:
        raise NotFound(f"floating address {address!r} does not exist: use one of {FLOATING[0]} to {FLOATING[-1]}")


def _server(machine: Machine) -> Server:
    record = machine.record
    return Server(
        id=record.id,
        name=record.name,
        owner=machine.owner,
        type=record.type,
        image=record.image,
        location=LOCATION,
        state=machine.state,
        addresses=(record.address,),
        host_key=record.host_key,
        rescue=machine.rescue,
        created_at=datetime.fromisoformat(record.created_at),
    )
