"""The operator as a process: from its settings to its orderly end. Called by `cli`; `run` is all of it.

It learns and watches, stands by until the Lease is its own, and leads until SIGTERM or until it has lost the right to
act. Whoever stands by does all that a leader does but act, so a takeover costs a LIST of what is open, and no more.
What is wired inside is `app.compose`'s business, what it answers about itself `stage`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from agentmetal import announcing, providing
from agentmetal.app import Core, World, compose
from agentmetal.base import Base, prepared
from agentmetal.clients.ssh.machines import SshMachines
from agentmetal.core.errors import AgentMetalError, OutcomeUnknown, StaleLeader, Transient
from agentmetal.core.resource import Key
from agentmetal.engine.queue import WorkQueue
from agentmetal.kube import handlers
from agentmetal.kube.checkpoints import Checkpoints
from agentmetal.kube.lease import Durations, Leadership
from agentmetal.settings import Settings
from agentmetal.stage import Stage, Standing

COMPARE_EVERY = 300.0
"""Seconds between two comparisons of the cache with our own LIST."""
DRAIN_SECONDS = 20.0
"""An orderly end waits so long for a call that cannot be repeated."""
GRACE_SECONDS = 0.75
"""And so long for all others: commands live on at their hosts, and the next leader asks how they ended."""
FLUSH_SECONDS = 0.25
"""And for statuses on their way; the next leader composes them anew."""
LEASE = "agentmetal-operator"
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between two questions that a takeover waits for; the last one repeats."""
COLLECT_AFTER = (20_000, 20, 50)
"""Young objects until the collector looks at them, and so on. Its defaults took 9 % of our time (measured): nearly all
that we make is parsed JSON, in which there are no cycles to be found."""

log = logging.getLogger("agentmetal.process")
T = TypeVar("T")


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


async def run(settings: Settings) -> None:
    """The operator: until SIGTERM, or until it has lost the right to act (LostLeadership)."""
    stop = asyncio.Event()
    _hear_signals(stop)
    gc.set_threshold(*COLLECT_AFTER)
    async with contextlib.AsyncExitStack() as stack:
        base = await prepared(settings, stack)
        heads = Checkpoints(base.api, base.audit, base.clock, namespace=settings.namespace, lease=LEASE)
        lease = Leadership(
            base.api,
            settings.namespace,
            LEASE,
            settings.identity,
            base.clock,
            _durations(settings),
            on_lost=stop.set,
            notes=heads.notes,
        )
        base.standing.leader, base.standing.held = lambda: lease.leader, lease.held
        base.metrics.leads(lambda: base.standing.leading()[0])
        work = _composed(base, HeldLease(lease=lease), heads, stop)
        stack.push_async_callback(_close, work)
        stack.push_async_callback(lease.release)
        try:
            if await _first(_ours(work, stop), stop):
                await _lead(work, stop)
        except StaleLeader as error:
            raise LostLeadership(error.message) from error
        if work.lost or lease.lost.is_set():
            raise LostLeadership(str(work.lost[0]) if work.lost else "the lease was lost")
        for task in work.following:  # none has been asked to end yet
            if task.done() and not task.cancelled():
                task.result()


async def _ours(work: Work, stop: asyncio.Event) -> None:
    """Until the Lease is ours, and all is known that was so when it became ours.

    Where nobody leads it is taken first: what is learned after that is new enough.
    """
    lease, standing = work.leader.lease, work.base.standing
    new_enough = await lease.acquire_now()
    await _follow(work, stop)
    while True:
        if not new_enough:
            standing.stage = Stage.STANDING_BY
            await lease.acquire()
        standing.stage = Stage.TAKING_OVER
        if await _informed(work, behind=not new_enough):
            return
        new_enough = False


