"""What is gone leaves nothing behind in the operator, whoever made it go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bench.day.census import census
from tests.support.system import NAMESPACE, System, running

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.resource import Key

pytestmark = pytest.mark.looptime
NOT_OBJECTS = ("Cache._gone", "Cache._newest", "Siblings._learnt")
"""The newest few hundred uids; one for each kind; one for each Provider."""


def kept(system: System) -> dict[str, int]:
    """Entries in each container of the operator."""
    core = system.processes[-1].core
    timers = core.queue  # those that were replaced or forgotten are dropped once they are the most
    timers._later = [timer for timer in timers._later if timers._due.get(timer[2]) == timer[0]]
    return {name: count for name, count in census(core).items() if name not in NOT_OBJECTS}


async def let_go(system: System, name: str = "web-1", *, kind: Any = Instance) -> None:
    """An approver takes our finalizer off: the machine is abandoned."""
    await system.delete(name, kind=kind)
    await system.admin.patch(kind.info.type, NAMESPACE, name, {"metadata": {"finalizers": None}})
    await system.gone(name, kind=kind)
    await asyncio.sleep(60.0)


async def test_an_abandoned_object_leaves_nothing_in_the_operator_and_no_connection() -> None:
    async with running() as system:
        before = kept(system)
        await system.instance()
        await system.ready()
        assert kept(system)["Ledger._closed"] > before["Ledger._closed"]
        await let_go(system)
        assert kept(system) == before
        assert not system.hosts._kept


async def test_of_providers_that_are_gone_at_most_the_last_one_is_remembered() -> None:
    async with running() as system:
        for name in ("a", "b", "c"):
            await system.provider(name)
            await system.instance(f"of-{name}", providerRef={"name": name})
            await system.ready(f"of-{name}")
            await let_go(system, f"of-{name}")
            await let_go(system, name, kind=Provider)
        assert census(system.processes[-1].core)["Siblings._learnt"] == 1


async def test_an_object_abandoned_amid_a_plan_leaves_nothing() -> None:
    async with running(boot_seconds=300.0) as system:
        before = kept(system)
        await system.instance()
        await system.until(lambda: "provision_server" in system.cloud.calls)
        await let_go(system)
        await asyncio.sleep(3600.0)
        assert kept(system) == before


async def test_a_new_object_of_the_same_name_is_not_forgotten_with_the_old_one() -> None:
    async with running() as system:
        await system.instance()
        old = await system.ready()
        await let_go(system)
        await system.instance()
        new = await system.ready()
        ledger = system.processes[-1].core.ledger
        assert ledger.last_closed(new.uid) is not None
        assert ledger.last_closed(old.uid) is None


async def test_a_new_object_gets_a_key_of_its_own_where_an_abandoned_one_left_its_secret() -> None:
    async with running() as system:
        await system.instance()
        old = await system.ready()
        await let_go(system)
        assert system.cluster.peek(SECRET, NAMESPACE, "web-1-host-key"), "then this test tests nothing"
        await system.instance()
        new = await system.ready()
        assert new.status.host_key_fingerprint != old.status.host_key_fingerprint


async def test_a_provider_that_is_gone_is_closed() -> None:
    async with running() as system:
        before = kept(system)
        closed: list[str] = []

        class Account(type(system.cloud)):  # type: ignore[misc]  # the same cloud, that tells when it is closed
            async def close(self) -> None:
                closed.append("account")

        system.cloud.__class__ = Account
        await system.provider("second")
        await system.ready("second", kind=Provider)
        await system.delete("second", kind=Provider)
        await system.gone("second", kind=Provider)
        await asyncio.sleep(60.0)
        assert closed == ["account"]
        assert Key("Provider", NAMESPACE, "second") not in system.processes[-1].core.providers._built
        assert kept(system) == before
