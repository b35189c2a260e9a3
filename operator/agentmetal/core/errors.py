"""What can go wrong, and who must act. Raised everywhere, turned into values only at the engine's one edge.

AgentMetalError
 + Transient             nobody: it is tried again
   - Unavailable         a service does not answer, or not in time
   - RateLimited         a service told us to slow down
   - Conflict            somebody else wrote first; read again
   - Gone                a watch position is too old; list again
 + Permanent             the author of the spec
   - NotFound            a thing that was named does not exist
     . NotInInventory    a machine is not listed (any more); it may well run
   - AlreadyExists       a thing that was to be made exists
   - Invalid             a value is refused
   - Forbidden           a permission is missing
   - LimitReached        a quota or capacity is used up
   - ClaimedByOther      a machine belongs to another object
   - HostKeyMismatch     a host shows another key than the pinned one
   - AuthenticationFailed  our key or password is refused
   - UnreadableOperation   a plan under way is in a newer version's form
 + CommandFailed         nobody: a command is known to have failed, a new attempt may follow
 + OutcomeUnknown        nobody yet: look before doing it again
 + StaleLeader           this process has lost the right to act

Every foreign exception becomes one of these in `clients/`. A message names things with `!r` and says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class AgentMetalError(Exception):
    """Something that is expected to go wrong now and then."""

    reason: ClassVar[str] = "Error"
    who_must_act: ClassVar[str] = "nobody"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        """Seconds after which trying again makes sense, when the other side told."""


class Transient(AgentMetalError):
    """Passes by itself; tried again with backoff."""

    reason = "Transient"


class Unavailable(Transient):
    """A service does not answer, or not in time, and the request certainly had no effect or was a read."""

    reason = "Unavailable"


class RateLimited(Transient):
    """A service asked us to slow down."""

    reason = "RateLimited"


class Conflict(Transient):
    """Somebody else wrote first."""

    reason = "Conflict"


class Gone(Transient):
    """A watch position is too old."""

    reason = "Gone"


class Permanent(AgentMetalError):
    """Stays as it is until somebody changes something."""

    reason = "Permanent"
    who_must_act = "the author of the spec"


class NotFound(Permanent):
    """A thing that was named does not exist."""

    reason = "NotFound"


class NotInInventory(NotFound):
    """A machine is not listed (any more); it may well run."""

    reason = "NotInInventory"
    who_must_act = "the author of the Provider"


class AlreadyExists(Permanent):
    """A thing that was to be made exists already."""

    reason = "AlreadyExists"


class Invalid(Permanent):
    """A value is refused."""

    reason = "Invalid"


class Forbidden(Permanent):
    """A permission is missing."""

    reason = "Forbidden"
    who_must_act = "the administrator"


class LimitReached(Permanent):
    """A quota or capacity is used up."""

    reason = "LimitReached"
    who_must_act = "the owner of the provider account"


class ClaimedByOther(Permanent):
    """A machine or an object belongs to another one."""

    reason = "ClaimedByOther"


class HostKeyMismatch(Permanent):
    """A host shows another key than the pinned one: it was replaced, or somebody is in between."""

    reason = "HostKeyMismatch"
    who_must_act = "whoever knows why the key changed"


class AuthenticationFailed(Permanent):
    """A host or service refuses our credentials."""

    reason = "AuthenticationFailed"
    who_must_act = "the owner of the credentials"


class UnreadableOperation(Permanent):
    """A plan under way was written by another version of this program, which alone knows how to end it."""

    reason = "UnreadableOperation"
    who_must_act = "the administrator"

    def __init__(self, message: str, *, closed: bool = False) -> None:
        super().__init__(message)
        self.closed = closed
        """Is that plan over? Every version tells that alike."""


class CommandFailed(AgentMetalError):
    """A command on a host is known to have failed or to have been interrupted: a new attempt may follow."""

    reason = "CommandFailed"


class OutcomeUnknown(AgentMetalError):
    """A request was sent and its answer was lost: it may have acted. Look before doing it again."""

    reason = "OutcomeUnknown"


class StaleLeader(AgentMetalError):
    """Another process leads now; this one may not act any more."""

    reason = "StaleLeader"
