"""What this process knows of each host, from whoever looked at it last. Kept by `memory`, written by `survey` and
`claims`, read by `provider` and `judgement`. Times are the event loop's.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agentmetal.core.claim import UNREADABLE, read_claim
from agentmetal.core.errors import AgentMetalError, Unavailable
from agentmetal.core.machine import OwnerTag, Ssh

MAX_CLAIM = 4096
"""Characters that are kept of a claim file: ours are shorter, and hosts are many."""


class ClaimUnreadable(Unavailable):
    """The host answers, and its claim file is there and cannot be read: a directory, a broken link, a broken disk."""


SOMEBODY = OwnerTag(cluster=UNREADABLE, namespace="", uid="")
"""The owner of a host whose claim file is none of ours."""
DOUBT_SECONDS = 120.0
"""How long a host that was never seen may be silent until orders are no longer held back for what it may hold."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a host has; zeros where it did not say."""

    vcpus: int = 0
    memory_mb: int = 0
    disk_gb: int = 0


@dataclass(kw_only=True)
class Sighting:
    """One host, as last seen."""

    looked_at: float | None = None
    """When somebody last looked, with or without success; None: never."""
    trouble: AgentMetalError | None = None
    """Why the last look failed."""
    silent_since: float | None = None
    """When the first of the looks failed that have failed since."""
    claim: str | None = None
    """What its claim file held when it was last read: empty when there was none. None: it was never read."""
    owner: OwnerTag | None = None
    """Whose it was then."""
    server_name: str = ""
    """What its owner calls the server, if he does."""
    unwritable: str = ""
    """Why it could not be claimed when that was last tried."""
    machine_id: str = ""
    size: Size = Size()
    in_doubt: dict[OwnerTag, str] = field(default_factory=dict)
    """Who may have claimed it, and for which name: the attempt had no answer, and it has not been read since."""
    version: int = 0
    """Counts what was learned: a look that began before that is older, whenever it ends."""
    claiming: bool = False
    """A claim is being made just now: what a look reads meanwhile says nothing."""
    facts_from: weakref.ref[Ssh] | None = None
    """The connection over which machine id and size were read."""

    def read(self, claim: str, now: float) -> None:
        """Its claim file was read, or written."""
        self.looked_at, self.claim = now, claim[:MAX_CLAIM]
        found = read_claim(self.claim) if claim else None
        self.owner = found.tag if found else SOMEBODY if claim else None
        self.server_name = found.server if found else ""
        self.trouble, self.silent_since = None, None
        self.in_doubt.clear()
        self.version += 1

    def failed(self, error: AgentMetalError, now: float) -> None:
        """It could not be read."""
        self.looked_at, self.trouble = now, error
        self.silent_since = now if self.silent_since is None else self.silent_since
        self.version += 1

    @contextmanager
    def being_claimed(self, owner: OwnerTag, server_name: str) -> Iterator[None]:
        """While a claim is made it is in doubt, and stays so until the host is read again."""
        self.in_doubt[owner], self.claiming = server_name, True
        try:
            yield
        finally:
            self.claiming = False
            self.version += 1

    @property
    def free(self) -> bool:
        """Was it nobody's, when it was last looked at with success?"""
        return self.claim == "" and self.trouble is None

    def older_than(self, seconds: float, now: float) -> bool:
        """Is the last look longer ago than that?"""
        return self.looked_at is None or now - self.looked_at > seconds

    def may_hold(self, name: str, now: float) -> bool:
        """Could it be claimed for the server of that name, although we see no such claim?

        By us: then an attempt had no answer. By an earlier process: then it was never read in this one. A host that was
        read is known, for only we claim for our owners; one that answers but lets us not in is not waited for, no time
        will tell; and one that is dead must not hold back for ever what it most probably does not hold.
        """
        if name in self.in_doubt.values():
            return True
        if self.claim is not None or not isinstance(self.trouble, Unavailable):
            return False
        return self.silent_since is not None and now - self.silent_since < DOUBT_SECONDS
