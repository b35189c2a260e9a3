"""Providers by name: builds and keeps one ServerProvider for each Provider object. Implements `core.tool.Providers`.

Made by `app.py`, which says how each enabled type is built. Knows nothing of the Provider kind but `spec.type`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agentmetal.core.errors import Forbidden, NotFound
from agentmetal.core.machine import ServerProvider
from agentmetal.core.resource import AnyResource, Key

KIND = "Provider"


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a factory gets: the Provider object without its envelope."""

    namespace: str
    name: str
    uid: str
    spec: Mapping[str, Any]
    """On the wire: camelCase, `type` and the block of that type."""

    def block(self, name: str) -> Mapping[str, Any]:
        """The settings of one type; empty when absent."""
        value: Mapping[str, Any] = self.spec.get(name) or {}
        return value


Factory = Callable[[Account], ServerProvider]


class Objects(Protocol):
    """The part of the cache that is needed here."""

    def get(self, key: Key) -> AnyResource | None:
        """The object as last seen, or None."""


@dataclass(frozen=True, kw_only=True)
class _Built:
    """A provider, and what it was built from."""

    account: Account
    provider: ServerProvider


class ProviderRegistry:
    """One provider for each object; built anew when its spec changes or the object is another one."""

    def __init__(self, objects: Objects, factories: Mapping[str, Factory]) -> None:
        self._objects = objects
        self._factories = factories
        self._built: dict[Key, _Built] = {}

    async def of(self, namespace: str, name: str) -> ServerProvider:
        """The provider that the object stands for. Raises NotFound, Forbidden (the type is not enabled)."""
        key = Key(KIND, namespace, name)
        resource = self._objects.get(key)
        if resource is None:
            await self._drop(key)
            raise NotFound(f"Provider {name!r} does not exist in namespace {namespace!r}: create it")
        account = _account(resource)
        built = self._built.get(key)
        if built is not None and built.account == account:
            return built.provider
        provider = self._build(account)
        await self._drop(key, put=_Built(account=account, provider=provider))
        return provider

    async def forget(self, namespace: str, name: str) -> None:
        """Close what was built for a Provider object that does not exist any more."""
        key = Key(KIND, namespace, name)
        if self._objects.get(key) is None:
            await self._drop(key)

    async def close(self) -> None:
        """Close all of them."""
        for key in tuple(self._built):
            await self._drop(key)

    def _build(self, account: Account) -> ServerProvider:
        wanted = account.spec["type"]
        factory = self._factories.get(wanted)
        if factory is None:
            enabled = ", ".join(sorted(self._factories)) or "none"
            raise Forbidden(
                f"provider type {wanted!r} is not enabled (enabled: {enabled}): the administrator can enable it in the"
                " operator's settings"
            )
        return factory(account)

    async def _drop(self, key: Key, put: _Built | None = None) -> None:
        """Replace what is kept in one moment; close the older one after that."""
        older = self._built.pop(key, None)
        if put is not None:
            self._built[key] = put
        if older is not None:
            await older.provider.close()


def _account(resource: AnyResource) -> Account:
    """What a provider is built from: how the object is managed has no part in it."""
    spec = {field: value for field, value in resource.spec.wire().items() if field != "management"}
    return Account(
        namespace=resource.metadata.namespace, name=resource.metadata.name, uid=resource.metadata.uid, spec=spec
    )