async def _informed(work: Work, *, behind: bool) -> bool:
    """What the last leader did, an epoch of our own, and what the trail lost; nothing of ours acts before.

    False when nobody answers: somebody else may be answered, with a newer password for the store for example, so the
    Lease is left to him. Ending would help nobody: a cold start needs the same answers.
    """
    leader, heads, patience = work.leader, work.heads, _patience(work)
    try:
        if behind:
            await answered(work.core.catch_up, patience)
        leader.epoch = await answered(lambda: heads.next_epoch(leader.lease.transitions + 1), patience)
        # Records that are lost hold plans back from the first one on.
        await answered(lambda: heads.begin(leader.epoch), patience)
    except (Transient, OutcomeUnknown) as error:
        log.warning("the lease is left to others, and waited for again: %s", error)
        await leader.lease.release()
        await asyncio.sleep(work.base.settings.retry_seconds)  # or it is ours again before anybody else looks
        return False
    return True


def _hear_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT ask for the orderly end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


@dataclass(kw_only=True)
class Work:
    """What this process works with, from the moment on that it stands by."""

    core: Core
    base: Base
    leader: HeldLease
    heads: Checkpoints
    announcers: announcing.Announcers
    machines: SshMachines
    lost: list[StaleLeader]
    """What told us that somebody newer leads."""
    following: tuple[asyncio.Task[None], ...] = ()
    """What keeps the cache: the watch, and the comparison."""
    stop_watch: asyncio.Event = field(default_factory=asyncio.Event)
    """kopf is asked to end, never cancelled: it would hang."""

    def may_act(self) -> bool:
        """Is the right to act still ours?"""
        return not self.lost and self.leader.held()


def _composed(base: Base, leader: HeldLease, heads: Checkpoints, stop: asyncio.Event) -> Work:
    """Everything wired; nothing of it acts before `_lead`."""
    lost: list[StaleLeader] = []

    def give_up(error: StaleLeader) -> None:
        lost.append(error)
        stop.set()

    queue = WorkQueue(base.metrics)
    announcers = announcing.announcers(base.settings, base.api, base.clock, base.metrics, base.cluster)
    machines = providing.machines_of(base.settings, base.api, base.cluster, queue.add)
    world = World(
        api=base.api,
        audit=base.audit,
        machines=machines,
        factories=providing.factories(base.settings, base.clock, machines, base.cluster),
        leader=leader,
        cluster=base.cluster,
        clock=base.clock,
        metrics=base.metrics,
        announcer=announcers,
        lost=give_up,
    )
    core = compose(world, queue=queue)
    return Work(core=core, base=base, leader=leader, heads=heads, announcers=announcers, machines=machines, lost=lost)


async def _follow(work: Work, stop: asyncio.Event) -> None:
    """Learn what is there, and follow it from then on: whoever stands by knows what the leader knows.

    Whoever cannot follow any more must not lead: the end of either task is asked for as SIGTERM is.
    """
    core, base = work.core, work.base
    since, kinds = await core.learn(), [agent.kind.info for agent in core.agents]
    gc.collect()
    gc.freeze()  # all of it stays: the collector need not look at ten thousand objects again and again
    watching = handlers.watch(
        base.connection, core, kinds, work.stop_watch, since=since, started=partial(_hear_signals, stop)
    )
    work.following = (
        asyncio.create_task(watching, name="watch"),
        asyncio.create_task(_compare(core, base.standing), name="compare"),
    )
    for task in work.following:
        task.add_done_callback(lambda _: stop.set())


async def _lead(work: Work, stop: asyncio.Event) -> None:
    """Everything a leader does, and the end of its acting."""
    base, leader = work.base, work.leader
    if not leader.held():
        raise LostLeadership("the lease was lost before anything was done with it")
    began = base.clock.now()
    if not await _first(answered(work.core.begin, _patience(work)), stop):
        return  # else our epoch is in every open Operation: nobody older can act
    base.standing.stage = Stage.LEADING
    took = (base.clock.now() - began).total_seconds()
    known = len(work.core.cache.all_keys())
    log.info("leading with epoch %s, %s objects known, claimed within %.2f s", leader.epoch, known, took)
    await _work(work, stop)


def _patience(work: Work) -> float:
    """Seconds. After two Lease times somebody else may try."""
    return 2 * work.base.settings.lease_seconds


