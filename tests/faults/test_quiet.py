"""A system in which all is well: it is looked at, and nothing is written. Neither at rest nor at a restart."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.devsystem import Dev
from tests.support.faults import NAMESPACE, Story, metrics
from tests.support.seeds import ALL

from agentmetal.agents import AGENTS
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import ApprovalPolicy, Operation

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines, pytest.mark.timeout(300)]

QUIET = 60.0 if ALL else 5.0
TYPES = (*(agent.kind.info.type for agent in AGENTS), Operation.info.type, ApprovalPolicy.info.type, SECRET)
HOUSEKEEPING = ("leases", "selfsubjectreviews", "auditcheckpoints")
"""Not about any object: who leads, who we are, and at a takeover where the audit trail stood."""


async def versions(api: KubernetesClient) -> dict[str, str]:
    """Every object of ours with its version; what belonged to one that is gone is the garbage collector's."""
    listings = [await api.list(type, NAMESPACE) for type in TYPES]
    found = [item["metadata"] for listing in listings for item in listing.items]
    there = {meta["uid"] for meta in found}
    owned = [meta for meta in found if all(owner["uid"] in there for owner in meta.get("ownerReferences", ()))]
    return {f"{meta['uid']} {meta['name']}": meta["resourceVersion"] for meta in owned}


async def looks(dev: Dev) -> float:
    """How many passes there were."""
    found = await metrics(dev.system.operator.metrics_port)
    return sum(value for (name, _), value in found.items() if name == "controller_runtime_reconcile_total")


async def writes(dev: Dev) -> dict[str, float]:
    """What this process has written about objects."""
    found = await metrics(dev.system.operator.metrics_port)
    wrote = {labels: value for (name, labels), value in found.items() if name == "agentmetal_api_writes_total"}
    return {labels: value for labels, value in wrote.items() if not any(f'"{what}"' in labels for what in HOUSEKEEPING)}


async def test_a_settled_system_is_looked_at_and_nothing_is_written(dev_system: Dev, story: Story) -> None:
    await story.order(management={"resyncInterval": "2s"})
    await story.ready()
    await asyncio.sleep(2.0)  # what follows the end of a plan: the oldest operation goes, units are forgotten
    before, wrote, looked = await versions(story.api), await writes(dev_system), await looks(dev_system)
    await asyncio.sleep(QUIET)
    assert await versions(story.api) == before
    assert await writes(dev_system) == wrote
    assert await looks(dev_system) >= looked + QUIET / 2 / 2

    await dev_system.restart_operator()
    await asyncio.sleep(QUIET)
    assert await versions(story.api) == before
    assert await writes(dev_system) == {}
    assert await looks(dev_system) >= QUIET / 2 / 2
