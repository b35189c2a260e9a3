"""What must be true after every story, wherever a process died in it. Reads the world and its diary only."""

from __future__ import annotations

import itertools
from collections import Counter

from tests.sweep.scenarios import End
from tests.sweep.world import SweepWorld

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.audit import AuditAction, Verified, verify
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import Operation, OperationPhase, StepState
from agentmetal.core.resource import FINALIZER
from agentmetal.core.risk import Risk

P, S = OperationPhase, StepState
WAITING = frozenset({P.PENDING, P.AWAITING_APPROVAL})
CLOSED = frozenset(phase for phase in P if phase.closed)
NEXT: dict[OperationPhase | None, frozenset[OperationPhase]] = {
    None: WAITING,
    P.PENDING: WAITING | {P.RUNNING} | CLOSED - {P.SUCCEEDED, P.CANCELLED},
    P.AWAITING_APPROVAL: WAITING - {P.PENDING} | {P.RUNNING} | CLOSED - {P.SUCCEEDED, P.CANCELLED},
    P.RUNNING: frozenset({P.RUNNING, P.BLOCKED, P.SUCCEEDED, P.FAILED, P.CANCELLED, P.SUPERSEDED}),
    P.BLOCKED: frozenset({P.BLOCKED, P.RUNNING}),
}
"""Design §3.5. A plan can fail or be outgrown before its first step, so Failed and Superseded follow on waiting."""
NEXT_STEP: dict[StepState, frozenset[StepState]] = {
    S.PENDING: frozenset(S) - {S.IN_DOUBT},
    S.RUNNING: frozenset({S.RUNNING, S.SUCCEEDED, S.FAILED, S.IN_DOUBT}),
    S.IN_DOUBT: frozenset({S.IN_DOUBT, S.SUCCEEDED, S.PENDING}),
    S.SUCCEEDED: frozenset({S.SUCCEEDED}),
    S.FAILED: frozenset({S.FAILED}),
    S.SKIPPED: frozenset({S.SKIPPED}),
}


async def judge(world: SweepWorld, end: End) -> None:
    """Raises AssertionError with the first thing that is not as it must be."""
    await journal_moved_legally(world, end)
    await servers_are_as_promised(world, end)
    commands_ran_once(world)
    destruction_was_decided(world, end)
    digests_were_used_once(world)
    await trail_is_whole(world)
    objects_are_at_their_end(world, end)
    nothing_is_left_over(world, end)


async def journal_moved_legally(world: SweepWorld, end: End) -> None:
    """Each Operation went a way of the table and is closed; a step that was done was not begun again."""
    for name, states in world.diary.operations.items():
        before: OperationPhase | None = None
        for state in states:
            allowed = NEXT.get(before, frozenset({before}))
            assert state.phase in allowed, f"{name} went from {before} to {state.phase}"
            before = state.phase
        for one, next in itertools.pairwise(states):
            _steps_moved_legally(name, one, next)
        assert states[-1].phase in end.phases, f"{name} ended as {states[-1].phase}: {states[-1].status.message}"


def _steps_moved_legally(name: str, one: Operation, next: Operation) -> None:
    for number, (old, new) in enumerate(zip(one.status.steps, next.status.steps, strict=True), start=1):
        back = (old.state, new.state) == (S.RUNNING, S.PENDING) and f"step {number}/" in (next.status.message or "")
        taken_back = back and "did not begin" in (next.status.message or "")
        assert taken_back or new.state in NEXT_STEP[old.state], (
            f"step {name}/{number} went from {old.state} to {new.state}"
        )
        assert new.attempt >= old.attempt, f"step {name}/{number} forgot attempt {old.attempt}"
    begun = sum(step.state is S.RUNNING for step in next.status.steps)
    assert begun <= 1, f"{begun} steps of {name} run at once"
    assert next.spec == one.spec, f"the plan of {name} was changed"


async def servers_are_as_promised(world: SweepWorld, end: End) -> None:
    """One server, never a second one; rebuilt as often as was decided."""
    servers = await world.cloud.list_servers()
    assert len(servers) == end.servers, f"there are {len(servers)} servers: {servers}"
    assert all(server.id == "fake-1" for server in servers), "a second server was ordered"
    if servers:
        assert servers[0].image == end.image
        assert world.cloud.server("fake-1").disk == end.disks, "the disks were replaced too often"


