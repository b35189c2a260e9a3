"""Tools: typed calls with a risk that code computes. Everything the system can do is one of these.

Tools live in `agentmetal_tools` (the permission surface); agents plan with them, only the executor runs them.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from agentmetal.core.clock import Clock
from agentmetal.core.condition import Reason
from agentmetal.core.errors import Invalid
from agentmetal.core.machine import Machines, ServerProvider, Ssh, UnitState
from agentmetal.core.plan import Step
from agentmetal.core.resource import AnyResource, ApiModel, Key
from agentmetal.core.risk import Risk


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of a step, for people. Never read by a later step."""

    message: str


@dataclass(frozen=True, kw_only=True)
class NotYet:
    """The step goes on: call it again. No journal write, same attempt, same unit names."""

    again_in: float
    """Seconds."""
    message: str


@dataclass(frozen=True, kw_only=True)
class InDoubt:
    """It ran and how it ended cannot be known: a human must look. The operation becomes Blocked."""

    message: str


StepEnd = Result | NotYet | InDoubt


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a step must not run on what is true now."""

    reason: Reason
    message: str


class Providers(Protocol):
    """Providers by name. Raises NotFound, or Unavailable while one is not ready."""

    async def of(self, namespace: str, name: str) -> ServerProvider:
        """The provider that the Provider object stands for."""

    async def forget(self, namespace: str, name: str) -> None:
        """Close what was built for a Provider object that does not exist any more."""


class Secrets(Protocol):
    """Kubernetes Secrets, by name, when used; never cached by this port.

    Raises NotFound, Forbidden (not labelled `agentmetal.io/usable: "true"` and not made by us).
    """

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """Its values."""

    async def create_once(self, owner: AnyResource, name: str, data: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Create it as property of the owner, with our finalizer; returns what it holds then: ours, or the older."""

    async def change(self, owner: AnyResource, name: str, data: Mapping[str, bytes | None]) -> Mapping[str, bytes]:
        """Set (or with None remove) values in a Secret of the owner's that we made; returns what it holds then.

        Values that are not named stay. Raises NotFound, ClaimedByOther.
        """

    async def ours(self, owner: AnyResource, name: str) -> bool:
        """Did we make it for this very owner? False when it does not exist, or when somebody else made it."""

    async def release(self, namespace: str, name: str) -> None:
        """Teardown is over: delete it if we made it, and take our finalizer off; nothing happens when it is gone."""


class Lookup(Protocol):
    """What the cache knows. Planning reads it; a step takes from it only which objects there are."""

    def get(self, key: Key) -> AnyResource | None:
        """The object as last seen, or None."""

    def find(self, uid: str) -> AnyResource | None:
        """The object of that uid as last seen, or None. Looks at all of them: for rare questions."""

    def referrers(self, key: Key) -> tuple[Key, ...]:
        """The objects whose agent named this one among its references."""


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """What a tool gets: a snapshot, a name for this very run, and ports. Never a client or a provider class."""

    resource: AnyResource
    cluster: str
    """uid of this cluster, for owner tags."""
    operation: str
    step: int
    """Counts from 1."""
    attempt: int
    epoch: int
    clock: Clock
    machines: Machines
    providers: Providers
    secrets: Secrets
    lookup: Lookup

    async def unit(self, host: Ssh, argv: Sequence[str], *, timeout: float = 600.0, part: int = 0) -> UnitState:
        """Run a command on a host exactly once for this attempt: start it, or ask how it goes.

        A step of several commands numbers them from 1 (to 999): units are named by three numbers, so the part is
        written behind the attempt's.
        """
        return await host.start_unit(self._unit_name(part), argv, epoch=self.epoch, timeout=timeout)

    async def unit_state(self, host: Ssh, *, part: int = 0) -> UnitState:
        """How that command goes, or that this attempt has not started it: for what must be looked at before."""
        return await host.unit_state(self._unit_name(part))

    def _unit_name(self, part: int) -> str:
        attempt = f"{self.attempt}{part:03}" if part else str(self.attempt)
        return f"{self.operation}-{self.step}-{attempt}"


P = TypeVar("P", bound=ApiModel)
F = TypeVar("F")


@dataclass(frozen=True, kw_only=True)
class Tool(Generic[P, F]):
    """A typed call. `risk` and `holds` are pure and asked twice: when planned and right before it runs."""

    name: str
    summary: str
    params: type[P]
    run: Callable[[ToolContext, P], Awaitable[StepEnd]]
    read: Callable[[ToolContext, P], Awaitable[F]]
    """The facts, read anew right before running."""
    risk: Callable[[P, F], Risk]
    holds: Callable[[P, F], Refusal | None]
    render: Callable[[P], str]
    locks: Callable[[P], tuple[str, ...]]
    """Beside the resource's own lock: `server/<its name at the provider>`, `provider/<name>`."""
    idempotent: bool
    """May it simply be called again after a crash? True too when its effect runs as a unit."""
    timeout: float
    """Seconds of one call, and the longest it may answer NotYet in all attempts is `patience`."""
    patience: float
    leave_after: bool
    """May the plan be left after this step? A run of False is a critical section."""
    releases_while_waiting: bool
    """While it answers NotYet, nothing is under way that needs us: locks are released and the plan may be left."""
    proposable: bool
    """May a model propose it?"""
    clean_up: Callable[[ToolContext, P], Awaitable[None]] | None = None
    """Drops what the step left on a host for recovery. Called once the operation is closed; best effort."""

    def step(self, params: P, facts: F, *, optional: bool = False) -> Step:
        """Plan this call, on what was observed."""
        return Step(
            tool=self.name,
            parameters=params.wire(),
            risk=self.risk(params, facts),
            description=self.render(params),
            optional=optional,
            evidence=str(facts),
        )

    def parse(self, parameters: Mapping[str, Any]) -> P:
        """The parameters, validated whoever made them. Raises Invalid."""
        try:
            return self.params.model_validate(dict(parameters))
        except ValidationError as error:
            raise Invalid(f"parameters of tool {self.name!r} are not valid: {error}") from error


AnyTool = Tool[Any, Any]


def _no_locks(params: ApiModel) -> tuple[str, ...]:
    return ()


def tool(
    *,
    read: Callable[[ToolContext, P], Awaitable[F]],
    risk: Callable[[P, F], Risk],
    holds: Callable[[P, F], Refusal | None],
    render: Callable[[P], str],
    locks: Callable[[P], tuple[str, ...]] = _no_locks,
    idempotent: bool,
    timeout: float = 60.0,
    patience: float = 600.0,
    leave_after: bool = True,
    releases_while_waiting: bool = False,
    proposable: bool = True,
    clean_up: Callable[[ToolContext, P], Awaitable[None]] | None = None,
) -> Callable[[Callable[[ToolContext, P], Awaitable[StepEnd]]], Tool[P, F]]:
    """Make a tool of an async function: its name, its first docstring line and its signature are the schema."""

    def make(function: Callable[[ToolContext, P], Awaitable[StepEnd]]) -> Tool[P, F]:
        params = typing.get_type_hints(function)["params"]
        return Tool(
            name=function.__name__,
            summary=(inspect.getdoc(function) or "").split("\n", 1)[0],
            params=params,
            run=function,
            read=read,
            risk=risk,
            holds=holds,
            render=render,
            locks=locks,
            idempotent=idempotent,
            timeout=timeout,
            patience=patience,
            leave_after=leave_after,
            releases_while_waiting=releases_while_waiting,
            proposable=proposable,
            clean_up=clean_up,
        )

    return make
