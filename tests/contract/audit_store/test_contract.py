"""What every audit store does."""

import asyncio
from dataclasses import replace

import pytest
from tests.contract.audit_store.entries import entry

from agentmetal.core.audit import GENESIS, AuditRecord, AuditStore, Head, Verified, follow, verify
from agentmetal.core.errors import Unavailable


async def trail(store: AuditStore, after: int = 0) -> list[AuditRecord]:
    return [record async for record in store.records(after=after)]


async def test_an_empty_trail_starts_at_genesis_and_is_whole(store: AuditStore) -> None:
    assert await store.head() == Head(sequence=0, hash=GENESIS)
    assert await verify(store.records(), {}) == Verified(records=0, head=GENESIS)


async def test_each_record_follows_the_one_before_it(store: AuditStore) -> None:
    first = await store.append(entry(1))
    second = await store.append(entry(2))
    assert first == follow(Head(), entry(1))
    assert second == follow(Head(sequence=1, hash=first.hash), entry(2))
    assert await store.head() == Head(sequence=2, hash=second.hash)


async def test_records_come_back_exactly_as_they_were_written(store: AuditStore) -> None:
    odd = entry(1, reasoning='Ünïcode, "quotes", \'; DROP TABLE audit; --,   and 🚀')
    written = [await store.append(odd), await store.append(entry(2))]
    assert await trail(store) == written
    assert await trail(store, after=1) == written[1:]
    assert await trail(store, after=2) == []


async def test_appends_made_together_each_get_their_own_place(store: AuditStore) -> None:
    records = await asyncio.gather(*(store.append(entry(number)) for number in range(100)))
    assert sorted(record.sequence for record in records) == list(range(1, 101))
    assert await verify(store.records(), {records[-1].hash: "op-99"}) == Verified(
        records=100, head=(await store.head()).hash
    )


async def test_an_entry_that_cannot_be_hashed_is_refused_alone(store: AuditStore) -> None:
    good, bad = await asyncio.gather(
        store.append(entry(1)), store.append(replace(entry(2), duration_ms=2**60)), return_exceptions=True
    )
    assert isinstance(good, AuditRecord)
    assert isinstance(bad, ValueError)
    assert len(await trail(store)) == 1


async def test_a_digest_belongs_to_the_first_operation_that_uses_it(store: AuditStore) -> None:
    assert await store.use_digest("sha256:abc", "op-1")
    assert await store.use_digest("sha256:abc", "op-1"), "a resumed operation may ask again"
    assert not await store.use_digest("sha256:abc", "op-2")
    assert await store.use_digest("sha256:def", "op-2")
    assert await store.used_by("sha256:abc") == "op-1"
    assert await store.used_by("sha256:ghi") == ""


async def test_of_two_operations_asking_at_once_one_gets_the_digest(store: AuditStore) -> None:
    answers = await asyncio.gather(*(store.use_digest("sha256:abc", f"op-{number}") for number in range(10)))
    assert answers.count(True) == 1


async def test_operation_numbers_only_grow(store: AuditStore) -> None:
    assert await store.highest_number("uid-1") == 0
    await store.note_number("uid-1", 7)
    await store.note_number("uid-1", 3)
    assert await store.highest_number("uid-1") == 7
    assert await store.highest_number("uid-2") == 0


async def test_each_epoch_is_higher_than_any_before_and_at_least_what_is_asked(store: AuditStore) -> None:
    assert await store.next_epoch(1) == 1
    assert await store.next_epoch(1) == 2
    assert await store.next_epoch(10) == 10
    assert await store.next_epoch(0) == 11


async def test_a_closed_store_says_so(store: AuditStore) -> None:
    await store.close()
    with pytest.raises(Unavailable, match="closed: open"):
        await store.append(entry())


async def test_closing_twice_is_harmless(store: AuditStore) -> None:
    await store.close()
    await store.close()
