"""Claims on hosts: made exclusively, handed over, taken off. Used by `provider`; `core.claim` says what one looks like.

The file on the host decides, whatever we believe. The locks only spare this process to be in its own way: in a release
between reading whose the host is and removing that.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from agentmetal.core.claim import CLAIM_PATH, Claim, claimant, read_claim
from agentmetal.core.errors import AgentMetalError, ClaimedByOther, Unavailable
from agentmetal.core.machine import OwnerTag
from agentmetal.providers.ssh.inventory import Place
from agentmetal.providers.ssh.survey import KeyMissing, Survey, loop_time, read_claim_file


class Locks:
    """Locks by name, for all inventories of this process; one that nobody holds or waits for is forgotten.

    A host's is named after its key: it is the same under any name and in any inventory.
    """

    def __init__(self) -> None:
        self._used: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Lock:
        """The lock of that name."""
        return self._used.setdefault(name, asyncio.Lock())


class Claims:
    """Makes and removes claims on the hosts of one inventory."""

    def __init__(self, survey: Survey, locks: Locks) -> None:
        self._survey, self._locks = survey, locks

    async def take(self, place: Place, claim: Claim) -> bool:
        """Claim a host that is nobody's; whether it is the owner's now. A lost race is no error.

        Raises Unavailable when that cannot be known: the attempt had no answer, or our own key is missing.
        """
        sighting = self._survey.sightings[place]
        async with self._locks.of(place.lock):
            try:
                ssh = await self._survey.connect(place)
            except KeyMissing:
                raise
            except AgentMetalError as error:
                sighting.failed(error, loop_time())
                return False
            try:
                with sighting.being_claimed(claim.tag, claim.server):
                    held = await ssh.create_file(CLAIM_PATH, claim.file())
            except AgentMetalError as error:
                return await self._took(place, claim, error)
            sighting.unwritable = ""
            sighting.read(held.decode(errors="replace") or "\n", loop_time())
            return sighting.owner == claim.tag

    async def hand_over(self, place: Place, claim: Claim, was: OwnerTag | None) -> None:
        """Make the host the new owner's, if it is nobody's, `was`'s, or his already. Raises ClaimedByOther."""
        sighting = self._survey.sightings[place]
        async with self._locks.of(place.lock):
            ssh = await self._survey.connect(place)
            held = await read_claim_file(ssh)
            if not held:
                held = (await ssh.create_file(CLAIM_PATH, claim.file())).decode(errors="replace") or "\n"
            found = read_claim(held)
            if found is not None and found.tag in (was, claim.tag) and found != claim:
                await ssh.swap_file(CLAIM_PATH, held.encode(), claim.file())
                held = await read_claim_file(ssh)  # somebody may have done the same in another process
            sighting.read(held, loop_time())
            if sighting.owner != claim.tag:
                raise ClaimedByOther(f"host {place.name!r} belongs to {claimant(held)!r}: it cannot be adopted")

    async def release(self, place: Place, owner: OwnerTag) -> None:
        """Take the owner's claim off; nothing happens when there is none. Raises ClaimedByOther."""
        sighting = self._survey.sightings[place]
        async with self._locks.of(place.lock):
            ssh = await self._survey.connect(place)
            held = await read_claim_file(ssh)
            sighting.read(held, loop_time())
            if not held:
                return
            if sighting.owner != owner:
                raise ClaimedByOther(f"host {place.name!r} belongs to {claimant(held)!r}: it is not ours to release")
            # Only this very claim: if we are frozen just here, it may be somebody else's host when we wake up.
            if not await ssh.swap_file(CLAIM_PATH, held.encode(), None):
                raise Unavailable(f"the claim on host {place.name!r} changed while it was released: it is read again")
            sighting.read("", loop_time())

    async def _took(self, place: Place, claim: Claim, error: AgentMetalError) -> bool:
        """Whether a claim was made although making it failed."""
        sighting = await self._survey.look(place)
        if sighting.trouble is None:
            sighting.unwritable = "" if sighting.owner == claim.tag else error.message
            return sighting.owner == claim.tag
        raise Unavailable(
            f"whether host {place.name!r} was claimed is not known ({error.message}): waiting until it answers; if it"
            " is gone for good, take it out of the inventory"
        ) from error
