"""Real machines, to be broken."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.fleet import becomes, new_name
from tests.support.fleet import nspawn as nspawn  # a fixture: found by its name

from agentmetal.core.machine import OwnerTag, Server, ServerSpec, ServerState
from agentmetal.providers.nspawn.provider import NspawnProvider


def order() -> ServerSpec:
    """A machine that nobody else orders."""
    name = new_name()
    return ServerSpec(
        name=name, owner=OwnerTag(cluster="c", namespace="shop", uid=name), type="small", image="bookworm"
    )


@pytest.fixture
async def machine(nspawn: NspawnProvider) -> AsyncIterator[Server]:
    """One that runs."""
    spec = order()
    server = await nspawn.provision_server(spec)
    yield await becomes(nspawn, server.id, ServerState.RUNNING)
    await nspawn.decommission_server(server.id, spec.owner)
