"""Conditions: their types and reasons. Made by agents and by the engine's status composer, which adds the times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """The condition types of api.md. Ready is normal-true, all others are abnormal-true."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    AWAITING_APPROVAL = "AwaitingApproval"
    DRIFTED = "Drifted"
    PAUSED = "Paused"
    DEGRADED = "Degraded"
    HOST_KEY_MISMATCH = "HostKeyMismatch"
    FENCED = "Fenced"
    BLOCKED = "Blocked"


class ConditionStatus(StrEnum):
    """Kubernetes' three values."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a condition is what it is: one vocabulary for conditions, outcomes, events, logs and metrics."""

    AS_SPECIFIED = "AsSpecified"
    FIRST_VISIT = "FirstVisit"
    NOT_APPLICABLE = "NotApplicable"
    # work under way
    PLAN_RUNNING = "PlanRunning"
    PLAN_PENDING = "PlanPending"
    DELETING = "Deleting"
    RETRYING = "Retrying"
    WAITING_FOR_REFERENCE = "WaitingForReference"
    WAITING_FOR_REFERRERS = "WaitingForReferrers"
    WAITING_FOR_OWNER = "WaitingForOwner"
    CANNOT_OBSERVE = "CannotObserve"
    # a human is needed
    APPROVAL_REQUIRED = "ApprovalRequired"
    PLAN_REJECTED = "PlanRejected"
    PLAN_FAILED = "PlanFailed"
    PLAN_UNSTABLE = "PlanUnstable"
    PLAN_EXPIRED = "PlanExpired"
    STEP_IN_DOUBT = "StepInDoubt"
    INVALID_SPEC = "InvalidSpec"
    REFERENCE_CYCLE = "ReferenceCycle"
    UNKNOWN_TYPE = "UnknownType"
    UNKNOWN_IMAGE = "UnknownImage"
    UNKNOWN_LOCATION = "UnknownLocation"
    PROVIDER_NOT_READY = "ProviderNotReady"
    PROVIDER_TYPE_DISABLED = "ProviderTypeDisabled"
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason, not a password
    SECRET_NOT_USABLE = "SecretNotUsable"  # noqa: S105 - a reason, not a password
    LIMIT_REACHED = "LimitReached"
    CLAIMED_BY_OTHER = "ClaimedByOther"
    HOST_KEY_MISMATCH = "HostKeyMismatch"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    NOT_SUPPORTED = "NotSupported"
    NOT_IN_INVENTORY = "NotInInventory"
    ADDRESS_NOT_ALLOWED = "AddressNotAllowed"
    NEEDS_ROOT = "NeedsRoot"
    DUPLICATE_MACHINE = "DuplicateMachine"
    INVALID_ANNOTATION = "InvalidAnnotation"
    FOREIGN_OPERATION = "ForeignOperation"
    UNREADABLE_OPERATION = "UnreadableOperation"
    AUDIT_UNAVAILABLE = "AuditUnavailable"
    BUG = "Bug"
    # the world differs
    OBSERVE_ONLY = "ObserveOnly"
    PAUSED = "Paused"
    POWERED_OFF = "PoweredOff"
    UNREACHABLE = "Unreachable"
    NOT_PREPARED = "NotPrepared"
    GONE = "Gone"
    FENCED = "Fenced"
    DISK_FULL = "DiskFull"
    READ_ONLY = "ReadOnly"
    CLOCK_OFF = "ClockOff"
    LOW_MEMORY = "LowMemory"
    UNITS_FAILED = "UnitsFailed"
    USER_DATA_FAILED = "UserDataFailed"
    HOSTS_UNUSABLE = "HostsUnusable"
    KEY_ROTATION = "KeyRotation"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition without its times: those belong to the status composer."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = ""

    @classmethod
    def true(cls, type: ConditionType, reason: Reason, message: str = "") -> Condition:
        """It is so."""
        return cls(type=type, status=ConditionStatus.TRUE, reason=reason, message=message)

    @classmethod
    def false(cls, type: ConditionType, reason: Reason, message: str = "") -> Condition:
        """It is not so."""
        return cls(type=type, status=ConditionStatus.FALSE, reason=reason, message=message)

    @classmethod
    def unknown(cls, type: ConditionType, reason: Reason, message: str = "") -> Condition:
        """It could not be seen."""
        return cls(type=type, status=ConditionStatus.UNKNOWN, reason=reason, message=message)
