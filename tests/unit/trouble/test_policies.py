"""Approvals given in advance: only in their own namespace, only by who may approve; and policies that ask for more."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.system import System, running
from tests.support.trouble import only_server, phases, quiet

from agentmetal.core.errors import Forbidden
from agentmetal.core.operation import ApprovalPolicy

pytestmark = pytest.mark.looptime


async def _policy(system: System, *, namespace: str = "default", name: str = "p", api: Any = None, **spec: Any) -> None:
    wanted = {"resources": ["instances"], "maxRisk": "Dangerous", **spec}
    await system.apply("ApprovalPolicy", name, wanted, api=api or system.ann, namespace=namespace)


async def _rebuild_wanted(system: System) -> None:
    await system.instance()
    await system.ready()
    await system.edit("web-1", image="bookworm-20")


async def test_a_policy_approves_a_dangerous_plan_that_waits_already() -> None:
    async with running(hosts=False) as system:
        await _rebuild_wanted(system)
        await system.awaiting()
        await _policy(system)
        await system.ready()
        assert (await only_server(system)).spec.image == "bookworm-20"
        decision = system.plans()[-1].status.decision
        assert decision is not None
        assert (decision.by, decision.via) == ("p", "ApprovalPolicy")


async def test_a_policy_of_another_namespace_approves_nothing() -> None:
    async with running(hosts=False) as system:
        system.cluster.create_namespace("prod")
        await _policy(system, namespace="prod")
        await _rebuild_wanted(system)
        await system.awaiting()
        await quiet()
        assert phases(system) == ["Succeeded", "AwaitingApproval"]


async def test_a_policy_that_was_deleted_approves_nothing_any_more() -> None:
    async with running(hosts=False) as system:
        await _policy(system)
        await system.ann.delete(ApprovalPolicy.info.type, "default", "p")
        await _rebuild_wanted(system)
        await system.awaiting()
        await quiet()
        assert phases(system) == ["Succeeded", "AwaitingApproval"]


async def test_an_editor_cannot_write_a_policy() -> None:
    async with running(hosts=False) as system:
        with pytest.raises(Forbidden):
            await _policy(system, api=system.erin)


async def test_a_policy_can_ask_for_approval_of_moderate_plans() -> None:
    async with running(hosts=False) as system:
        await _policy(system, require=True)
        await system.instance()
        digest = await system.awaiting()
        await quiet()
        assert system.cloud._servers == {}
        await system.annotate("web-1", approve=digest)
        await system.ready()


async def test_a_moderate_plan_goes_on_when_the_policy_that_asked_is_gone() -> None:
    async with running(hosts=False) as system:
        await _policy(system, require=True)
        await system.instance()
        await system.awaiting()
        await system.ann.delete(ApprovalPolicy.info.type, "default", "p")
        await system.ready()
        decision = system.plans()[-1].status.decision
        assert decision is not None
        assert decision.via == "Risk"
