"""Where members go: apart while there is room, never moved, the same for the same arguments."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmetal.engine.placement import Area, Crowded, Nowhere, Place, crowded, place

NAMES = tuple(f"m{number}" for number in range(8))
AREAS = st.lists(
    st.builds(
        Area,
        location=st.sampled_from(["east", "north", "west"]),
        failure_domains=st.lists(st.sampled_from(["r1", "r2", "r3"]), unique=True, max_size=3).map(tuple),
    ),
    unique_by=lambda area: area.location,
    max_size=3,
)


def racks(*names: str, location: str = "north") -> Area:
    return Area(location=location, failure_domains=names)


def at(failure_domain: str, location: str = "north") -> Place:
    return Place(location=location, failure_domain=failure_domain)


@given(areas=AREAS, number=st.integers(0, 8), old=st.integers(0, 8))
def test_two_share_a_domain_only_when_none_is_free(areas: list[Area], number: int, old: int) -> None:
    places = [each for area in areas for each in area.places] or [Place()]
    standing = tuple((f"old{index}", places[index % len(places)]) for index in range(old % (len(places) + 1)))
    done = place(NAMES[:number], areas, standing)

    counted = Counter(at for _, at in (*standing, *done.chosen))
    assert set(counted) <= set(places)
    assert max(counted.values(), default=0) <= 1 or len(counted) == len(places)
    assert max(counted.values(), default=0) - min((counted[each] for each in places), default=0) <= 1
    assert bool(done.unmet) == (max(counted.values(), default=0) > 1)


@given(areas=AREAS, number=st.integers(0, 8))
def test_asked_one_by_one_or_all_at_once_and_in_any_order_of_areas_it_is_the_same(
    areas: list[Area], number: int
) -> None:
    standing: tuple[tuple[str, Place], ...] = ()
    for name in NAMES[:number]:
        standing += place([name], areas, standing).chosen

    assert place(NAMES[:number], areas).chosen == standing
    assert place(NAMES[:number], areas[::-1]).chosen == standing


@pytest.mark.parametrize("standing", list(product(["r1", "r2", "gone"], repeat=2)), ids="-".join)
def test_standing_members_count_wherever_they_stand_and_stay(standing: tuple[str, str]) -> None:
    before = tuple((f"old{index}", at(domain)) for index, domain in enumerate(standing))
    done = place(["new"], [racks("r1", "r2")], before)

    assert [name for name, _ in done.chosen] == ["new"]
    fewest = min(standing.count(domain) for domain in ("r1", "r2"))
    assert standing.count(done.of("new").failure_domain) == fewest


def test_other_locations_come_before_other_racks() -> None:
    areas = [racks("r1", "r2", location="east"), racks("r1", location="west")]

    assert [str(at) for _, at in place(NAMES[:3], areas).chosen] == [
        "east, failure domain 'r1'",
        "west, failure domain 'r1'",
        "east, failure domain 'r2'",
    ]


def test_same_name_of_a_domain_in_another_location_is_another_domain() -> None:
    areas = [racks("r1", location="east"), racks("r1", location="west")]

    assert place(NAMES[:2], areas).unmet == ()


def test_location_is_honoured_also_when_it_is_crowded() -> None:
    areas = [racks("r1", location="east"), racks("r1", "r2", location="west")]

    done = place(NAMES[:2], areas, location="east")

    assert {at.location for _, at in done.chosen} == {"east"}
    assert done.unmet == (Crowded(place=at("r1", "east"), members=("m0", "m1")),)
    assert str(done.unmet[0]) == "m0, m1 fail together (east, failure domain 'r1')"


def test_unknown_location_places_nothing_and_says_which_there_are() -> None:
    done = place(["m0"], [racks("r1", location="west"), racks(location="east")], location="north")

    assert (done.chosen, done.unmet) == ((), (Nowhere(location="north", offered=("east", "west")),))
    with pytest.raises(KeyError):
        done.of("m0")


def test_provider_that_tells_nothing_leaves_the_choice_to_itself_and_is_no_protection() -> None:
    done = place(NAMES[:2], [])

    assert done.chosen == (("m0", Place()), ("m1", Place()))
    assert done.unmet == crowded(done.chosen) != ()
