"""The operator as a process: from its settings to its orderly end. Called by `cli`; `run` is all of it.

It waits for the Lease, leads, watches and works until SIGTERM or until it has lost the right to act. What is wired
inside is `app.compose`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentmetal import providing
from agentmetal.app import Core, World, compose
from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.clients.ssh.machines import SshMachines
from agentmetal.clients.webhook import Webhook
from agentmetal.core.audit import AuditStore
from agentmetal.core.clock import Clock, SystemClock
from agentmetal.core.errors import AgentMetalError, StaleLeader
from agentmetal.core.kubetypes import NAMESPACE, SELF_SUBJECT_REVIEW
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import AnyResource
from agentmetal.engine.metrics import Metrics
from agentmetal.engine.queue import WorkQueue
from agentmetal.kube import handlers
from agentmetal.kube.events import Events
from agentmetal.kube.health import HealthServer
from agentmetal.kube.lease import Durations, Leadership
from agentmetal.kube.notify import Notifier, loader
from agentmetal.kube.secrets import KubeSecrets
from agentmetal.settings import Settings
from agentmetal.store.sqlite import SqliteAuditStore

OPERATOR = "system:serviceaccount:agentmetal-system:agentmetal-operator"
COMPARE_EVERY = 300.0
"""Seconds between two comparisons of the cache with our own LIST."""
DRAIN_SECONDS = 20.0

log = logging.getLogger("agentmetal.process")


class LostLeadership(Exception):
    """This process may not act any more and must end."""


@dataclass(kw_only=True)
class HeldLease:
    """The right to act: the lease, and the epoch that machines compare."""

    lease: Leadership
    epoch: int = 0

    def held(self) -> bool:
        """Is the lease certainly ours at this moment?"""
        return self.lease.held()


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What this process has before it leads."""

    settings: Settings
    connection: kubeconfig.Connection
    api: KubernetesClient
    audit: AuditStore
    metrics: Metrics
    clock: Clock
    state: dict[str, str]
    """Why it is not `ready` or not `healthy`, in a sentence; empty when it is."""


async def run(settings: Settings) -> None:
    """The operator: until SIGTERM, or until it has lost the right to act (LostLeadership)."""
    stop = asyncio.Event()
    _hear_signals(stop)
    connection = kubeconfig.from_file(settings.kubeconfig) if settings.kubeconfig else kubeconfig.in_cluster()
    metrics, clock = Metrics(), SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        api = KubernetesClient(connection, on_request=partial(_count, metrics))
        stack.push_async_callback(api.close)
        await _introduce(api)
        audit = await SqliteAuditStore.open(settings.store_path)
        stack.push_async_callback(audit.close)
        lease = Leadership(
            api, settings.namespace, "agentmetal-operator", settings.identity, clock, _durations(settings)
        )
        state = {"ready": "it waits for the lease"}
        await stack.enter_async_context(_health(settings, metrics, state))
        if not await _first(lease.acquire(), stop):
            return
        stack.push_async_callback(lease.release)
        leader = HeldLease(lease=lease, epoch=await audit.next_epoch(lease.transitions + 1))
        standing = Standing(
            settings=settings,
            connection=connection,
            api=api,
            audit=audit,
            metrics=metrics,
            clock=clock,
            state=state,
        )
        await _lead(standing, leader, stop)


def _hear_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT ask for the orderly end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _lead(standing: Standing, leader: HeldLease, stop: asyncio.Event) -> None:
    """Everything a leader does, and its orderly end."""
    lost: list[StaleLeader] = []

    def give_up(error: StaleLeader) -> None:
        lost.append(error)
        stop.set()

    queue = WorkQueue(standing.metrics)
    cluster = (await standing.api.get(NAMESPACE, "", "kube-system"))["metadata"]["uid"]
    machines = providing.machines_of(standing.settings, standing.api, cluster, queue.add)
    announcers = _announcers(standing, cluster)
    world = World(
        api=standing.api,
        audit=standing.audit,
        machines=machines,
        factories=providing.factories(standing.settings, standing.clock, machines, cluster),
        leader=leader,
        cluster=cluster,
        clock=standing.clock,
        metrics=standing.metrics,
        announcer=announcers,
        lost=give_up,
    )
    core = compose(world, queue=queue)
    await core.prime()
    standing.state["ready"] = ""
    log.info("leading with epoch %s, %s objects known", leader.epoch, len(core.cache.all_keys()))
    await _work(core, standing, leader, stop, announcers, machines)
    if lost or leader.lease.lost.is_set():
        raise LostLeadership(str(lost[0]) if lost else "the lease was lost")


