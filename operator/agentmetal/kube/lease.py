"""The leader's Lease: at most one operator acts. Taken by `process`; the executor asks `held()`.

No clock but our own event loop's is ever used to decide: a foreign Lease is expired when *we* saw it unchanged for as
long as its holder promised to renew it, and we hold ours until the renew deadline counted from *sending* the last
renewal that was answered. The deadline is shorter than the promise, so a leader that is cut off stops first, without
being able to talk to anybody. Times in the Lease are for people.

It does not fence: an effect that is already under way is refused by epochs (design §3.6), made from `transitions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from uuid import uuid4

from agentmetal.core.clock import Clock
from agentmetal.core.errors import (
    AgentMetalError,
    AlreadyExists,
    Conflict,
    NotFound,
    OutcomeUnknown,
    StaleLeader,
    Transient,
)
from agentmetal.core.kubetypes import LEASE
from agentmetal.core.ports import KubeApi

LOOKS_PER_RETRY = 4
"""A look is one GET: 2 a second by default, 0.4 % of a core of the API server (measured). It bounds a takeover."""

AGAIN = 0.05
"""Seconds between two tries to give it up: somebody waits for it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Durations:
    """Seconds. `lease`: what we promise to others. `renew`: when we stop ourselves. `retry`: between two tries."""

    lease: float = 15.0
    renew: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease > self.renew > self.retry > 0:
            raise ValueError(f"lease > renew > retry > 0 is needed, not {self.lease} > {self.renew} > {self.retry}")


