"""What the inventory of a Provider says, as plain data. Read by the rest of this package; asks nobody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from agentmetal.core.machine import ServerSpec
from agentmetal.providers.registry import Account

BLOCK = "ssh"
IMAGE = "existing"
"""The one image: what is on the host already."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a host is and how it proves who it is. What is known of a host is known of its place."""

    name: str
    address: str
    port: int
    user: str
    host_key: str
    """Type and key, without the comment: editing that changes nothing."""

    @property
    def lock(self) -> str:
        """The name of the lock on this host, whatever inventories call it."""
        return sha256(self.host_key.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine that exists."""

    place: Place
    type: str
    location: str
    failure_domain: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called here; the id of the server."""
        return self.place.name

    def fits(self, spec: ServerSpec) -> bool:
        """Is it what was ordered?"""
        return (
            self.type == spec.type
            and spec.location in ("", self.location)
            and spec.failure_domain in ("", self.failure_domain)
            and all(self.labels.get(name) == value for name, value in spec.labels.items())
        )


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The hosts of a Provider, and the addresses that may move between them."""

    hosts: Mapping[str, Host]
    floating: tuple[str, ...] = ()
    same_machine: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each host that another entry describes, too (by address or host key): those others' names."""

    @classmethod
    def of(cls, account: Account) -> Inventory:
        """What the block says."""
        block = account.block(BLOCK)
        hosts = {entry["name"]: _host(entry) for entry in block.get("hosts", ())}
        return cls(
            hosts=hosts,
            floating=tuple(block.get("floatingAddresses", ())),
            same_machine=_same(hosts.values()),
        )

    @property
    def places(self) -> tuple[Place, ...]:
        """Where they all are."""
        return tuple(host.place for host in self.hosts.values())

    def in_order_for(self, spec: ServerSpec) -> list[Host]:
        """The hosts that fit, in an order of the owner's own: who orders at the same time begins at another one."""
        barred = {*self.same_machine, *spec.avoid}
        fitting = [host for host in self.hosts.values() if host.fits(spec) and host.name not in barred]
        return sorted(fitting, key=lambda host: sha256(f"{spec.owner.uid}/{host.name}".encode()).digest())


def _host(entry: Mapping[str, Any]) -> Host:
    place = Place(
        name=entry["name"],
        address=entry["address"],
        port=entry["port"],
        user=entry["user"],
        host_key=" ".join(entry["hostKey"].split()[:2]),
    )
    return Host(
        place=place,
        type=entry["type"],
        location=entry["location"],
        failure_domain=entry.get("failureDomain") or place.name,
        labels=entry["labels"],
    )


def _same(hosts: Iterable[Host]) -> dict[str, tuple[str, ...]]:
    by_mark: dict[object, list[str]] = defaultdict(list)
    for host in hosts:
        by_mark[host.place.address.lower(), host.place.port].append(host.name)
        by_mark[host.place.host_key].append(host.name)
    return groups(by_mark.values())


def groups(named: Iterable[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """For each name that shares a group with others: those others, sorted."""
    others: dict[str, set[str]] = defaultdict(set)
    for names in named:
        for name in names:
            others[name].update(set(names) - {name})
    return {name: tuple(sorted(found)) for name, found in others.items() if found}
