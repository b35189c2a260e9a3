"""How the settings provide for servers: how hosts are reached, and how each enabled provider type is built.

Called by `app` (the operator) and `preview` (a plan without it), which hand the results to the core.
"""

from __future__ import annotations

from collections.abc import Callable

from agentmetal.agents.provider.api import ProviderType
from agentmetal.clients.ssh.dialling import CheckedDial
from agentmetal.clients.ssh.machines import SshMachines
from agentmetal.core.clock import Clock
from agentmetal.core.errors import NotFound
from agentmetal.core.machine import Machines, SecretKey
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import Key
from agentmetal.kube.secrets import KubeSecrets
from agentmetal.providers.fake import FakeCloud
from agentmetal.providers.nspawn.fleet import Fleet
from agentmetal.providers.nspawn.provider import NspawnProvider
from agentmetal.providers.nspawn.record import NETWORK
from agentmetal.providers.registry import Account, Factory
from agentmetal.providers.ssh.memory import SshProviders
from agentmetal.settings import Settings


def machines_of(settings: Settings, api: KubeApi, cluster: str, changed: Callable[[Key], None]) -> SshMachines:
    """Connections to hosts. Only addresses that may be dialled are, whoever wrote them."""
    secrets = KubeSecrets(api)

    async def load_key(key: SecretKey) -> str:
        held = await secrets.read(key.namespace, key.name)
        if key.key not in held:
            raise NotFound(f"Secret {key.name!r} in namespace {key.namespace!r} has no value {key.key!r}")
        return held[key.key].decode("ascii", "replace")

    return SshMachines(load_key, dial_of(settings), lambda owner, _why: changed(owner), cluster=cluster)


def dial_of(settings: Settings) -> CheckedDial:
    """The way to hosts. In development this host may be dialled, and the lab's network from inside the fleet."""
    if not settings.development:
        return CheckedDial(forbidden=settings.forbidden_networks)
    fleet = Fleet(settings.state_directory / "machines")
    return CheckedDial(forbidden=settings.forbidden_networks, loopback=True, elsewhere={NETWORK: fleet.dial})


def factories(settings: Settings, clock: Clock, machines: Machines, cluster: str) -> dict[str, Factory]:
    """How each provider type that the settings enable is built."""
    known: dict[ProviderType, Factory] = {
        ProviderType.SSH: SshProviders(machines, cluster=cluster),
        ProviderType.NSPAWN: lambda _account: NspawnProvider(settings.state_directory / "machines"),
        ProviderType.FAKE: lambda account: _fake(account, clock),
    }
    return {type.value: known[type] for type in settings.provider_types}


def _fake(account: Account, clock: Clock) -> FakeCloud:
    block = account.block("fake")
    return FakeCloud(
        clock,
        hosts=False,  # its simulated hosts live in tests only: a real operator dials real addresses
        boot_seconds=float(block.get("bootSeconds", 0)),
        quota=int(block.get("maxServers", 1000)),
    )