async def answered(ask: Callable[[], Awaitable[T]], within: float) -> T:
    """Ask until there is an answer; raises what will not pass by itself, and the silence that lasts so many seconds.

    Leaders are lost when API servers are: who ended at the first silence would begin again cold, with less hope.
    """
    loop, pauses = asyncio.get_running_loop(), itertools.chain(PAUSES, itertools.repeat(PAUSES[-1]))
    ends = loop.time() + within
    while True:
        try:
            return await ask()
        except (Transient, OutcomeUnknown) as error:
            if (left := ends - loop.time()) <= 0:
                raise
            pause = min(max(error.retry_after or 0.0, next(pauses)), left)
            log.warning("nothing is done before this is answered, again in %g s: %s", pause, error)
        await asyncio.sleep(pause)


async def _work(work: Work, stop: asyncio.Event) -> None:
    """Work until something ends, then end the rest."""
    core, base = work.core, work.base
    tasks = [
        asyncio.create_task(passes(core.queue, core.work, base.settings.workers, work.lost), name="queue"),
        asyncio.create_task(work.heads.keep(base.metrics.gaps_open), name="audit"),
        asyncio.create_task(work.leader.lease.lost.wait(), name="lease"),
        asyncio.create_task(stop.wait(), name="stop"),
    ]
    try:
        done, _ = await asyncio.wait([*work.following, *tasks], return_when=asyncio.FIRST_COMPLETED)
        log.info("ending: %s", ", ".join(task.get_name() for task in done))
    finally:
        base.standing.stage = Stage.ENDING
        await _stop_acting(work, tasks)
    for task in done:
        task.result()


async def passes(
    queue: WorkQueue, look: Callable[[Key], Awaitable[None]], workers: int, lost: list[StaleLeader]
) -> None:
    """Drain the queue. A pass that finds out that somebody newer leads ends us in order, and is no bug."""
    try:
        await queue.run(look, workers)
    except* StaleLeader as group:
        lost.extend(error for error in group.exceptions if isinstance(error, StaleLeader))


async def _stop_acting(work: Work, tasks: Iterable[asyncio.Task[Any]]) -> None:
    """No new step, current ones by their nature, then the Lease given up.

    Whoever has lost the right to act waits for nothing.
    """
    core = work.core
    if work.may_act():
        await core.executor.drain(DRAIN_SECONDS, grace=GRACE_SECONDS)
    else:
        await core.executor.drain(0.0, grace=0.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if work.may_act():
        await core.status.flush(FLUSH_SECONDS)
        await _keep_head(work.heads)
    await core.status.close()
    await work.leader.lease.release()  # nothing of ours can act any more: the next leader need not wait for the rest


async def _close(work: Work) -> None:
    """End the watch, then everything that was open. What the watch says after it was asked to end ends nothing else."""
    work.stop_watch.set()
    if work.following:
        watch, compare = work.following
        compare.cancel()
        cut_off = bool(work.lost) or work.leader.lease.lost.is_set()  # then it waits for answers that do not come
        done, _ = await asyncio.wait([watch], timeout=1.0 if cut_off else 5.0)
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                log.warning("the watch ended with %r", error)
    await work.announcers.close()
    await work.core.providers.close()
    await work.machines.close()


async def _keep_head(heads: Checkpoints) -> None:
    """The head of the audit trail, as it is at the end. The next leader does not wait for it."""
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            await heads.end()
    except (AgentMetalError, TimeoutError) as error:
        log.warning("the head of the audit trail is not kept at the end: %r", error)


async def _compare(core: Core, standing: Standing) -> None:
    """The second net under the watch. A watch that misses things twice in a row is not healthy."""
    missed = 0
    while True:
        await asyncio.sleep(COMPARE_EVERY)
        try:
            found = await core.compare()
        except StaleLeader:
            continue  # it is told where it was found out: we are ending
        except AgentMetalError as error:
            log.warning("the cache could not be compared: %s", error)
            continue
        missed = missed + 1 if found else 0
        standing.ill = f"the watch missed {found} changes" if missed > 1 else ""
        if found:
            log.warning("the watch had missed %s changes; they are known now", found)


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


def _durations(settings: Settings) -> Durations:
    return Durations(lease=settings.lease_seconds, renew=settings.renew_seconds, retry=settings.retry_seconds)
