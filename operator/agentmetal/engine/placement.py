"""Placement: in which location and failure domain further members of a service go. Pure; asked by services' agents.

Members that stand are never moved, and the answer depends on nothing but the arguments: a plan that is made again is
the same plan. A wish that cannot be met is answered by the best that can be had, and said in a value: whether that is
good enough is the service's to decide. Free machines are not counted here; an order that finds none says so itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Where a member goes: what its Instance says."""

    location: str = ""
    """Empty: the provider chooses."""
    failure_domain: str = ""
    """Empty: any; then nobody knows what it shares."""

    def __str__(self) -> str:
        where = self.location or "any location"
        return f"{where}, failure domain {self.failure_domain!r}" if self.failure_domain else where


@dataclass(frozen=True, kw_only=True)
class Area:
    """A location with what fails together in it, as the Provider's status offers it."""

    location: str
    failure_domains: tuple[str, ...] = ()
    """None: the location is one domain."""

    @property
    def places(self) -> tuple[Place, ...]:
        """Where one can go there."""
        domains = self.failure_domains or ("",)
        return tuple(Place(location=self.location, failure_domain=domain) for domain in domains)


@dataclass(frozen=True, kw_only=True)
class Crowded:
    """These members would be lost together, for there are fewer places than members."""

    place: Place
    members: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.members)} fail together ({self.place})"


@dataclass(frozen=True, kw_only=True)
class Nowhere:
    """A location that is asked for and that the Provider does not offer: nothing was placed."""

    location: str
    offered: tuple[str, ...]

    def __str__(self) -> str:
        return f"location {self.location!r} is not offered: use one of {', '.join(self.offered) or 'none'}"


Unmet = Crowded | Nowhere


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the further members go, in the order in which they were named, and what could not be had."""

    chosen: tuple[tuple[str, Place], ...] = ()
    unmet: tuple[Unmet, ...] = ()

    def of(self, member: str) -> Place:
        """The place of one of them. Raises KeyError for a member that was not placed."""
        return dict(self.chosen)[member]


def place(
    members: Sequence[str], areas: Sequence[Area], standing: Sequence[tuple[str, Place]] = (), *, location: str = ""
) -> Placement:
    """Places for further members beside those that stand: never two in one failure domain while another is free.

    With a `location` only its domains count. Without, other locations come before other domains of the same one, for
    a location may fail as a whole. Asking for one member after the other gives the same places as asking for all.
    """
    wanted = [area for area in areas if location in ("", area.location)]
    if location and not wanted:
        return Placement(unmet=(Nowhere(location=location, offered=tuple(sorted(area.location for area in areas))),))
    free = sorted({each for area in wanted for each in area.places}) or [Place()]
    taken, chosen = list(standing), []
    for member in members:
        best = min(free, key=lambda each: _crowd(each, [place for _, place in taken]))
        chosen.append((member, best))
        taken.append((member, best))
    return Placement(chosen=tuple(chosen), unmet=crowded(taken))


def crowded(members: Sequence[tuple[str, Place]]) -> tuple[Crowded, ...]:
    """Who shares a failure domain with another one, by place. Also what the status of a service may tell."""
    counted = Counter(place for _, place in members)
    return tuple(
        Crowded(place=place, members=tuple(sorted(name for name, at in members if at == place)))
        for place, number in sorted(counted.items())
        if number > 1
    )


def _crowd(place: Place, taken: Sequence[Place]) -> tuple[int, int, Place]:
    """The fewest in the domain first, then the fewest in the location, then by name."""
    in_domain = sum(each == place for each in taken)
    return in_domain, sum(each.location == place.location for each in taken), place
