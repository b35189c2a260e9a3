"""From apply to a running machine, and to its end, in one process."""

from __future__ import annotations

import pytest
from tests.support.system import running

pytestmark = pytest.mark.looptime


async def test_an_instance_comes_up_by_itself() -> None:
    async with running() as system:
        await system.instance()
        ready = await system.ready()
        assert ready.status.phase == "Running"
        assert len(await system.cloud.list_servers()) == 1
        assert [op.phase for op in system.plans()] == ["Succeeded"]


async def test_an_image_change_waits_for_approval_and_then_runs() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", image="bookworm-20")
        digest = await system.awaiting()
        (server,) = await system.cloud.list_servers()
        assert server.image == "bookworm"
        await system.annotate("web-1", approve=digest)
        await system.ready()
        (server,) = await system.cloud.list_servers()
        assert server.image == "bookworm-20"


async def test_a_deletion_waits_for_approval_and_then_leaves_nothing() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        await system.delete("web-1")
        digest = await system.awaiting()
        assert len(await system.cloud.list_servers()) == 1
        await system.annotate("web-1", approve=digest)
        await system.gone()
        assert await system.cloud.list_servers() == ()
