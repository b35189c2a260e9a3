"""What may never happen, judged while the day goes on: moves of the journal, decisions, orders. Used by `world`.

A day has tens of thousands of operations: of each only what the next judgement needs is kept, until it is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.sweep.oracles import NEXT, NEXT_STEP

from agentmetal.core.operation import OperationPhase, StepState
from agentmetal.core.resource import Annotation
from agentmetal.core.risk import Risk

STOPS_WITHIN = 1.0
"""Seconds after the API server has answered a pause, a deletion, a rejection."""
Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class State:
    """An Operation as last seen."""

    phase: OperationPhase
    steps: tuple[tuple[StepState, int], ...]

    @classmethod
    def of(cls, body: Body) -> State:
        """From the wire."""
        steps = tuple((StepState(step["state"]), int(step.get("attempt", 0))) for step in body["status"]["steps"])
        return cls(phase=OperationPhase(body["status"]["phase"]), steps=steps)


@dataclass(kw_only=True)
class Diary:
    """All that is remembered."""

    now: Callable[[], float]
    leaves_after: Callable[[str], bool]
    """May a plan be left after a step of that tool?"""
    states: dict[str, State] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """Whose each digest is."""
    approved: set[str] = field(default_factory=set)
    stopped: dict[str, float] = field(default_factory=dict)
    """By uid: since when no step of it may begin."""
    complaints: list[str] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    begun: int = 0

    def decision(self, stamp: str) -> None:
        """What admission has stamped on an object."""
        verb, _, rest = stamp.partition(" ")
        if verb == "approve":
            self.approved.add(rest.partition(" ")[0])

    def orders(self, body: Body) -> None:
        """An object was written: may steps begin?"""
        meta = body["metadata"]
        held = (meta.get("annotations") or {}).get(Annotation.PAUSED) == "true"
        if held:
            self.stopped.setdefault(meta["uid"], self.now())
        else:
            self.stopped.pop(meta["uid"], None)

    def operation(self, name: str, body: Body | None) -> None:
        """An Operation was written, or is gone."""
        if body is None:
            self.states.pop(name, None)
            return
        before, state = self.states.get(name), State.of(body)
        if before == state:
            return
        self.states[name] = state
        allowed = NEXT.get(before.phase if before else None, frozenset({before.phase}) if before else frozenset())
        if state.phase not in allowed:
            self.complain(f"{name} went from {before and before.phase} to {state.phase}")
        if before is None:
            self._opened(name, body)
        else:
            self._moved(name, body, before, state)
        if state.phase.closed and (before is None or not before.phase.closed):
            self.ended[state.phase.value] += 1

    def complain(self, what: str) -> None:
        """Something happened that must not."""
        self.complaints.append(f"{self.now():.0f} s: {what}")

    def _opened(self, name: str, body: Body) -> None:
        digest = body["spec"]["digest"]
        if self.digests.setdefault(digest, name) != name:
            self.complain(f"{name} has the digest of {self.digests[digest]}")

    def _moved(self, name: str, body: Body, before: State, state: State) -> None:
        for index, ((old, tried), (new, attempt)) in enumerate(zip(before.steps, state.steps, strict=True)):
            if new not in NEXT_STEP[old] and not _taken_back(body, index, old, new):
                self.complain(f"step {name}/{index + 1} went from {old} to {new}")
            if attempt < tried:
                self.complain(f"step {name}/{index + 1} forgot attempt {tried}")
            if new is StepState.RUNNING and old is StepState.PENDING:
                self._begins(name, body, index)
        if sum(step is StepState.RUNNING for step, _ in state.steps) > 1:
            self.complain(f"several steps of {name} run at once")

    def _begins(self, name: str, body: Body, index: int) -> None:
        self.begun += 1
        spec, status = body["spec"], body["status"]
        decision = status.get("decision") or {}
        decided = spec["digest"] in self.approved and decision.get("by") == "ann"
        if spec["risk"] == Risk.DANGEROUS.value and not decided:
            self.complain(f"{name} begins, but nobody approved it: {decision}")
        since = self.stopped.get(spec["resourceRef"]["uid"])
        critical = index > 0 and not self.leaves_after(spec["steps"][index - 1]["tool"])
        if since is not None and not critical and self.now() - since > STOPS_WITHIN:
            late = self.now() - since
            self.complain(f"step {name}/{index + 1} ({spec['steps'][index]['tool']}) begins {late:.1f} s after a pause")


def _taken_back(body: Body, index: int, old: StepState, new: StepState) -> bool:
    """Did the operator say that the step, whose intent it had written, did not act after all?"""
    said = f"step {index + 1}/{len(body['spec']['steps'])} did not begin"
    return (old, new) == (StepState.RUNNING, StepState.PENDING) and str(body["status"].get("message")).startswith(said)
