"""The provider registry: one provider for each object, the right one, and none that is not enabled."""

from __future__ import annotations

import pytest
from tests.support.agents import Objects, provider

from agentmetal.core.clock import LoopClock
from agentmetal.core.errors import Forbidden, NotFound
from agentmetal.providers.fake import FakeCloud
from agentmetal.providers.registry import Account, ProviderRegistry


class Closing(FakeCloud):
    """Tells when it was closed."""

    closed = False

    async def close(self) -> None:
        self.closed = True


class Factory:
    """Counts what it builds."""

    def __init__(self) -> None:
        self.accounts: list[Account] = []

    def __call__(self, account: Account) -> FakeCloud:
        self.accounts.append(account)
        return Closing(LoopClock())


@pytest.fixture
def objects() -> Objects:
    given = provider()
    return Objects({given.key: given})


async def test_the_same_object_is_the_same_provider(objects: Objects) -> None:
    factory = Factory()
    registry = ProviderRegistry(objects, {"Fake": factory})
    assert await registry.of("shop", "cloud") is await registry.of("shop", "cloud")
    (account,) = factory.accounts
    assert (account.name, account.spec["type"], account.block("fake")["bootSeconds"]) == ("cloud", "Fake", 5)


async def test_a_changed_spec_is_another_provider_and_the_old_one_is_closed(objects: Objects) -> None:
    registry = ProviderRegistry(objects, {"Fake": Factory()})
    old = await registry.of("shop", "cloud")
    given = provider()
    fake = given.spec.fake
    assert fake is not None
    changed = given.spec.model_copy(update={"fake": fake.model_copy(update={"boot_seconds": 1})})
    objects.objects[given.key] = given.model_copy(update={"spec": changed})
    assert await registry.of("shop", "cloud") is not old
    assert isinstance(old, Closing)
    assert old.closed


async def test_how_an_object_is_managed_changes_no_provider(objects: Objects) -> None:
    registry = ProviderRegistry(objects, {"Fake": Factory()})
    old = await registry.of("shop", "cloud")
    given = provider()
    management = given.spec.management.model_copy(update={"retries": 7})
    spec = given.spec.model_copy(update={"management": management})
    objects.objects[given.key] = given.model_copy(update={"spec": spec})
    assert await registry.of("shop", "cloud") is old


async def test_a_type_that_is_not_enabled_is_refused_with_what_is(objects: Objects) -> None:
    registry = ProviderRegistry(objects, {"Nspawn": Factory()})
    with pytest.raises(Forbidden, match=r"'Fake' is not enabled \(enabled: Nspawn\)"):
        await registry.of("shop", "cloud")


async def test_a_provider_whose_object_is_gone_is_closed(objects: Objects) -> None:
    registry = ProviderRegistry(objects, {"Fake": Factory()})
    old = await registry.of("shop", "cloud")
    objects.objects.clear()
    with pytest.raises(NotFound, match="create it"):
        await registry.of("shop", "cloud")
    assert isinstance(old, Closing)
    assert old.closed


async def test_closing_closes_all(objects: Objects) -> None:
    registry = ProviderRegistry(objects, {"Fake": Factory()})
    old = await registry.of("shop", "cloud")
    await registry.close()
    assert isinstance(old, Closing)
    assert old.closed
