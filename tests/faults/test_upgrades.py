"""Another version of the operator wrote the open plans: a newer one before a rollback, an older one before an upgrade.

What another version would write is put into the stored Operations between two processes, as a restored etcd would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.system import NAMESPACE, System, running

from agentmetal.core.operation import JOURNAL_FORMAT, Operation, OperationPhase
from agentmetal.core.plan import FORMAT, digest
from agentmetal.core.resource import FINALIZER

pytestmark = pytest.mark.looptime

NEWER = JOURNAL_FORMAT + 1
Change = Callable[[dict[str, Any]], None]


def newer(body: dict[str, Any]) -> None:
    """A version with another journal wrote it; nobody knows what else it says."""
    body["spec"]["format"] = NEWER
    body["spec"]["steps"] = {"in": "another form"}


def planned_otherwise(body: dict[str, Any]) -> None:
    """A version that hashes plans otherwise wrote it."""
    body["spec"]["planFormat"] = FORMAT + 1
    body["spec"]["planHash"] = "f" * 64
    body["spec"]["digest"] = digest("f" * 64, body["spec"]["number"])


def unknown_tool(body: dict[str, Any]) -> None:
    """A version with a tool that we do not have planned it."""
    body["spec"]["steps"][0]["tool"] = "levitate_instance"


def unknown_parameters(body: dict[str, Any]) -> None:
    """A version whose tool takes something else planned it."""
    body["spec"]["steps"][0]["parameters"] = {"height": "3 m"}


def rewrite(system: System, change: Change) -> str:
    """Change the newest Operation of an Instance behind everybody's back; its name."""
    kept, name = system.cluster.backup(NAMESPACE), system.plans()[-1].metadata.name
    body = next(body for place, body in kept.items() if place.name == name)
    change(body)
    system.cluster.restore(NAMESPACE, kept)
    return name


def stored(system: System, name: str) -> dict[str, Any]:
    """An Operation as the API server holds it."""
    body = system.cluster.peek(Operation.info.type, NAMESPACE, name)
    assert body is not None
    return body


def told(system: System, name: str = "web-1") -> str:
    """What status says is wrong with the Instance."""
    stalled = [c for c in system.see(name).status.conditions if c.type == "Stalled" and c.status == "True"]
    return f"{stalled[0].reason}: {stalled[0].message}" if stalled else ""


async def replace(system: System, change: Change) -> str:
    """Another version follows on the one that wrote the newest plan."""
    await system.processes[-1].crash()
    name = rewrite(system, change)
    await system.start()
    return name


async def waiting(system: System) -> str:
    """An Instance whose new image waits for a human; the digest."""
    await system.instance()
    await system.ready()
    await system.edit("web-1", image="bookworm-20")
    return await system.awaiting()


async def booting(system: System) -> None:
    """An Instance whose machine boots, with the journal saying so."""
    await system.instance()
    await system.until(lambda: any(s.state == "Running" for op in system.plans() for s in op.status.steps))


async def test_rollback_with_a_waiting_plan_shows_it_anew_and_asks_again() -> None:
    async with running() as system:
        old = await waiting(system)
        name = await replace(system, newer)
        await system.until(lambda: stored(system, name)["status"]["phase"] == OperationPhase.SUPERSEDED)
        assert "needs a new decision" in stored(system, name)["status"]["message"]
        assert FINALIZER not in stored(system, name)["metadata"].get("finalizers", [])
        system.cluster.forget(Operation.info.type, NAMESPACE, name)  # the tests' own eyes cannot read it either
        assert await until_another(system, old)
        (server,) = await system.cloud.list_servers()
        assert server.image == "bookworm"


async def test_rollback_with_an_approved_plan_that_had_not_begun_does_not_carry_it_out() -> None:
    async with running() as system:
        old = await waiting(system)
        await system.processes[-1].crash()
        await system.annotate("web-1", approve=old)
        name = rewrite(system, newer)
        await system.start()
        await system.until(lambda: stored(system, name)["status"]["phase"] == OperationPhase.SUPERSEDED)
        system.cluster.forget(Operation.info.type, NAMESPACE, name)
        new = await until_another(system, old)
        (server,) = await system.cloud.list_servers()
        assert server.image == "bookworm"
        await system.annotate("web-1", approve=new)
        await system.ready()


async def test_rollback_with_a_running_plan_leaves_it_and_says_who_can_end_it() -> None:
    async with running() as system:
        await booting(system)
        name = await replace(system, newer)
        before = stored(system, name)
        await system.until(lambda: told(system))
        assert f"journal format {NEWER}, this one reads 1 to {JOURNAL_FORMAT}" in told(system)
        assert "Run the version that wrote it" in told(system)
        assert stored(system, name) == before


