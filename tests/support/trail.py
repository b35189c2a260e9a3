"""Operators of a test keep an audit trail of their own: the cluster then forgets what it knows of the other one.

It keeps heads of the trail (AuditCheckpoints, the Lease's note), and a store without those records is one that lost
them: nothing above Safe would begin. What an administrator does who throws a trail away on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.support.postgres import server

from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.errors import NotFound
from agentmetal.core.kubetypes import LEASE
from agentmetal.core.ports import KubeApi
from agentmetal.dev.operator import LEASE_NAME
from agentmetal.kube.checkpoints import NOTE
from agentmetal.kube.install import NAMESPACE


async def forget_heads(api: KubeApi) -> None:
    """As administrator, while no operator with another store runs."""
    for body in (await api.list(AuditCheckpoint.info.type, NAMESPACE)).items:
        with suppress(NotFound):  # somebody else forgets, too
            await api.delete(AuditCheckpoint.info.type, NAMESPACE, body["metadata"]["name"])
    try:
        await api.patch(LEASE, NAMESPACE, LEASE_NAME, {"metadata": {"annotations": {NOTE: None}}})
    except NotFound:
        return  # nobody has led yet


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """One PostgreSQL for all operators that share a store."""
    with server() as running:
        yield running.url()
