"""Every field of every kind that people write, set to every kind of value, on living objects and from the beginning.

The values come out of the generated CRDs. After each change the operator must rest with the world as wanted, or with a
condition that says what to do; changing it back leads back; deleting leaves nothing. Each story begins in a world
where all is well; daily every sixtieth is told, in `make faults` every third: all of them take too long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from tests.faults.mutation.living import MODELS, SUBJECTS, Living, Subject, living
from tests.faults.mutation.transitions import FRESH, from_the_beginning, there_and_back
from tests.faults.mutation.values import Mutation, mutations, written_kinds
from tests.support.seeds import ALL
from tests.sweep.virtual import live

KINDS = written_kinds()
EACH = 3 if ALL else 60
"""Every so-maniest story is told."""
TOGETHER = 8
"""Stories that are told in one world, one after the other: each must leave it as it was."""
Tell = Callable[[Living, Subject, Mutation], Awaitable[bool]]
RecordProperty = Callable[[str, object], None]


def test_every_kind_that_people_write_has_a_subject() -> None:
    assert {subject.kind for subject in SUBJECTS} == KINDS.keys() == MODELS.keys()


@pytest.mark.timeout(0 if ALL else 120)
@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_a_change_settles_and_its_undoing_leads_back(subject: Subject, record_property: RecordProperty) -> None:
    record_property("points", _tell_all(there_and_back, subject))


@pytest.mark.timeout(0 if ALL else 120)
@pytest.mark.parametrize("subject", [subject for subject in SUBJECTS if str(subject) in FRESH], ids=str)
def test_what_was_so_from_the_beginning_settles_and_goes(subject: Subject, record_property: RecordProperty) -> None:
    record_property("points", _tell_all(from_the_beginning, subject))


def _tell_all(tell: Tell, subject: Subject) -> int:
    chosen = live(lambda: _mutations_of(subject))[::EACH]
    assert chosen, "nothing to change: was the schema read?"
    for begin in range(0, len(chosen), TOGETHER):
        live(lambda: _tell(tell, subject, chosen[begin : begin + TOGETHER]))  # noqa: B023 - it is told at once
    return len(chosen)


async def _mutations_of(subject: Subject) -> list[Mutation]:
    async with living() as world:
        return list(mutations(KINDS[subject.kind], world.spec(subject)))


async def _tell(tell: Tell, subject: Subject, chosen: list[Mutation]) -> None:
    async with living() as world:
        for mutation in chosen:
            await tell(world, subject, mutation)
