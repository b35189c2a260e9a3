"""What the settings say about servers is what is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentmetal.agents.provider.api import ProviderType
from agentmetal.clients.ssh.dialling import AddressNotAllowed
from agentmetal.core.clock import LoopClock
from agentmetal.core.errors import Unavailable
from agentmetal.providers.fake_hosts import FakeHosts
from agentmetal.providers.nspawn.record import NETWORK
from agentmetal.providing import dial_of, factories
from agentmetal.settings import Settings


def test_every_provider_type_can_be_built_and_only_the_enabled_ones_are(tmp_path: Path) -> None:
    every = Settings(development=True, provider_types=tuple(ProviderType), state_directory=tmp_path)
    production = Settings(provider_types=(ProviderType.SSH,))

    assert set(factories(every, LoopClock(), FakeHosts(), "c")) == set(ProviderType)
    assert set(factories(production, LoopClock(), FakeHosts(), "c")) == {ProviderType.SSH}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.43.0.1", "10.96.0.1", "169.254.169.254", "fd00:ec2::254"])
async def test_in_production_neither_ourselves_nor_the_cluster_is_dialled(address: str) -> None:
    with pytest.raises(AddressNotAllowed):
        await dial_of(Settings())(address, 22, 1.0)


async def test_other_networks_can_be_forbidden_instead() -> None:
    settings = Settings.from_environment({"AGENTMETAL_FORBIDDEN_NETWORKS": "192.0.2.0/24, 2001:db8::/32"})

    with pytest.raises(AddressNotAllowed, match=r"inside 192\.0\.2\.0/24"):
        await dial_of(settings)("192.0.2.7", 22, 1.0)
    assert [str(network) for network in settings.forbidden_networks] == ["192.0.2.0/24", "2001:db8::/32"]


async def test_in_development_loopback_is_dialled_and_the_lab_from_inside_only(tmp_path: Path) -> None:
    dial = dial_of(Settings(development=True, state_directory=tmp_path))

    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 does not answer"):
        await dial("127.0.0.1", 1, 1.0)
    assert list(dial.elsewhere) == [NETWORK]
    with pytest.raises(AddressNotAllowed):
        await dial("10.43.0.1", 22, 1.0)
