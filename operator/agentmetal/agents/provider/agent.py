"""The Provider agent: what can be ordered, and the key that logs in to what was ordered. Called by the engine only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar

from agentmetal.agents.provider.api import Provider, key_secret_name
from agentmetal.agents.provider.left_behind import left_behind
from agentmetal.agents.provider.rotation import (
    TOOLS,
    Rotation,
    observe_rotation,
    rotation_conditions,
    rotation_issues,
    rotation_plan,
)
from agentmetal.core.condition import Condition, ConditionType, Reason
from agentmetal.core.errors import Forbidden, NotFound
from agentmetal.core.machine import Location, ServerType, Unusable
from agentmetal.core.plan import Change, Issue, Plan
from agentmetal.core.resource import Key
from agentmetal.core.tool import AnyTool
from agentmetal.engine.agent import Agent, Report, Volatile
from agentmetal_tools.hosts import CLIENT_PUBLIC
from agentmetal_tools.login_keys import text
from agentmetal_tools.provider import (
    ProviderKeyFacts,
    ProviderKeyParams,
    create_provider_key,
    release_provider_key,
)

SHOWN_REFERRERS = 3
SHOWN_TYPES, SHOWN_LOCATIONS, SHOWN_DOMAINS, SHOWN_UNUSABLE = 512, 256, 256, 32
"""As many as status has room for."""
INVENTORY_AGAIN_IN = 60.0
"""Seconds until hosts of an inventory are looked at again: they change without us."""
MENDED_AGAIN_IN = 15.0
"""The same while some cannot be used: somebody may be mending them right now."""


@dataclass(frozen=True, kw_only=True)
class ProviderObservation:
    """What a provider offers."""

    at: Annotated[datetime, Volatile]
    types: tuple[ServerType, ...] = ()
    images: tuple[str, ...] = ()
    locations: tuple[Location, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    """Hosts that nothing can be claimed on."""
    inventory: bool = False
    """Its servers exist already, and may come and go without us."""
    public_key: str = ""
    """Empty: there is no key pair yet."""
    trouble: Reason | None = None
    """Why it cannot be used although nothing is broken."""
    trouble_message: str = ""
    rotation: Rotation | None = None
    """What is to be done about the key; None while the provider is not asked."""

    @property
    def targets(self) -> Mapping[str, str]:
        """A key acts on no machine."""
        return {}


class ProviderAgent(Agent[Provider, ProviderObservation]):
    """Keeps one client key for each Provider and tells what can be ordered there."""

    name: ClassVar[str] = "provider"
    kind: ClassVar[type[Provider]] = Provider

    async def observe(self, resource: Provider) -> ProviderObservation:
        """Ask for the catalogue; a Provider that is being deleted is not asked, its account may be gone."""
        at = self.ports.clock.now()
        held = await self._key_pair(resource)
        public_key = text(held, CLIENT_PUBLIC)
        if resource.deleting:
            return ProviderObservation(at=at, public_key=public_key)
        if trouble := await self._trouble(resource):
            reason, message = trouble
            return ProviderObservation(at=at, public_key=public_key, trouble=reason, trouble_message=message)
        provider = await self.ports.providers.of(resource.metadata.namespace, resource.metadata.name)
        unusable = await provider.list_unusable() if public_key else ()  # nothing can be looked at without a key
        if public_key:
            unusable += await left_behind(self.ports, resource, provider, known={one.name for one in unusable})
        return ProviderObservation(
            at=at,
            unusable=unusable,
            inventory=not provider.capabilities.makes_servers,
            types=await provider.list_server_types(),
            images=await provider.list_images(),
            locations=await provider.list_locations(),
            public_key=public_key,
            rotation=await observe_rotation(self.ports, resource, held),
        )

    def diff(self, resource: Provider, observed: ProviderObservation) -> tuple[Change, ...]:
        """Only the key can be missing."""
        if observed.public_key or observed.trouble:
            return ()
        return (Change(field="key", desired=key_secret_name(resource.metadata.name), actual="none"),)

    def plan(self, resource: Provider, observed: ProviderObservation, changes: tuple[Change, ...]) -> Plan:
        """Make the key."""
        if not changes:
            return Plan()
        step = create_provider_key.step(_params(resource), ProviderKeyFacts(exists=bool(observed.public_key)))
        return Plan(steps=(step,), reasoning=f"Servers of {resource.metadata.name!r} are reached with a key of our own")

    def issues(self, resource: Provider, observed: ProviderObservation) -> tuple[Issue, ...]:
        """A rotation of the key that is asked for, or half done."""
        return rotation_issues(observed.rotation)

    def heal(self, resource: Provider, observed: ProviderObservation, issue: Issue) -> Plan:
        """Rotate the key."""
        return rotation_plan(resource, observed.rotation)

    def teardown(self, resource: Provider, observed: ProviderObservation) -> Plan:
        """Let go of the key, once nobody refers to this Provider (`waits_for`)."""
        if not observed.public_key:
            return Plan()
        step = release_provider_key.step(_params(resource), ProviderKeyFacts(exists=True))
        return Plan(steps=(step,), reasoning=f"No Instance refers to {resource.metadata.name!r} any more")

    def report(self, resource: Provider, observed: ProviderObservation) -> Report:
        """The catalogue and the key; what is for sale at this moment (`available`) changes too often for status."""
        key: dict[str, object] = {}
        if observed.public_key:
            key = {"keySecretRef": {"name": key_secret_name(resource.metadata.name)}, "publicKey": observed.public_key}
        if observed.trouble or resource.deleting:
            return Report(fields=key, conditions=(_ready(resource, observed),))
        return Report(
            fields={**_catalogue(observed), **key},
            conditions=(
                *_degraded(observed),
                *rotation_conditions(resource, observed.rotation, _ready(resource, observed)),
            ),
            again_in=_again_in(observed),
        )

    def waits_for(self, resource: Provider) -> Condition | None:
        """A Provider stays as long as anything refers to it."""
        if not resource.deleting or not (referrers := self.ports.lookup.referrers(resource.key)):
            return None
        named = ", ".join(str(key) for key in sorted(referrers)[:SHOWN_REFERRERS])
        more = len(referrers) - SHOWN_REFERRERS
        message = f"still used by {named}{f' and {more} more' if more > 0 else ''}: delete them first"
        return Condition.false(ConditionType.READY, Reason.WAITING_FOR_REFERRERS, message)

    async def forget(self, key: Key, uid: str) -> None:
        """No connections to an account are kept."""
        await self.ports.providers.forget(key.namespace, key.name)

    @classmethod
    def tools(cls) -> tuple[AnyTool, ...]:
        """Its tools."""
        return (create_provider_key, release_provider_key, *TOOLS)

    async def _key_pair(self, resource: Provider) -> Mapping[str, bytes]:
        try:
            return await self.ports.secrets.read(resource.metadata.namespace, key_secret_name(resource.metadata.name))
        except NotFound:
            return {}

    async def _trouble(self, resource: Provider) -> tuple[Reason, str] | None:
        """Why there is no use in asking it for its catalogue."""
        namespace = resource.metadata.namespace
        try:
            await self.ports.providers.of(namespace, resource.metadata.name)
        except Forbidden as error:
            return Reason.PROVIDER_TYPE_DISABLED, error.message
        if resource.spec.secret_ref is None:
            return None
        try:
            await self.ports.secrets.read(namespace, resource.spec.secret_ref.name)
        except NotFound as error:
            return Reason.SECRET_MISSING, error.message
        except Forbidden as error:
            return Reason.SECRET_NOT_USABLE, error.message
        return None


def _params(resource: Provider) -> ProviderKeyParams:
    name = resource.metadata.name
    return ProviderKeyParams(provider=name, secret=key_secret_name(name))


def _again_in(observed: ProviderObservation) -> float | None:
    if not observed.inventory:
        return None
    return MENDED_AGAIN_IN if observed.unusable else INVENTORY_AGAIN_IN


def _catalogue(observed: ProviderObservation) -> dict[str, object]:
    types = [{"name": t.name, "vcpus": t.vcpus, "memoryMB": t.memory_mb, "diskGB": t.disk_gb} for t in observed.types]
    unusable = [{"name": u.name, "reason": u.reason.value, "message": u.message} for u in _shown_unusable(observed)]
    return {
        "types": types[:SHOWN_TYPES],
        "images": list(observed.images),
        "locations": [_location(place) for place in observed.locations[:SHOWN_LOCATIONS]],
        "unusable": unusable,
    }


def _location(place: Location) -> dict[str, object]:
    domains = list(place.failure_domains[:SHOWN_DOMAINS])
    return {"name": place.name, "description": place.description, "failureDomains": domains}


def _shown_unusable(observed: ProviderObservation) -> list[Unusable]:
    return sorted(observed.unusable, key=lambda one: one.name)[:SHOWN_UNUSABLE]


def _degraded(observed: ProviderObservation) -> tuple[Condition, ...]:
    """What is there and cannot be used; the names of a few, all of them in status.unusable."""
    if not observed.unusable:  # said of an inventory, so that people can wait for it
        return (Condition.false(ConditionType.DEGRADED, Reason.AS_SPECIFIED),) if observed.inventory else ()
    named = ", ".join(f"{one.name} ({one.reason.value})" for one in _shown_unusable(observed)[:SHOWN_REFERRERS])
    more = len(observed.unusable) - SHOWN_REFERRERS
    message = (
        f"{_count(len(observed.unusable), 'host')} cannot be used: {named}{f' and {more} more' if more > 0 else ''}"
    )
    return (
        Condition.true(ConditionType.DEGRADED, Reason.HOSTS_UNUSABLE, f"{message}; status.unusable says what to do"),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _ready(resource: Provider, observed: ProviderObservation) -> Condition:
    ready = ConditionType.READY
    if resource.deleting:
        return Condition.false(ready, Reason.DELETING, "it is being deleted")
    if observed.trouble:
        return Condition.false(ready, observed.trouble, observed.trouble_message)
    if not observed.public_key:
        secret = key_secret_name(resource.metadata.name)
        return Condition.false(ready, Reason.PLAN_PENDING, f"the client key in Secret {secret!r} is still to be made")
    counts = [
        _count(len(observed.types), "type"),
        _count(len(observed.images), "image"),
        _count(len(observed.locations), "location"),
    ]
    if resource.spec.ssh is not None:
        counts = [_count(len(resource.spec.ssh.hosts), "host"), f"{len(observed.unusable)} unusable", *counts]
    return Condition.true(ready, Reason.AS_SPECIFIED, f"it answers: {', '.join(counts)}")
