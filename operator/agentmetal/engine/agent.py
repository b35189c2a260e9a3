"""Agent: everything a domain has to say, on one screen. Subclassed in `agents/`; called by the loop, never calls it.

`observe` may wait and may not change anything; all the rest is pure and may not wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from agentmetal.core.condition import Condition
from agentmetal.core.plan import Change, Issue, Plan
from agentmetal.core.ports import Ports
from agentmetal.core.resource import Key, ManagedResource, ManagedSpec, ManagedStatus
from agentmetal.core.tool import AnyTool


class Observed(Protocol):
    """What an observation has at least."""

    @property
    def at(self) -> datetime:
        """When it was made: the only clock that pure functions see."""

    @property
    def targets(self) -> Mapping[str, str]:
        """Identities of what a plan would act on (server id, machine id). They are part of every plan's hash."""


class Volatile:
    """Marks a field of an observation that changes by itself: `lag: Annotated[int, Volatile]`.

    A test perturbs such fields and expects the same plan: they are evidence, never parameters.
    """


@dataclass(frozen=True, kw_only=True)
class Report:
    """What status says about the world: the kind's own fields, and conditions that the agent alone can know.

    `conditions` should hold Ready; what is not named is reported as not applying.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Wire names (camelCase) to JSON values; None removes the field. States and roles, never volatile numbers."""
    conditions: tuple[Condition, ...] = ()
    again_in: float | None = None
    """Look again after so many seconds at the latest, although all is well: what must not wait for the next resync."""
    gauges: Mapping[str, float] = field(default_factory=dict)
    """Numbers that move, by their name in `engine.metrics.GAUGES`: shown as metrics of the object, never written."""


R = TypeVar("R", bound=ManagedResource[ManagedSpec, ManagedStatus])
O = TypeVar("O", bound=Observed)  # noqa: E741 - R and O are the names of design.md


class Agent(ABC, Generic[R, O]):
    """Compares what is wanted with what is and plans the way there. One class per kind."""

    name: ClassVar[str]
    """The domain, as in logs, the audit trail, and the names of its sample and its page: `instance`."""
    kind: ClassVar[type[ManagedResource[Any, Any]]]
    """The resource model; it defines the CRD."""
    observe_timeout: ClassVar[float] = 20.0
    """Seconds an observation may take."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports

    @abstractmethod
    async def observe(self, resource: R) -> O:
        """Look at the world. Reads only; from the API only what the cache (`ports.lookup`) or a Secret says.

        Raises core.errors only: Transient and Permanent ones become conditions with their own reason and message.
        What must not stop a deletion (a host that is gone) is part of the observation, not an error.
        """

    @abstractmethod
    def diff(self, resource: R, observed: O) -> tuple[Change, ...]:
        """What the user wants otherwise than it is."""

    def issues(self, resource: R, observed: O) -> tuple[Issue, ...]:
        """What went wrong by itself, the worst first."""
        return ()

    @abstractmethod
    def plan(self, resource: R, observed: O, changes: tuple[Change, ...]) -> Plan:
        """The steps that make the changes; asked only when there are some. Empty when nothing can be done now.

        A function of its arguments: it is made again right before it runs, and another plan is not carried out.
        Trigger and targets are filled in by the engine.
        """

    def heal(self, resource: R, observed: O, issue: Issue) -> Plan:
        """The steps that repair an issue. Empty when the agent knows no repair."""
        return Plan()

    @abstractmethod
    def teardown(self, resource: R, observed: O) -> Plan:
        """The steps that must run before the object may go. Empty when there is nothing (left) to do.

        `resource.releases` (Retain, Observe) is the agent's to honour: then it only lets go of what it holds.
        """

    @abstractmethod
    def report(self, resource: R, observed: O) -> Report:
        """What status says of this observation."""

    def references(self, resource: R) -> tuple[Key, ...]:
        """The objects it depends on: when one of them changes, this one is looked at again."""
        return ()

    def waits_for(self, resource: R) -> Condition | None:
        """A reason not to look or plan yet, as a false Ready condition; from the cache only (`engine.waiting.awaited`).

        It is asked first of all, also while the object is being deleted: then usually None, for it must be able to go.
        """
        return None

    async def forget(self, key: Key, uid: str) -> None:
        """That object does not exist any more: keep nothing of it. One of the same name may stand there by now."""
        return

    @classmethod
    @abstractmethod
    def tools(cls) -> tuple[AnyTool, ...]:
        """The tools its plans may use."""

    def reconcile(self, desired: R, actual: O) -> Plan:
        """The documented product's verb: the plan from actual to desired."""
        return self.plan(desired, actual, self.diff(desired, actual))


AnyAgent = Agent[Any, Any]
