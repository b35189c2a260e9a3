"""Heads of the audit trail outside of it: what is lost is noticed, holds plans back, and is said until acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.system import System, running

from agentmetal.core.audit import AuditRecord, acknowledgement, gap_entries
from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.errors import AgentMetalError, Forbidden, Invalid, Unavailable
from agentmetal.core.operation import Operation, OperationPhase
from agentmetal.core.ports import KubeApi
from agentmetal.kube import checkpoints
from agentmetal.kube.checkpoints import NOTE, Checkpoints
from agentmetal.store.memory import MemoryAuditStore

pytestmark = pytest.mark.looptime
NAMESPACE = "agentmetal-system"
TYPE = AuditCheckpoint.info.type


def heads_of(system: System, api: KubeApi | None = None) -> Checkpoints:
    return Checkpoints(
        api or system.operator_api, system.audit, system.clock, namespace=NAMESPACE, lease="agentmetal-operator"
    )


async def kept(system: System) -> list[AuditCheckpoint]:
    found = (await system.admin.list(TYPE)).items
    return [AuditCheckpoint.model_validate({**body, "status": {}}) for body in found]


def lose(audit: MemoryAuditStore, count: int) -> list[AuditRecord]:
    """What a failover to a standby that lags does."""
    lost, audit.trail = audit.trail[-count:], audit.trail[:-count]
    return lost


async def test_a_checkpoint_is_the_operators_to_make_and_nobodys_to_change() -> None:
    async with running() as system:
        heads = heads_of(system)
        await heads.begin(7)
        (one,) = await kept(system)
        assert (one.head, one.spec.epoch) == (await system.audit.head(), 7)
        name = one.metadata.name
        for api, error in ((system.operator_api, Forbidden), (system.admin, AgentMetalError)):
            with pytest.raises(error):
                await api.patch(TYPE, NAMESPACE, name, {"spec": {"sequence": 99}})
        with pytest.raises(Forbidden):
            await system.operator_api.delete(TYPE, NAMESPACE, name)
        with pytest.raises(Forbidden, match="written by the AgentMetal operator only"):
            await system.admin.create(
                TYPE, {**(await system.admin.get(TYPE, NAMESPACE, name)), "metadata": _fresh("x")}
            )
        await system.admin.delete(TYPE, NAMESPACE, name)
        assert await kept(system) == []


def _fresh(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE}


async def test_a_hash_that_is_none_is_refused() -> None:
    async with running() as system:
        spec = {"sequence": 1, "hash": "f00", "at": "2026-01-01T00:00:00Z"}
        body = {"apiVersion": TYPE.api_version, "kind": TYPE.kind, "metadata": _fresh("x"), "spec": spec}
        with pytest.raises(Invalid, match="hash"):
            await system.operator_api.create(TYPE, body)


async def test_nothing_above_safe_begins_until_a_person_acknowledges_the_gap() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        heads = heads_of(system)
        await heads.begin(7)
        lose(system.audit, 2)
        assert await heads_of(system).compare() == 1
        assert await heads_of(system).compare() == 0, "it is told once"
        (gap,) = await system.audit.gaps()
        assert "AuditCheckpoint" in gap.entry.steps[0]
        await system.delete("web-1")
        digest = await system.awaiting()
        await system.annotate("web-1", approve=digest)
        await system.until(lambda: "audit acknowledge" in _told(system), timeout=60)
        await asyncio.sleep(600)
        assert system.plans(OperationPhase.RUNNING) == [], "it waits for a person, however long"
        assert len(await system.cloud.list_servers()) == 1
        assert system.see() is not None
        await system.audit.append(
            acknowledgement(gap, "ann", "the standby was a second behind", "2026-01-01T00:00:00Z")
        )
        await system.gone()


def _told(system: System) -> str:
    seen = system.see()
    return "" if seen is None else " ".join(c.message for c in seen.status.conditions)


@asynccontextmanager
async def with_a_plan_that_waits(audit: MemoryAuditStore) -> AsyncIterator[tuple[Checkpoints, Operation]]:
    """The heads of a trail in another store than the one in which the waiting plan was recorded."""
    async with running() as system:
        await system.instance()
        await system.ready()
        await system.delete("web-1")
        await system.awaiting()
        (waiting,) = system.plans(OperationPhase.AWAITING_APPROVAL)
        heads = Checkpoints(system.operator_api, audit, system.clock, namespace=NAMESPACE, lease="agentmetal-operator")
        yield heads, waiting


async def test_what_open_operations_still_know_is_taught_to_the_store_again() -> None:
    forgetful = MemoryAuditStore()
    async with with_a_plan_that_waits(forgetful) as (heads, waiting):
        assert await heads.compare() == 1
        assert await forgetful.highest_number(waiting.spec.resource_ref.uid) == waiting.spec.number


class Flapping(MemoryAuditStore):
    """Away right after it was found to have lost records."""

    away = True

    async def note_number(self, uid: str, number: int) -> None:
        if self.away:
            raise Unavailable("the server closed the connection")
        await super().note_number(uid, number)


async def test_a_store_that_goes_away_while_it_is_taught_is_taught_when_it_is_back() -> None:
    flapping = Flapping()
    async with with_a_plan_that_waits(flapping) as (heads, waiting):
        with pytest.raises(Unavailable):
            await heads.compare()
        flapping.away = False
        await heads.compare()
        assert await flapping.highest_number(waiting.spec.resource_ref.uid) == waiting.spec.number
        assert len(await flapping.gaps()) == 1


async def test_a_store_that_noticed_its_gap_itself_is_taught_what_it_forgot() -> None:
    forgetful = MemoryAuditStore()
    async with with_a_plan_that_waits(forgetful) as (heads, waiting):
        for entry in gap_entries(await forgetful.head(), {waiting.status.audit_head or "": "itself"}, "2026-01-01"):
            await forgetful.append(entry)
        keeping = asyncio.create_task(heads.keep(lambda _gaps: None))
        await asyncio.sleep(checkpoints.LOOK_EVERY)
        assert await forgetful.highest_number(waiting.spec.resource_ref.uid) == waiting.spec.number
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_an_epoch_is_above_every_epoch_that_a_checkpoint_names() -> None:
    async with running() as system:
        await heads_of(system).begin(41)
        restored = MemoryAuditStore()
        heads = Checkpoints(
            system.operator_api, restored, system.clock, namespace=NAMESPACE, lease="agentmetal-operator"
        )
        assert await heads.next_epoch(3) == 42


async def test_the_lease_notes_the_head_only_once_losses_would_have_been_noticed() -> None:
    async with running() as system:
        heads = heads_of(system)
        assert heads.notes() == {}
        await heads.begin(7)
        assert heads.notes() == {NOTE: (await system.audit.head()).hash}


async def test_checkpoints_are_made_hourly_when_something_was_recorded_and_at_the_end() -> None:
    async with running() as system:
        heads, told = heads_of(system), list[int]()
        await heads.begin(7)
        keeping = asyncio.create_task(heads.keep(told.append))
        await asyncio.sleep(checkpoints.WRITE_EVERY * 3)
        assert len(await kept(system)) == 1, "nothing was recorded"
        await system.audit.append(system.audit.trail[-1].entry)
        await asyncio.sleep(checkpoints.WRITE_EVERY)
        assert len(await kept(system)) == 2
        await system.audit.append(system.audit.trail[-1].entry)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await heads.end()
        assert {one.head for one in await kept(system)} > {await system.audit.head()}
        assert set(told) == {0}
