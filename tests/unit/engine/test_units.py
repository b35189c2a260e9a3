"""Commands on hosts: what recovery needs is kept while the operation is open, and no longer."""

from __future__ import annotations

import pytest
from tests.support.system import running

pytestmark = pytest.mark.looptime


async def test_a_closed_operation_leaves_no_units_on_the_host() -> None:
    async with running() as system:
        await system.instance()
        await system.ready()
        (server,) = await system.cloud.list_servers()
        (ran,) = system.hosts.journal
        assert ran.name.startswith(system.plans()[0].metadata.name)
        await system.until(lambda: not system.hosts.host(server.id).units, timeout=30)
