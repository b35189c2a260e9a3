"""Rotation of a Provider's client key, as the agent decides about it: pure. Called by `agent.py` beside it.

`agentmetal.io/rotate` asks for one by any value that is not the one noted in the Secret. It is an issue, not a change:
the spec says nothing of keys, and the Provider answers as before while it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentmetal.agents.provider.api import Provider, key_secret_name
from agentmetal.core.condition import Condition, ConditionStatus, ConditionType, Reason
from agentmetal.core.plan import Issue, Plan
from agentmetal.core.ports import Ports
from agentmetal.core.resource import Annotation
from agentmetal_tools.login_keys import Stage, rotation_done, rotation_named, stage_of
from agentmetal_tools.rotation import (
    RevokeParams,
    RotationFacts,
    RotationParams,
    make_next_key,
    refusal,
    revoke_old_key,
    spread_key,
    switch_key,
)

OVERLAP_SECONDS = 300
"""Longer than any call that orders or rebuilds a server with the keys it read before (`timeout` of those tools)."""
TOOLS = (make_next_key, spread_key, switch_key, revoke_old_key)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """What is to be done about the key."""

    facts: RotationFacts
    wanted: str = ""
    """The rotation that the annotation asks for and that is not done yet."""

    @property
    def pending(self) -> bool:
        """Is one asked for, or half done?"""
        return bool(self.wanted) or self.facts.stage in (Stage.SPREADING, Stage.REVOKING)


async def observe_rotation(ports: Ports, resource: Provider, held: Mapping[str, bytes]) -> Rotation:
    """How far a rotation is. Whose the Secret is, is asked only when that matters."""
    asked = rotation_named(resource.annotation(Annotation.ROTATE))
    stage = stage_of(held)
    facts = RotationFacts(stage=stage, ours=True)
    seen = Rotation(facts=facts, wanted=asked if asked != rotation_done(held) else "")
    if stage is Stage.NONE or not seen.pending:
        return Rotation(facts=facts)
    ours = await ports.secrets.ours(resource, key_secret_name(resource.metadata.name))
    return Rotation(facts=RotationFacts(stage=stage, ours=ours), wanted=seen.wanted)


def rotation_issues(rotation: Rotation | None) -> tuple[Issue, ...]:
    """One to be healed while it is not over."""
    if rotation is None or not rotation.pending or not rotation.facts.ours:
        return ()
    evidence = f"agentmetal.io/rotate asks for {rotation.wanted!r}" if rotation.wanted else rotation.facts.stage.value
    return (Issue(type=Reason.KEY_ROTATION, urgent=False, evidence=evidence),)


def rotation_plan(resource: Provider, rotation: Rotation | None) -> Plan:
    """All steps, wherever it is: each looks for itself. What an earlier rotation left comes first, alone."""
    if rotation is None:
        return Plan()
    name = resource.metadata.name
    place = {"provider": name, "secret": key_secret_name(name), "rotation": rotation.wanted}
    params, facts = RotationParams(**place), rotation.facts
    revoke = revoke_old_key.step(RevokeParams(**place, overlap_seconds=OVERLAP_SECONDS), facts)
    if facts.stage is Stage.REVOKING:
        return Plan(steps=(revoke,), reasoning=f"The previous key of {name!r} still logs in somewhere")
    steps = (*(tool.step(params, facts) for tool in (make_next_key, spread_key, switch_key)), revoke)
    return Plan(steps=steps, reasoning=f"The client key of {name!r} is rotated")


def rotation_conditions(resource: Provider, rotation: Rotation | None, ready: Condition) -> tuple[Condition, ...]:
    """Ready, and Degraded when what the annotation asks for cannot be done.

    While the key is rotated it answers as before: the reason lets the engine leave it Ready while the plan runs.
    """
    if rotation is None or not rotation.pending or ready.status is not ConditionStatus.TRUE:
        return (ready,)
    if refused := refusal(key_secret_name(resource.metadata.name), rotation.facts):
        message = f"{Annotation.ROTATE} is not followed: {refused.message}"
        return ready, Condition.true(ConditionType.DEGRADED, Reason.NOT_SUPPORTED, message)
    return (Condition.true(ready.type, Reason.KEY_ROTATION, f"{ready.message}; {rotation.facts.stage.value}"),)