class Leadership:
    """One contender for one Lease."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        name: str,
        identity: str,
        clock: Clock,
        durations: Durations | None = None,
        on_lost: Callable[[], None] | None = None,
        notes: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self.holder = f"{identity}_{uuid4()}"
        """Our name in the Lease: no other process has it, not even the next one of this pod or host."""
        self.lost = asyncio.Event()
        """Set when leadership ended without `release`: end the process, or `acquire` again."""
        self.transitions = 0
        """How often the Lease was taken, this time included."""
        self.leader: str | None = None
        """Who leads, as last seen; empty when nobody does, None before the first look."""
        self._api = api
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._durations = durations or Durations()
        self._on_lost = on_lost
        self._notes = notes
        self._held_until = float("-inf")
        self._version = ""
        self._newest = 0
        """The newest version of the Lease that was read while somebody else held it."""
        self._renewing: asyncio.Task[None] | None = None
        self._sighting: _Sighting | None = None

    def held(self) -> bool:
        """May we act? True only until our own deadline, whatever the world is like."""
        return asyncio.get_running_loop().time() < self._held_until

    async def acquire(self) -> None:
        """Wait until the Lease is free or expired, take it, and keep it in the background.

        Raises Permanent errors (Forbidden, the namespace is missing), and StaleLeader when etcd was restored while it
        waited; waits through all others.
        """
        while not await self.acquire_now():  # noqa: ASYNC110 - who holds it tells nobody
            await asyncio.sleep(self._until_next_look())

    async def acquire_now(self) -> bool:
        """Take it if it is free or expired, and keep it in the background; False when it is not, or nobody answers.

        Raises Permanent errors.
        """
        await self._stop_renewing()
        self.lost.clear()
        if not await self._attempt() or not self.held():
            return False
        self._renewing = asyncio.create_task(self._renew_while_held(), name=f"lease-{self._name}")
        self._renewing.add_done_callback(self._ended)
        logger.info("lease %s/%s is ours, transition %d", self._namespace, self._name, self.transitions)
        return True

    async def release(self) -> None:
        """Stop acting, then give the Lease up, so that the next one need not wait for it to expire."""
        await self._stop_renewing()
        if not self._version:
            return
        self._held_until, self._version = float("-inf"), ""
        try:
            async with asyncio.timeout(self._durations.retry):
                while not await self._given_up():  # noqa: ASYNC110 - the API server tells nobody when it is back
                    await asyncio.sleep(AGAIN)
        except (AgentMetalError, TimeoutError) as error:
            logger.warning("lease %s/%s could not be given up and will expire: %r", self._namespace, self._name, error)

    async def _given_up(self) -> bool:
        """Is it not ours any more? A renewal that was on its way when we stopped may arrive in between."""
        try:
            lease = await self._api.get(LEASE, self._namespace, self._name)
            if _holder(lease) == self.holder:
                await self._patch(lease["metadata"]["resourceVersion"], {"holderIdentity": ""})
        except (Transient, OutcomeUnknown) as error:
            logger.info("lease %s/%s not given up, tried again: %r", self._namespace, self._name, error)
            return False
        return True

    async def _attempt(self) -> bool:
        """Try once to take it."""
        sent = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._durations.renew):
                lease = await self._take()
        except (Transient, AlreadyExists, OutcomeUnknown, TimeoutError) as error:
            logger.debug("lease %s/%s not taken: %r", self._namespace, self._name, error)
            return False
        if lease is None:
            return False
        self.transitions = _transitions(lease)
        self._keep(lease, sent)
        return True

    def _until_next_look(self) -> float:
        """Often enough to see soon that it was given up, and just when an expired one may be taken."""
        look = self._durations.retry / LOOKS_PER_RETRY
        if self._sighting is None:
            return look
        expires_in = self._sighting.expires - asyncio.get_running_loop().time()
        return min(look, expires_in) if expires_in > 0 else look

    async def _take(self) -> dict[str, Any] | None:
        try:
            lease = await self._api.get(LEASE, self._namespace, self._name)
        except NotFound:
            # Somebody deleted it under a living holder: that one is waited for like any other.
            self.leader = ""
            return await self._create() if self._is_free(None) else None
        self._check_history(lease)
        self.leader = _holder(lease)
        if not self._is_free(lease):
            return None
        taken = {**self._ours(), "acquireTime": self._now(), "leaseTransitions": _transitions(lease) + 1}
        return await self._patch(lease["metadata"]["resourceVersion"], taken)

    def _check_history(self, lease: dict[str, Any]) -> None:
        """A read with quorum that shows the past: etcd was restored, and the watches of who stands by would be deaf."""
        version = int(lease["metadata"]["resourceVersion"])
        if version < self._newest:
            raise StaleLeader(f"lease {self._namespace}/{self._name} went back in time: all we know is no more")
        self._newest = version

    async def _create(self) -> dict[str, Any]:
        known = self._sighting.transitions if self._sighting else 0
        spec = {**self._ours(), "acquireTime": self._now(), "leaseTransitions": known + 1}
        metadata = {"namespace": self._namespace, "name": self._name}
        body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
        return await self._api.create(LEASE, body)

    def _is_free(self, lease: dict[str, Any] | None) -> bool:
        """Is it nobody's, ours, or unchanged before our eyes for as long as its holder promised?"""
        now = asyncio.get_running_loop().time()
        if lease is None:
            return self._sighting is None or now >= self._sighting.expires
        if _holder(lease) in ("", self.holder):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._sighting is None or self._sighting.version != version:
            promised = float(lease["spec"].get("leaseDurationSeconds") or self._durations.lease)
            self._sighting = _Sighting(version=version, expires=now + promised, transitions=_transitions(lease))
        return now >= self._sighting.expires

    async def _renew_while_held(self) -> None:
        """Every retry period until it is lost; a try never outlasts the deadline."""
        loop = asyncio.get_running_loop()
        while self.held():
            await asyncio.sleep(min(self._durations.retry, self._held_until - loop.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._held_until):
                    await self._renew()

    def _ended(self, renewing: asyncio.Task[None]) -> None:
        """Renewing came to its end, also by a bug: whoever leads must hear of it. Cancelled means `release`."""
        if renewing.cancelled():
            return
        self._held_until, self._version = float("-inf"), ""
        place = f"{self._namespace}/{self._name}"
        logger.error("lease %s is lost: nothing may be done any more", place, exc_info=renewing.exception())
        self.lost.set()
        if self._on_lost:
            self._on_lost()

    async def _renew(self) -> None:
        if not self.held():
            return
        sent = asyncio.get_running_loop().time()
        try:
            self._keep(await self._patch(self._version, self._ours()), sent)
        except Conflict:
            await self._look_again()
        except NotFound:
            self._held_until = float("-inf")
        except AgentMetalError as error:
            logger.warning("lease %s/%s not renewed, tried again: %r", self._namespace, self._name, error)

    async def _look_again(self) -> None:
        """Somebody wrote to it: another holder, or only an annotation (or it was us, and the answer got lost)."""
        try:
            lease = await self._api.get(LEASE, self._namespace, self._name)
        except NotFound:
            self._held_until = float("-inf")
        except AgentMetalError as error:
            logger.warning("lease %s/%s cannot be read, tried again: %r", self._namespace, self._name, error)
        else:
            version = lease["metadata"]["resourceVersion"]
            if int(version) < int(self._version):  # a read with quorum: etcd was restored, and watches do not notice
                logger.error("lease %s/%s went back in time: all we know is no more", self._namespace, self._name)
                self._held_until = float("-inf")
            elif _holder(lease) == self.holder:
                self._version = version
            else:
                self._held_until = float("-inf")

    def _keep(self, lease: dict[str, Any], sent: float) -> None:
        self.leader = self.holder
        self._version = lease["metadata"]["resourceVersion"]
        self._held_until = sent + self._durations.renew

    async def _patch(self, version: str, spec: dict[str, Any]) -> dict[str, Any]:
        noted = {"annotations": notes} if (notes := self._notes()) else {}
        patch = {"metadata": {"resourceVersion": version, **noted}, "spec": spec}
        return await self._api.patch(LEASE, self._namespace, self._name, patch)

    def _ours(self) -> dict[str, Any]:
        # Rounded up: what others wait must not be shorter than what we count on.
        promised = -int(-self._durations.lease // 1)
        return {"holderIdentity": self.holder, "leaseDurationSeconds": promised, "renewTime": self._now()}

    def _now(self) -> str:
        """metav1.MicroTime"""
        return self._clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    async def _stop_renewing(self) -> None:
        task, self._renewing = self._renewing, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


@dataclass(frozen=True, kw_only=True)
class _Sighting:
    """Somebody else's Lease as we first saw this version of it."""

    version: str
    expires: float
    transitions: int


def _holder(lease: dict[str, Any]) -> str:
    return lease.get("spec", {}).get("holderIdentity") or ""


def _transitions(lease: dict[str, Any]) -> int:
    return int(lease.get("spec", {}).get("leaseTransitions") or 0)
