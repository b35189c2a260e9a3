"""Approvals and refusals that come late, twice, from the wrong person, or while something else changes."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.system import NAMESPACE, System, running
from tests.support.trouble import condition, only_server, phases, quiet, says, tools

from agentmetal.core.errors import Forbidden
from agentmetal.core.operation import Operation

pytestmark = pytest.mark.looptime


async def _awaiting_rebuild(system: System, **management: str) -> str:
    """A running server whose image shall be another one; the digest of the plan."""
    await system.instance(management=management)
    await system.ready()
    await system.edit("web-1", image="bookworm-20")
    return await system.awaiting()


async def _image(system: System) -> str:
    return str((await only_server(system)).spec.image)


async def test_the_condition_carries_the_line_that_approves() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system)
        said = condition(system.see(), "AwaitingApproval")
        assert f"agentmetal.io/approve={digest}" in said.message
        assert "kubectl annotate" in said.message


async def test_an_old_digest_approves_nothing() -> None:
    async with running(hosts=False) as system:
        old = await _awaiting_rebuild(system)
        await system.annotate("web-1", as_=system.erin, replan="1")
        await system.until(lambda: system.see().status.plan and system.see().status.plan.digest != old)
        await system.annotate("web-1", approve=old)
        await quiet()
        assert await _image(system) == "bookworm"
        assert phases(system) == ["Succeeded", "Withdrawn", "AwaitingApproval"]


async def test_a_digest_approves_once_and_not_the_same_change_later() -> None:
    async with running(hosts=False) as system:
        first = await _awaiting_rebuild(system)
        await system.annotate("web-1", approve=first)
        await system.ready()
        await system.edit("web-1", image="bookworm")
        await system.annotate("web-1", approve=await system.awaiting())
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        again = await system.awaiting()
        assert again != first
        await system.annotate("web-1", approve=first)
        await quiet()
        assert await _image(system) == "bookworm"


async def test_an_approval_that_was_used_before_is_refused_even_if_the_api_server_forgot() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system)
        assert await system.audit.use_digest(digest, "another operation")
        await system.annotate("web-1", approve=digest)
        await system.until(lambda: "Superseded" in phases(system))
        assert "was used before" in system.plans()[1].status.message
        assert await system.awaiting() != digest
        assert await _image(system) == "bookworm"


async def test_an_editor_may_not_approve_and_is_told_so() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system)
        with pytest.raises(Forbidden, match='the verb "approve" is missing'):
            await system.annotate("web-1", as_=system.erin, approve=digest)
        with pytest.raises(Forbidden):
            forged = {"status": {"phase": "Running"}}
            await system.erin.patch(Operation.info.type, NAMESPACE, system.plans()[1].metadata.name, forged)
        await quiet()
        assert phases(system) == ["Succeeded", "AwaitingApproval"]


async def test_an_editors_forged_stamp_counts_for_nothing() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system)
        await system.annotate("web-1", as_=system.erin, decision=f"approve {digest} by ann")
        await quiet()
        assert await _image(system) == "bookworm"


async def test_a_plan_can_be_approved_while_it_is_paused_and_begins_afterwards() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system)
        await system.annotate("web-1", as_=system.erin, paused="true")
        await says(system, "no step begins", type="Paused")
        assert system.see().status.plan.digest == digest
        await system.annotate("web-1", approve=digest)
        await quiet()
        assert await _image(system) == "bookworm"
        await system.annotate("web-1", as_=system.erin, paused=None)
        await system.ready()
        assert await _image(system) == "bookworm-20"


async def test_a_plan_approved_before_the_spec_was_edited_does_not_run() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system)
        await system.annotate("web-1", as_=system.erin, paused="true")
        await system.annotate("web-1", approve=digest)
        await system.edit("web-1", image="bookworm")
        await system.annotate("web-1", as_=system.erin, paused=None)
        await system.ready()
        assert await _image(system) == "bookworm"
        assert phases(system) == ["Succeeded", "Withdrawn"]


async def test_an_approval_and_an_edit_at_once_never_run_the_old_plan() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system)
        await system.annotate("web-1", approve=digest)
        await system.edit("web-1", powerState="Off", image="bookworm")
        await system.ready()
        assert await _image(system) == "bookworm"


async def test_a_refused_plan_is_not_proposed_again_until_somebody_asks() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system)
        await system.annotate("web-1", reject=digest, reason="not today")
        said = await says(system, "rejected by ann: not proposed again", type="Drifted")
        assert said.status == "True"
        await quiet(3600)
        assert phases(system) == ["Succeeded", "Rejected"]
        assert system.see().status.rejected.by == "ann"
        assert system.plans()[1].status.message == "rejected by ann. not today"
        await system.annotate("web-1", as_=system.erin, replan="please")
        new = await system.awaiting()
        assert new != digest
        await system.annotate("web-1", approve=new)
        await system.ready()
        assert await _image(system) == "bookworm-20"


async def test_a_refusal_holds_over_a_restart() -> None:
    async with running(hosts=False) as system:
        await system.annotate("web-1", reject=await _awaiting_rebuild(system))
        await says(system, "rejected by ann", type="Drifted")
        await system.processes[-1].crash()
        await system.start()
        await quiet(3600)
        assert phases(system) == ["Succeeded", "Rejected"]
        assert condition(system.see(), "Drifted").status == "True"


async def test_another_spec_after_a_refusal_is_another_question() -> None:
    async with running(hosts=False) as system:
        await system.annotate("web-1", reject=await _awaiting_rebuild(system))
        await says(system, "rejected by ann", type="Drifted")
        await system.edit("web-1", management={"resyncInterval": "4m"})
        await system.awaiting()
        assert phases(system) == ["Succeeded", "Rejected", "AwaitingApproval"]


async def test_an_approval_that_cannot_begin_in_time_expires_and_is_asked_for_anew() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system, approvalTTL="1h", resyncInterval="10m")
        await system.annotate("web-1", as_=system.erin, paused="true")
        await says(system, "no step begins", type="Paused")
        await system.annotate("web-1", approve=digest)
        await asyncio.sleep(3900)
        await system.annotate("web-1", as_=system.erin, paused=None)
        await system.until(lambda: "Expired" in phases(system))
        new = await system.awaiting()
        assert new != digest
        await quiet()
        assert await _image(system) == "bookworm"
        assert "ann's approval was not used in time" in system.plans()[1].status.message


async def test_a_waiting_plan_never_expires() -> None:
    async with running(hosts=False) as system:
        digest = await _awaiting_rebuild(system, approvalTTL="1h", resyncInterval="6h")
        await asyncio.sleep(3 * 24 * 3600)
        assert system.see().status.plan.digest == digest
        await system.annotate("web-1", approve=digest)
        await system.ready()


async def _deleting(system: System) -> str:
    await system.instance(management={"resyncInterval": "30s"})
    await system.ready()
    await system.delete("web-1")
    return await system.awaiting()


async def test_an_object_whose_deletion_was_refused_lives_on_and_is_healed() -> None:
    async with running(hosts=False) as system:
        await system.annotate("web-1", reject=await _deleting(system))
        await system.until(lambda: "Rejected" in phases(system))
        server = await only_server(system)
        system.cloud.lose_power(server.id)
        await system.until(lambda: phases(system)[-1] == "Succeeded" and len(phases(system)) == 3)
        assert tools(system.plans()[-1])[0] == "start_instance"
        await system.until(lambda: condition(system.see()).status == "True")
        assert system.see().status.phase == "Deleting"


async def test_a_refused_deletion_can_be_asked_for_again() -> None:
    async with running(hosts=False) as system:
        first = await _deleting(system)
        await system.annotate("web-1", reject=first)
        await system.until(lambda: "Rejected" in phases(system))
        await system.annotate("web-1", as_=system.erin, replan="1")
        await system.until(lambda: system.see().status.plan and system.see().status.plan.digest not in (None, first))
        await system.annotate("web-1", approve=system.see().status.plan.digest)
        await system.gone()


async def test_a_deletion_that_waits_stays_approvable_while_the_object_is_healed() -> None:
    async with running() as system:
        digest = await _deleting(system)
        server = await only_server(system)
        system.cloud.lose_power(server.id)
        await system.until(lambda: "Running" in phases(system))
        await system.until(lambda: condition(system.see(), "Reconciling").status == "True")
        assert condition(system.see(), "AwaitingApproval").status == "True"
        assert digest in condition(system.see(), "AwaitingApproval").message
        assert system.see().status.plan.digest == digest
        await system.annotate("web-1", approve=digest)
        await system.gone()
        assert system.cloud._servers == {}