def commands_ran_once(world: SweepWorld) -> None:
    """No command was started twice: one unit for each step of each operation, for none was made to fail."""
    names = Counter(run.name for run in world.hosts.journal)
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, f"these units ran twice: {twice}"
    attempts = {_attempt_of(run.name) for run in world.hosts.journal}
    steps = Counter((name, step) for name, step, _ in attempts)
    again = [step for step, count in steps.items() if count > 1]
    assert not again, f"these steps ran under several attempts: {again}"
    for name, step, attempt in attempts:
        recorded = [state.status.steps[step - 1] for state in world.diary.operations[name]]
        begun = any(s.attempt == attempt and s.state is S.RUNNING for s in recorded)
        assert begun, f"step {step} of {name} has no intent"


def _attempt_of(unit: str) -> tuple[str, int, int]:
    """The operation, step and attempt that a unit's name tells; a step of several commands adds three digits."""
    name, step, attempt = unit.rsplit("-", 2)
    return name, int(step), int(attempt[:-3] or attempt)


def destruction_was_decided(world: SweepWorld, end: End) -> None:
    """Whatever destroyed something was, at that moment, the running step of a plan that a human had approved."""
    entries = [record.entry for record in world.audit.trail]
    told = {e.digest for e in entries if e.action is AuditAction.APPROVE and e.actor == "ann"}
    operations = set()
    for acted in world.diary.acted:
        deciding = [op for op in acted.running if op.spec.risk is Risk.DANGEROUS]
        assert len(deciding) == 1, f"{acted.method} was called while {len(deciding)} Dangerous plans ran"
        (operation,) = deciding
        decision = operation.status.decision
        assert decision and decision.verdict == "Approved", f"{acted.method} without a decision in the journal"
        assert (decision.by, decision.via) == ("ann", "Annotation"), f"{acted.method} was let through by {decision}"
        assert operation.digest in world.diary.approved, f"{acted.method}: nobody approved {operation.short_digest}"
        assert operation.digest in told, f"{acted.method}: the trail has no approval of {operation.short_digest}"
        pairs = zip(operation.spec.steps, operation.status.steps, strict=True)
        running = [step.tool for step, status in pairs if status.state is S.RUNNING]
        assert running == [acted.method.replace("_server", "_instance")], f"{acted.method} while {running} was intended"
        operations.add(operation.metadata.name)
    assert len(operations) == end.decided, f"{len(operations)} plans destroyed something, {end.decided} should"


def digests_were_used_once(world: SweepWorld) -> None:
    """No two operations share a digest, and no human's approval was used twice."""
    owners = Counter(states[0].digest for states in world.diary.operations.values())
    assert max(owners.values(), default=1) == 1, "two operations have the same digest"
    entries = [record.entry for record in world.audit.trail]
    used = Counter(e.digest for e in entries if e.action is AuditAction.APPROVE and e.actor == "ann")
    assert max(used.values(), default=1) == 1, f"an approval was used twice: {used}"


async def trail_is_whole(world: SweepWorld) -> None:
    """The chain verifies, and every head that an Operation saw is in it."""
    anchors = {
        state.status.audit_head: name
        for name, states in world.diary.operations.items()
        for state in states
        if state.status.audit_head
    }
    verdict = await verify(world.audit.records(), anchors)
    assert isinstance(verdict, Verified), verdict


def objects_are_at_their_end(world: SweepWorld, end: End) -> None:
    """Ready at the newest generation, with no plan left; or gone."""
    seen = world.see()
    assert (seen is not None) == end.exists
    if seen is not None:
        assert seen.status.observed_generation == seen.metadata.generation
        assert world.is_quiet(), "it is not settled"


def nothing_is_left_over(world: SweepWorld, end: End) -> None:
    """No finalizer of ours holds what belongs to an object that is gone."""
    objects = (world.cluster.peek(*place) for place in world.cluster.contents("default"))
    bodies = [body for body in objects if body]
    living = {b["metadata"]["uid"] for b in bodies if b["kind"] in (Instance.info.kind, Provider.info.kind)}
    for body in bodies:
        held = FINALIZER in (body["metadata"].get("finalizers") or [])
        if body["kind"] == Operation.info.kind:
            assert not held or body["status"]["phase"] not in CLOSED, f"{body['metadata']['name']} is held for ever"
        if body["kind"] == SECRET.kind and held:
            owners = {owner["uid"] for owner in body["metadata"].get("ownerReferences") or []}
            assert owners <= living, f"Secret {body['metadata']['name']!r} outlives its owner"
    if not end.exists and end.servers == 0:
        assert not any(b["kind"] == Instance.info.kind for b in bodies)