async def _work(
    core: Core,
    standing: Standing,
    leader: HeldLease,
    stop: asyncio.Event,
    announcers: Announcers,
    machines: SshMachines,
) -> None:
    """Watch and work until something ends, then end the rest."""
    stop_watch, kinds = asyncio.Event(), [agent.kind.info for agent in core.agents]
    watching = handlers.watch(standing.connection, core, kinds, stop_watch, started=partial(_hear_signals, stop))
    tasks = [
        asyncio.create_task(watching, name="watch"),
        asyncio.create_task(core.queue.run(core.work, standing.settings.workers), name="queue"),
        asyncio.create_task(_compare(core, standing.state), name="compare"),
        asyncio.create_task(leader.lease.lost.wait(), name="lease"),
        asyncio.create_task(stop.wait(), name="stop"),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.info("ending: %s", ", ".join(task.get_name() for task in done))
        standing.state["ready"] = "it is ending"
    finally:
        await _end(core, tasks, stop_watch, announcers, machines)
    for task in done:
        task.result()


@dataclass(frozen=True, kw_only=True)
class Announcers:
    """Everybody who tells people about a written status: Events, and whoever the administrator wants told."""

    all: tuple[Events | Notifier, ...]

    def announce(self, before: AnyResource, after: AnyResource) -> None:
        """Tell each; none of them waits."""
        for announcer in self.all:
            announcer.announce(before, after)

    async def close(self) -> None:
        """End them together; each takes a second at most."""
        await asyncio.gather(*(announcer.close() for announcer in self.all))


def _announcers(standing: Standing, cluster: str) -> Announcers:
    settings, events = standing.settings, Events(standing.api, standing.clock, standing.settings.identity)
    if not settings.notify_secret:
        return Announcers(all=(events,))
    load = loader(
        KubeSecrets(standing.api), settings.namespace, settings.notify_secret, development=settings.development
    )
    notifier = Notifier(
        Webhook(), load, standing.clock, standing.metrics, cluster=cluster, jitter=random.SystemRandom()
    )
    return Announcers(all=(events, notifier))


async def _end(
    core: Core, tasks: list[asyncio.Task[Any]], stop_watch: asyncio.Event, announcers: Announcers, machines: SshMachines
) -> None:
    """No new step, current ones by their nature, then the rest. kopf is asked, never cancelled: it would hang."""
    await core.executor.drain(DRAIN_SECONDS)
    await core.status.flush(3.0)
    stop_watch.set()
    watch, *others = tasks
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.wait([watch], timeout=5.0)
    await core.status.close()
    await announcers.close()
    await core.providers.close()
    await machines.close()


async def _compare(core: Core, state: dict[str, str]) -> None:
    """The second net under the watch. A watch that misses things twice in a row is not healthy."""
    missed = 0
    while True:
        await asyncio.sleep(COMPARE_EVERY)
        try:
            found = await core.cache.compare()
        except AgentMetalError as error:
            log.warning("the cache could not be compared: %s", error)
            continue
        missed = missed + 1 if found else 0
        state["healthy"] = f"the watch missed {found} changes" if missed > 1 else ""
        if found:
            log.warning("the watch had missed %s changes; they are taken up now", found)


async def _first(wanted: Awaitable[Any], stop: asyncio.Event) -> bool:
    """Wait for one of two; True when it was the wanted one."""
    task, stopped = asyncio.ensure_future(wanted), asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    stopped.cancel()
    task.result()
    return True


def _health(settings: Settings, metrics: Metrics, state: dict[str, str]) -> HealthServer:
    def healthy() -> tuple[bool, str]:
        return not state.get("healthy"), state.get("healthy", "")

    def ready() -> tuple[bool, str]:
        return not state["ready"], state["ready"]

    return HealthServer(metrics, healthy, ready, settings.listen_address, settings.metrics_port)


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


def _durations(settings: Settings) -> Durations:
    return Durations(lease=settings.lease_seconds, renew=settings.renew_seconds, retry=settings.retry_seconds)


def _count(metrics: Metrics, verb: str, plural: str, status: str) -> None:
    metrics.api_answered(status, verb)
    if verb not in ("get", "list", "watch"):
        metrics.api_wrote(verb, plural)
