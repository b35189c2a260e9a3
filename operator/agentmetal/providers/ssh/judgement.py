"""Why hosts of an inventory cannot be used, in sentences. Pure; asked by `provider`.

The texts are stable: they become status, so they hold no counts, times or errors that read otherwise each time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from agentmetal.clients.ssh.dialling import AddressNotAllowed
from agentmetal.core.claim import CLAIM_PATH, claimant
from agentmetal.core.condition import Reason
from agentmetal.core.errors import AgentMetalError, AuthenticationFailed, Forbidden, HostKeyMismatch, Invalid
from agentmetal.core.machine import OwnerTag, Unusable
from agentmetal.providers.ssh.inventory import Host, Inventory, Place, groups
from agentmetal.providers.ssh.sightings import ClaimUnreadable, Sighting

MAX_MESSAGE = 512


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Judges the hosts of one inventory by what was seen of them."""

    inventory: Inventory
    sightings: Mapping[Place, Sighting]
    cluster: str
    namespace: str
    key_secret: str
    """The Secret with the key that should log in."""

    def unusable(self) -> tuple[Unusable, ...]:
        """The hosts that cannot be had although nobody of ours has them, and those about which something is odd."""
        clones, twice = self.clones(), self._held_twice()
        judged = (self._judged(host, clones, twice) for _, host in sorted(self.inventory.hosts.items()))
        return tuple(one for one in judged if one is not None)

    def clones(self) -> dict[str, tuple[str, ...]]:
        """For each host whose machine id another one has, too: those others."""
        by_id: dict[str, list[str]] = defaultdict(list)
        for host in self.inventory.hosts.values():
            if (machine_id := self.sightings[host.place].machine_id) and host.name not in self.inventory.same_machine:
                by_id[machine_id].append(host.name)
        return groups(by_id.values())

    def ours(self, owner: OwnerTag) -> bool:
        """Does it belong to an Instance that may use this Provider?"""
        return (owner.cluster, owner.namespace) == (self.cluster, self.namespace)

    def _judged(
        self, host: Host, clones: Mapping[str, tuple[str, ...]], twice: Mapping[str, tuple[str, ...]]
    ) -> Unusable | None:
        sighting, name = self.sightings[host.place], host.name
        if same := self.inventory.same_machine.get(name):
            text = f"it has the same address and port, or the same host key, as {_named(same)}: none of them is used;"
            return _unusable(name, Reason.DUPLICATE_MACHINE, f"{text} correct the inventory")
        if sighting.trouble is not None:
            return _unusable(name, *self._trouble(host.place, sighting.trouble))
        owner = sighting.owner
        if owner is not None and not self.ours(owner):
            text = f"it is claimed by {claimant(sighting.claim or '')}: whoever that is must release it first"
            return _unusable(name, Reason.CLAIMED_BY_OTHER, text)
        if others := clones.get(name):
            text = f"it has the same machine id as {_named(others)}: give each its own (systemd-machine-id-setup)"
            return _unusable(name, Reason.DUPLICATE_MACHINE, text)
        if others := twice.get(name):
            text = f"uid {owner.uid if owner else ''!r} claims it and {_named(others)}: release the one it does not use"
            return _unusable(name, Reason.CLAIMED_BY_OTHER, text)
        return None

    def _trouble(self, place: Place, error: AgentMetalError) -> tuple[Reason, str]:
        if isinstance(error, AddressNotAllowed):
            return Reason.ADDRESS_NOT_ALLOWED, error.message
        if isinstance(error, HostKeyMismatch):
            return Reason.HOST_KEY_MISMATCH, error.message
        if isinstance(error, AuthenticationFailed):
            return Reason.AUTHENTICATION_FAILED, (
                f"{place} refuses our key: add the public key of this Provider (status.publicKey, Secret"
                f" {self.key_secret!r}) to the authorized_keys of {place.user!r} there"
            )
        if isinstance(error, Forbidden):
            return Reason.NEEDS_ROOT, error.message
        if isinstance(error, Invalid):
            return Reason.INVALID_SPEC, error.message
        if isinstance(error, ClaimUnreadable):
            text = f"{place} answers, and whose it is cannot be read: look at {CLAIM_PATH} there"
            return Reason.CLAIMED_BY_OTHER, text
        return Reason.UNREACHABLE, (
            f"{place} does not answer: see that it is on, that sshd listens there, and that the operator may reach it"
        )

    def _held_twice(self) -> dict[str, tuple[str, ...]]:
        by_owner: dict[OwnerTag, list[str]] = defaultdict(list)
        for host in self.inventory.hosts.values():
            if (owner := self.sightings[host.place].owner) is not None and self.ours(owner):
                by_owner[owner].append(host.name)
        return groups(by_owner.values())


def _named(names: tuple[str, ...], shown: int = 3) -> str:
    more = len(names) - shown
    return ", ".join(repr(name) for name in names[:shown]) + (f" and {more} more" if more > 0 else "")


def _unusable(name: str, reason: Reason, message: str) -> Unusable:
    return Unusable(name=name, reason=reason, message=message[:MAX_MESSAGE])