async def test_rollback_with_a_running_plan_holds_no_other_object_back() -> None:
    async with running() as system:
        await booting(system)
        await replace(system, newer)
        await system.instance("web-2")
        await system.ready("web-2")
        assert told(system).startswith("UnreadableOperation"), "and the one that it is about still is"


async def test_a_running_plan_that_the_newer_version_ended_lets_the_older_one_go_on() -> None:
    async with running() as system:
        await booting(system)
        name = await replace(system, newer)
        await system.until(lambda: told(system))
        kept = system.cluster.backup(NAMESPACE)
        body = next(body for place, body in kept.items() if place.name == name)
        body["status"]["phase"] = "Failed"
        system.cluster.restore(NAMESPACE, kept)
        await system.annotate("web-1", replan="now", as_=system.erin)
        await system.ready()
        assert told(system) == ""
        assert stored(system, name)["spec"]["format"] == NEWER, "what is not ours is not rewritten"
        assert len(await system.cloud.list_servers()) == 1


async def test_a_running_plan_that_the_administrator_deleted_lets_the_object_go_on() -> None:
    async with running() as system:
        await booting(system)
        name = await replace(system, newer)
        await system.until(lambda: told(system))
        system.cluster.forget(Operation.info.type, NAMESPACE, name)
        await system.annotate("web-1", replan="now", as_=system.erin)
        await system.ready()
        assert len(await system.cloud.list_servers()) == 1


async def test_upgrade_with_a_waiting_plan_of_another_plan_format_says_why_it_asks_again() -> None:
    async with running() as system:
        old = await waiting(system)
        name = await replace(system, planned_otherwise)
        assert await until_another(system, old)
        assert "needs a new decision" in stored(system, name)["status"]["message"]
        assert f"plan format {FORMAT + 1}, now {FORMAT}" in stored(system, name)["status"]["message"]


async def test_upgrade_with_an_approval_of_another_plan_format_carries_nothing_out() -> None:
    async with running() as system:
        await waiting(system)
        await system.processes[-1].crash()
        rewrite(system, planned_otherwise)
        kept = system.cluster.backup(NAMESPACE)
        instance = next(body for place, body in kept.items() if place.name == "web-1")
        instance["status"]["plan"]["digest"] = digest("f" * 64, system.plans()[-1].spec.number)
        system.cluster.restore(NAMESPACE, kept)
        await system.annotate("web-1", approve=digest("f" * 64, system.plans()[-1].spec.number))
        await system.start()
        await until_another(system, digest("f" * 64, system.plans()[-1].spec.number))
        (server,) = await system.cloud.list_servers()
        assert server.image == "bookworm"


async def test_upgrade_with_a_running_plan_of_another_plan_format_goes_on_by_the_journal() -> None:
    async with running() as system:
        await booting(system)
        name = await replace(system, planned_otherwise)
        await system.ready()
        assert stored(system, name)["status"]["phase"] == OperationPhase.SUCCEEDED
        assert len(await system.cloud.list_servers()) == 1


@pytest.mark.parametrize("change", [unknown_tool, unknown_parameters])
async def test_a_begun_step_that_this_version_cannot_call_is_in_doubt(change: Change) -> None:
    async with running() as system:
        await system.instance()
        await system.until(lambda: any(op.status.steps[0].state == "Running" for op in system.plans()))
        name = await replace(system, change)
        await system.until(lambda: stored(system, name)["status"]["phase"] == OperationPhase.BLOCKED)
        assert "another version began it" in stored(system, name)["status"]["steps"][0]["error"]


@pytest.mark.parametrize("change", [unknown_tool, unknown_parameters])
async def test_a_step_not_begun_that_this_version_cannot_call_fails_and_is_planned_anew(change: Change) -> None:
    def later(body: dict[str, Any]) -> None:
        change(body)
        body["status"]["steps"][0] = {"state": "Pending", "attempt": 0}

    async with running() as system:
        await system.instance()
        await system.until(lambda: any(op.status.steps[0].state == "Running" for op in system.plans()))
        name = await replace(system, later)
        await system.until(lambda: stored(system, name)["status"]["phase"] == OperationPhase.FAILED)
        await system.ready()
        assert system.plans()[-1].phase is OperationPhase.SUCCEEDED
        assert len(await system.cloud.list_servers()) == 1


async def until_another(system: System, old: str) -> str:
    """Wait for a plan with another digest than that one."""
    found: str = await system.until(
        lambda: (plan := system.see().status.plan) and plan.digest and plan.digest != old and plan.digest
    )
    assert await system.awaiting() == found
    return found
