"""The factory of this provider type, and what outlives one provider object. Built by `agentmetal.providing`.

The registry builds a provider anew whenever its inventory is edited. What was seen of the hosts that stay must not be
forgotten then: it is kept here, for each Provider object of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentmetal.core.machine import Machines
from agentmetal.providers.registry import Account
from agentmetal.providers.ssh.claims import Locks
from agentmetal.providers.ssh.inventory import Inventory, Place
from agentmetal.providers.ssh.provider import SshProvider
from agentmetal.providers.ssh.sightings import Sighting


class SshProviders:
    """A `Factory`: one provider for each inventory, all on the same connections and locks."""

    def __init__(self, machines: Machines, *, cluster: str) -> None:
        self._machines, self._cluster = machines, cluster
        self._sightings: dict[str, dict[Place, Sighting]] = {}
        self._current: dict[str, SshProvider] = {}
        self._locks = Locks()

    def __call__(self, account: Account) -> SshProvider:
        """The provider of that inventory; it knows what an older one saw of the same hosts."""
        inventory = Inventory.of(account)
        provider = SshProvider(
            account,
            inventory,
            self._machines,
            cluster=self._cluster,
            sightings=self._taken_over(account.uid, inventory.places),
            locks=self._locks,
            closed=self._closed,
        )
        self._current[account.uid] = provider
        return provider

    def _taken_over(self, uid: str, places: Iterable[Place]) -> dict[Place, Sighting]:
        older = self._sightings.get(uid, {})
        self._sightings[uid] = {place: older.get(place) or Sighting() for place in places}
        return self._sightings[uid]

    async def _closed(self, account: Account, places: frozenset[Place]) -> None:
        """Connections are kept for the next one, if it has all of the hosts; nothing is kept for nobody."""
        following = self._current.get(account.uid)
        if following is not None and following.account == account:
            following = None
            del self._current[account.uid], self._sightings[account.uid]
        if following is None or not places <= frozenset(following.places):
            await self._machines.forget(SshProvider.key_of(account))
