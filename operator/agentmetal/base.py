"""What a process has before it leads: the API, the audit store, and what it says about itself. Made by `process`.

Whoever stands by has all of it, so that a takeover takes no time. Nothing here acts, and nothing needs the Lease.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from functools import partial

from agentmetal import storing
from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.audit import AuditStore
from agentmetal.core.clock import Clock, SystemClock
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.kubetypes import NAMESPACE, SELF_SUBJECT_REVIEW
from agentmetal.core.ports import KubeApi
from agentmetal.engine.metrics import Metrics
from agentmetal.kube.health import HealthServer
from agentmetal.settings import Settings
from agentmetal.stage import Standing

OPERATOR = "system:serviceaccount:agentmetal-system:agentmetal-operator"

log = logging.getLogger("agentmetal.base")


@dataclass(frozen=True, kw_only=True)
class Base:
    """What this process has before it leads: whoever stands by has it all, so that a takeover takes no time."""

    settings: Settings
    connection: kubeconfig.Connection
    api: KubernetesClient
    cluster: str
    audit: AuditStore
    metrics: Metrics
    clock: Clock
    standing: Standing


async def prepared(settings: Settings, stack: contextlib.AsyncExitStack) -> Base:
    """Everything but the right to act. Closed with the stack."""
    connection = kubeconfig.from_file(settings.kubeconfig) if settings.kubeconfig else kubeconfig.in_cluster()
    metrics, clock, standing = Metrics(), SystemClock(), Standing()
    api = KubernetesClient(connection, on_request=partial(_count, metrics))
    stack.push_async_callback(api.close)
    await _introduce(api)
    cluster = (await api.get(NAMESPACE, "", "kube-system"))["metadata"]["uid"]
    audit = await storing.opened(settings, api)
    stack.push_async_callback(audit.close)
    await stack.enter_async_context(
        HealthServer(
            metrics,
            standing.healthy,
            standing.ready,
            standing.leading,
            settings.listen_address,
            settings.metrics_port,
        )
    )
    return Base(
        settings=settings,
        connection=connection,
        api=api,
        cluster=cluster,
        audit=audit,
        metrics=metrics,
        clock=clock,
        standing=standing,
    )


async def _introduce(api: KubeApi) -> None:
    """Status is the operator's alone: an operator under another name would be refused at its first write."""
    try:
        answer = await api.create(
            SELF_SUBJECT_REVIEW, {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        )
    except AgentMetalError as error:  # not worth ending for: the lease is waited for anyway
        log.warning("who we are cannot be asked: %s", error)
        return
    user = answer["status"]["userInfo"]["username"]
    if user != OPERATOR:
        log.warning("running as %r, but admission lets only %r write status: use operator.kubeconfig", user, OPERATOR)


def _count(metrics: Metrics, verb: str, plural: str, status: str) -> None:
    metrics.api_answered(status, verb)
    if verb not in ("get", "list", "watch"):
        metrics.api_wrote(verb, plural)
