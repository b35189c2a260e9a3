"""Other Instances, as far as one must know of them: whose a server is, and who shows the same machine-id.

Used by `observation.py`. From the cache and from memory only; a restart learns it again from what status shows.
"""

from __future__ import annotations

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.machine import OwnerTag
from agentmetal.core.ports import Ports
from agentmetal.core.resource import Key


class Siblings:
    """Instances by the machines they show."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._machines: dict[str, dict[str, Key]] = {}
        """By machine-id: the Instances, by uid, that showed it. Asked again before it counts."""
        self._shown: dict[str, str] = {}
        """By uid: the machine-id it showed last."""
        self._learnt: set[Key] = set()
        """The Providers whose Instances' status was read; those that are gone go when another one is added."""

    def living(self, owner: OwnerTag) -> str:
        """The name of that owner, if it still exists, whatever its Provider calls the server; else empty."""
        found = self._ports.lookup.find(owner.uid)
        same = isinstance(found, Instance) and found.metadata.namespace == owner.namespace
        return found.metadata.name if found and same else ""

    def twin(self, resource: Instance, server_id: str, machine_id: str) -> str:
        """Another Instance whose host, another one, shows this machine-id; named for people of this one's namespace."""
        self._learn(provider_key(resource))
        self._note(resource.key, resource.uid, machine_id)
        others = dict(self._machines.get(machine_id, {}))
        for uid, key in sorted(others.items()):
            if uid == resource.uid:
                continue
            other = self._ports.lookup.get(key)
            if not isinstance(other, Instance) or other.uid != uid or other.status.machine_id != machine_id:
                continue
            if provider_key(other) != provider_key(resource) or other.status.provider_id != server_id:
                near = key.namespace == resource.metadata.namespace
                return f"Instance {key.name!r}" if near else "an Instance of another namespace"
        return ""

    def forget(self, uid: str) -> None:
        """It has no machine (any more)."""
        machine_id = self._shown.pop(uid, "")
        known = self._machines.get(machine_id, {})
        known.pop(uid, None)
        if not known:
            self._machines.pop(machine_id, None)

    def _learn(self, provider: Key) -> None:
        """Once: what the Instances of a Provider showed before this process began."""
        if provider in self._learnt:
            return
        self._learnt = {known for known in self._learnt if self._ports.lookup.get(known)} | {provider}
        for one in self._instances(provider):
            if one.status.machine_id and one.uid not in self._shown:
                self._note(one.key, one.uid, one.status.machine_id)

    def _note(self, key: Key, uid: str, machine_id: str) -> None:
        if self._shown.get(uid) != machine_id:
            self.forget(uid)
            self._shown[uid] = machine_id
            self._machines.setdefault(machine_id, {})[uid] = key

    def _instances(self, provider: Key) -> list[Instance]:
        found = (self._ports.lookup.get(key) for key in self._ports.lookup.referrers(provider))
        return [one for one in found if isinstance(one, Instance)]


def provider_key(resource: Instance) -> Key:
    """Where an Instance's Provider is."""
    return Key(Provider.info.kind, resource.metadata.namespace, resource.spec.provider_ref.name)
