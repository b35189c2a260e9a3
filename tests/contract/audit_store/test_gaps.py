"""What every audit store knows of lost and of removed records."""

import asyncio
from dataclasses import replace

import pytest
from tests.contract.audit_store.entries import entry

from agentmetal.core.audit import (
    GENESIS,
    AuditRecord,
    AuditStore,
    Broken,
    Head,
    Verified,
    acknowledgement,
    gap_entries,
    verify,
)
from agentmetal.core.errors import Invalid

NOW = "2026-01-02T00:00:00Z"
LOST = "f" * 64


async def filled(store: AuditStore, count: int) -> list[AuditRecord]:
    return [await store.append(entry(number)) for number in range(1, count + 1)]


def head_of(record: AuditRecord) -> Head:
    return Head(sequence=record.sequence, hash=record.hash)


async def gap(store: AuditStore, *hashes: str) -> AuditRecord:
    lost = {hash: f"Operation shop/op-{number}" for number, hash in enumerate(hashes or (LOST,))}
    return [await store.append(entry) for entry in gap_entries(await store.head(), lost, NOW)][-1]


async def test_a_gap_is_open_until_a_person_acknowledges_it(store: AuditStore) -> None:
    await filled(store, 2)
    assert await store.gaps() == ()
    found = await gap(store)
    assert await store.gaps() == (found,)
    await store.append(acknowledgement(replace(found, hash=GENESIS), "ann", "the wrong one", NOW))
    assert await store.gaps() == (found,)
    await store.append(acknowledgement(found, "ann", "the standby was a second behind", NOW))
    assert await store.gaps() == ()


async def test_verify_fails_on_an_open_gap_and_reports_acknowledged_ones(store: AuditStore) -> None:
    await filled(store, 2)
    found = await gap(store)
    told = await verify(store.records(), {LOST: "Operation shop/op-0"})
    assert isinstance(told, Broken)
    assert (told.sequence, "agentmetal audit acknowledge 3" in told.what) == (3, True)
    await store.append(acknowledgement(found, "ann", "looked at it", NOW))
    told = await verify(store.records(), {LOST: "Operation shop/op-0"})
    assert told == Verified(records=4, head=(await store.head()).hash, gaps=1)


async def test_what_no_gap_names_is_still_missed(store: AuditStore) -> None:
    await filled(store, 2)
    await store.append(acknowledgement(await gap(store), "ann", "looked at it", NOW))
    told = await verify(store.records(), {"e" * 64: "Operation shop/op-7"})
    assert isinstance(told, Broken)
    assert "Operation shop/op-7 saw" in told.what


async def test_the_trail_knows_the_places_of_what_it_holds_and_nothing_else(store: AuditStore) -> None:
    records = await filled(store, 3)
    wanted = [records[0].hash, records[2].hash, LOST, "'; DROP TABLE audit; --"]
    assert await store.places(wanted) == {records[0].hash: 1, records[2].hash: 3}
    assert await store.places([]) == {}


async def test_retention_removes_up_to_a_record_and_the_chain_goes_on(store: AuditStore) -> None:
    records = await filled(store, 10)
    await store.use_digest("sha256:abc", "op-1")
    await store.note_number("uid-1", 7)
    assert await store.prune(head_of(records[5])) == 6
    assert await store.start() == head_of(records[5])
    assert [record async for record in store.records()] == records[6:]
    assert (await store.append(entry(11))).sequence == 11
    assert await store.used_by("sha256:abc") == "op-1"
    assert await store.highest_number("uid-1") == 7
    assert await store.places([records[2].hash]) == {records[2].hash: 3}


async def test_verify_starts_where_a_checkpoint_vouches_for_the_start(store: AuditStore) -> None:
    records = await filled(store, 10)
    await store.prune(head_of(records[5]))
    start, seen = await store.start(), {records[5].hash: "AuditCheckpoint 6", records[1].hash: "Operation shop/op-1"}
    told = await verify(store.records(), seen, start=start, removed=[records[1].hash])
    assert told == Verified(records=4, head=records[9].hash, start=6)
    told = await verify(store.records(), {}, start=start)
    assert isinstance(told, Broken)
    assert "no checkpoint names that one" in told.what


async def test_everything_may_be_removed_and_the_chain_still_goes_on(store: AuditStore) -> None:
    records = await filled(store, 3)
    assert await store.prune(head_of(records[2])) == 3
    assert await store.head() == head_of(records[2])
    assert (await store.append(entry(4))).previous == records[2].hash
    told = await verify(store.records(), {records[2].hash: "AuditCheckpoint"}, start=await store.start())
    assert isinstance(told, Verified)


async def test_removing_twice_is_harmless_and_going_back_is_refused(store: AuditStore) -> None:
    records = await filled(store, 10)
    await store.prune(head_of(records[5]))
    assert await store.prune(head_of(records[5])) == 0
    for wrong in (head_of(records[2]), Head(sequence=8, hash=records[8].hash), Head(sequence=99, hash=LOST)):
        with pytest.raises(Invalid, match="is not in the trail after its start 6"):
            await store.prune(wrong)
    assert len([record async for record in store.records()]) == 4


async def test_an_open_gap_is_never_removed_and_an_old_one_is_remembered(store: AuditStore) -> None:
    await filled(store, 2)
    found = await gap(store)
    assert await store.places([LOST]) == {LOST: 3}, "it is accounted for"
    newest = await store.append(entry(4))
    with pytest.raises(Invalid, match="record 3 is a gap that nobody has acknowledged"):
        await store.prune(head_of(newest))
    last = await store.append(acknowledgement(found, "ann", "looked at it", NOW))
    await store.prune(head_of(last))
    assert await store.places([LOST]) == {LOST: 3}


async def test_many_lost_hashes_make_several_records(store: AuditStore) -> None:
    hashes = [f"{number:064x}" for number in range(600)]
    await gap(store, *hashes)
    named = {step.partition(" ")[0] for record in await store.gaps() for step in record.entry.steps}
    assert (len(await store.gaps()), named) == (3, set(hashes))


async def test_others_write_while_retention_removes(store: AuditStore) -> None:
    records = await filled(store, 5)
    await asyncio.gather(store.prune(head_of(records[3])), *(store.append(entry(number)) for number in range(6, 30)))
    start = await store.start()
    told = await verify(store.records(), {start.hash: "AuditCheckpoint"}, start=start)
    assert isinstance(told, Verified)
    assert (told.start, told.records) == (4, 25)
