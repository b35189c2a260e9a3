"""What this process knows of operations: open ones, the last closed ones, and what follows from them. No I/O.

The ledger builds on it and fills it; the loop and `verbs` ask it. After a restart the ledger fills it again.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from agentmetal.core.operation import Operation, OperationPhase, Unreadable, moment
from agentmetal.core.resource import AnyResource, Key

UNSTABLE_AFTER = 3
UNSTABLE_WITHIN = timedelta(minutes=10)
CLOCKS_DIFFER = 5.0
"""Seconds by which the clock of the leader before us may have been ahead."""


@dataclass(frozen=True, kw_only=True)
class Failures:
    """How often plans of an object failed in a row, and when the last one did."""

    count: int = 0
    last: Operation | None = None

    def wait(self, now: datetime) -> float:
        """Seconds until the next try: 10 s, doubling, ten minutes at most."""
        ended = moment(self.last.status.finished_at) if self.last else None
        return _rest(ended, min(10.0 * 2 ** (self.count - 1), 600.0), now) if ended else 0.0


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """The same plan succeeded several times in a row: it does not achieve what it is for, or somebody undoes it."""

    plan_hash: str
    count: int
    at: datetime

    def wait(self, now: datetime) -> float:
        """Seconds until the plan may run again: 5 s, doubling, ten minutes at most."""
        return _rest(self.at, min(5.0 * 2 ** (self.count - 1), 600.0), now)


class Known:
    """Operations by the uid of their object."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, Operation]] = defaultdict(dict)
        self._places: dict[Key, set[str]] = {}
        """The uids of objects of that name with something open."""
        self._closed: dict[str, list[Operation]] = {}
        self._numbers: dict[str, int] = {}
        self._superseded: dict[str, list[Operation]] = {}
        self._repeats: dict[str, Repeat] = {}
        self._let_go: dict[str, str] = {}
        """Open operations that this process has let begin, and the audit's head then: a decision is recorded once."""
        self._unreadable: dict[str, Unreadable] = {}
        """What another version began and only it can end."""

    def running(self, uid: str) -> Operation | None:
        """The operation of an object that has begun and not ended (Running or Blocked)."""
        return (
            next((op for op in self._open[uid].values() if not op.phase.waiting), None) if uid in self._open else None
        )

    def waiting(self, uid: str) -> tuple[Operation, ...]:
        """The operations of an object that have not begun."""
        return tuple(op for op in self._open[uid].values() if op.phase.waiting) if uid in self._open else ()

    def left_of(self, key: Key, living: str = "") -> tuple[Operation, ...]:
        """What is open about objects that had that name and are gone; `living` is the uid of the one that has it."""
        return tuple(op for uid in self._places.get(key, ()) if uid != living for op in self._open[uid].values())

    def last_closed(self, uid: str) -> Operation | None:
        """The newest closed operation that this process knows."""
        return max(self._closed.get(uid, ()), key=lambda op: op.spec.number, default=None)

    def failures(self, uid: str) -> Failures:
        """Failures in a row, newest last; anything that succeeded ends the row."""
        row: list[Operation] = []
        for operation in sorted(self._closed.get(uid, ()), key=lambda op: -op.spec.number):
            if operation.phase is OperationPhase.SUCCEEDED:
                break
            if operation.phase is OperationPhase.FAILED:
                row.append(operation)
        return Failures(count=len(row), last=row[0] if row else None)

    def refused(self, resource: AnyResource, plan_hash: str) -> str | None:
        """Who refused exactly this plan at this generation of the spec, and nobody has had it proposed anew since."""
        uid, noted = resource.uid, resource.status.rejected
        known = (*self._closed.get(uid, ()), *self._open.get(uid, {}).values())
        same = [op for op in known if op.spec.plan_hash == plan_hash]
        if same:
            last = max(same, key=lambda op: op.spec.number)
            decision = last.status.decision
            refused = last.phase.closed and decision is not None and decision.verdict == "Rejected"
            if not refused or last.spec.generation != resource.metadata.generation:
                return None
            return decision.by if decision else "somebody"
        if noted and noted.plan_hash == plan_hash and noted.generation == resource.metadata.generation:
            return noted.by
        return None

    def unstable(self, resource: AnyResource, now: datetime) -> str | None:
        """Has the plan for this very spec changed three times within ten minutes? Then says which parameter flips."""
        flipped = self._superseded.get(resource.uid, [])[-UNSTABLE_AFTER:]
        recent = [op for op in flipped if abs(now - (moment(op.status.finished_at) or now)) < UNSTABLE_WITHIN]
        recent = [op for op in recent if op.spec.generation == resource.metadata.generation]
        if len(recent) < UNSTABLE_AFTER:
            return None
        pairs = [(a, b) for a, b in itertools.pairwise(recent) if a.spec.plan_hash != b.spec.plan_hash]
        return _difference(*pairs[-1]) if pairs else "what it is made for comes and goes"

    def repeated(self, uid: str, plan_hash: str) -> Repeat | None:
        """Did this very plan succeed just before?"""
        repeat = self._repeats.get(uid)
        return repeat if repeat and repeat.plan_hash == plan_hash else None

    def _count_repeat(self, operation: Operation, now: datetime) -> None:
        uid, plan_hash = operation.spec.resource_ref.uid, operation.spec.plan_hash
        before = self.repeated(uid, plan_hash)
        count = before.count + 1 if before and abs(now - before.at) < UNSTABLE_WITHIN else 1
        self._repeats[uid] = Repeat(plan_hash=plan_hash, count=count, at=now)

    def settle_down(self, uid: str) -> None:
        """A human changed something: the count of changing plans starts anew."""
        self._superseded.pop(uid, None)
        self._repeats.pop(uid, None)

    def forget(self, uid: str) -> None:
        """The object is gone."""
        for name in self._open.pop(uid, {}):
            self._let_go.pop(name, None)
        self._closed.pop(uid, None)
        self._numbers.pop(uid, None)
        self._superseded.pop(uid, None)
        self._repeats.pop(uid, None)
        self._unreadable.pop(uid, None)

    def _remember(self, operation: Operation) -> None:
        uid, name = operation.spec.resource_ref.uid, operation.metadata.name
        if not operation.phase.closed:
            self._open[uid][name] = operation
            self._places.setdefault(_place(operation), set()).add(uid)
            return
        self._drop(operation)
        closed = self._closed.setdefault(uid, [])
        self._closed[uid] = [*(op for op in closed if op.metadata.name != name), operation]

    def _drop(self, operation: Operation) -> None:
        """It is not open any more."""
        uid, place = operation.spec.resource_ref.uid, _place(operation)
        self._let_go.pop(operation.metadata.name, None)
        self._open[uid].pop(operation.metadata.name, None)
        if self._open[uid]:
            return
        del self._open[uid]
        uids = self._places.get(place, set())
        uids.discard(uid)
        if not uids:
            self._places.pop(place, None)


def _rest(since: datetime, delay: float, now: datetime) -> float:
    """What is left of a delay. None when it began in the future: then our clock was set back meanwhile."""
    passed = (now - since).total_seconds()
    return delay - passed if -CLOCKS_DIFFER < passed < delay else 0.0


def _place(operation: Operation) -> Key:
    ref = operation.spec.resource_ref
    return Key(ref.kind, operation.metadata.namespace, ref.name)


def _difference(older: Operation, newer: Operation) -> str:
    """Which parameter differs between two plans, for a human."""
    if [s.tool for s in older.spec.steps] != [s.tool for s in newer.spec.steps]:
        return "its steps flip between two lists"
    for old, new in zip(older.spec.steps, newer.spec.steps, strict=True):
        for name in sorted(old.parameters.keys() | new.parameters.keys()):
            if old.parameters.get(name) != new.parameters.get(name):
                return f"parameter {name!r} of step {new.tool!r} flips"
    return "its targets flip"
