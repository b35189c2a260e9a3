"""The real operator at work: which rights it lacks, and from where it reaches the machines."""

from __future__ import annotations

import pytest
from tests.support.devsystem import Dev
from tests.support.faults import metrics
from tests.support.network import connected_from_here, connected_inside

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines]


async def test_its_account_is_refused_nothing(dev_system: Dev) -> None:
    answers = await metrics(dev_system.system.operator.metrics_port)
    codes = {labels for name, labels in answers if name == "rest_client_requests_total"}
    assert any('code="200"' in labels for labels in codes)
    assert not [labels for labels in codes if 'code="403"' in labels]


async def test_it_is_connected_to_machines_in_their_network_only(dev_system: Dev) -> None:
    address = (await dev_system.fleet.machine(await dev_system.server("machine-1"))).record.address
    assert address in connected_inside(dev_system.fleet.id)
    assert connected_from_here() == set()
