"""Who may do what: RBAC in four roles, and Python twins of the admission rules in `manifests/` for our own kinds.

The rules are numbered as there. Rule 3 only warns, which nobody here could see; it has no twin.
All functions are pure: the cluster calls them with the object as it would be stored, before anything happens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from agentmetal.core.errors import Forbidden, Invalid
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.resource import FINALIZER, GROUP, Annotation, ResourceType

OPERATOR = "system:serviceaccount:agentmetal-system:agentmetal-operator"
CONTROLLER_MANAGER = "system:kube-controller-manager"
MASTERS = "system:masters"

Role = Literal["edit", "approve", "operate", "admin"]
_READ = {"get", "list", "watch"}
_VERBS: dict[Role, set[str]] = {
    "edit": _READ | {"create", "patch", "delete"},
    "approve": _READ | {"patch", "approve"},
    "operate": _READ | {"create", "patch", "delete", "approve"},
    "admin": _READ | {"create", "patch", "delete", "approve"},
}
_EVERYWHERE: set[Role] = {"operate", "admin"}
"""Roles that reach beyond our own group: Secrets, Leases, Events, Namespaces."""
_UNDECIDABLE = {Operation.info.plural, ApprovalPolicy.info.plural}


@dataclass(frozen=True)
class Principal:
    """Somebody who asks."""

    user: str
    groups: frozenset[str] = frozenset()


@dataclass
class Authorizer:
    """Who has which role. A subject is a user or a group."""

    roles: dict[str, set[Role]] = field(default_factory=dict)

    def grant(self, subject: str, role: Role) -> None:
        """Give a user or a group a role, in all namespaces."""
        self.roles.setdefault(subject, set()).add(role)

    def allowed(self, principal: Principal, verb: str, type: ResourceType) -> bool:
        """Has one of the principal's roles the verb?"""
        for subject in (principal.user, *principal.groups):
            for role in self.roles.get(subject, ()):
                if verb in _VERBS[role] and (type.group == GROUP or role in _EVERYWHERE):
                    return True
        return False

    def check(self, principal: Principal, verb: str, type: ResourceType) -> None:
        """Refuse what RBAC refuses."""
        if not self.allowed(principal, verb, type):
            raise Forbidden(
                f"User {principal.user!r} cannot {verb} resource {type.plural!r} in API group {type.group!r}"
            )

    def may_decide(self, principal: Principal, type: ResourceType) -> bool:
        """Has it the verb `approve`, and is it not the operator, which may do everything but that?"""
        return principal.user != OPERATOR and self.allowed(principal, "approve", type)


@dataclass(frozen=True)
class Review:
    """A request before it takes effect: who, on what, from which object to which."""

    authorizer: Authorizer
    principal: Principal
    type: ResourceType
    new: dict[str, Any] | None
    old: dict[str, Any] | None

    @property
    def may_decide(self) -> bool:
        return self.authorizer.may_decide(self.principal, self.type)

    @property
    def is_operator(self) -> bool:
        return self.principal.user == OPERATOR

    @property
    def is_cluster(self) -> bool:
        """Is it the garbage collector or the namespace controller?"""
        return (
            self.principal.user == CONTROLLER_MANAGER or "system:serviceaccounts:kube-system" in self.principal.groups
        )


def mutate(review: Review) -> dict[str, Any]:
    """Rules 6a and 1: the object with our finalizer and with the stamps that the request deserves."""
    new = review.new or {}
    if review.type.plural in _UNDECIDABLE:
        return new
    if review.old is None:
        new = _with_finalizer(new)
    return _stamped(review, new)


def validate(review: Review, subresource: str = "") -> None:
    """Rules 2 and 4 to 8: raise Forbidden for what must not be."""
    _operator_only(review, subresource)
    if subresource:
        return
    _deletion(review)
    _preapproval(review)
    _finalizer(review)
    _fence(review)
    _decision(review)


def immutable(review: Review) -> None:
    """The transition rules that the CRDs carry: the spec of an Operation stays what was decided about."""
    if review.type.plural != Operation.info.plural or review.new is None or review.old is None:
        return
    if review.new["spec"] != review.old["spec"]:
        raise Invalid("spec is immutable: it is what was decided about")


def _annotations(item: dict[str, Any] | None) -> dict[str, str]:
    return (item["metadata"].get("annotations") or {}) if item else {}


def _finalizers(item: dict[str, Any] | None) -> list[str]:
    return (item["metadata"].get("finalizers") or []) if item else []


def _digest(old: dict[str, Any] | None) -> str:
    return str((((old or {}).get("status") or {}).get("plan") or {}).get("digest") or "")


def _asks(review: Review, verb: str) -> str:
    """The value of an annotation if it is new in this request, else the empty string."""
    value = _annotations(review.new).get(verb, "")
    return value if value != _annotations(review.old).get(verb, "") else ""


def _fresh(review: Review) -> bool:
    """Does the object show a plan for the very spec that it has and keeps?"""
    old, new = review.old, review.new
    if old is None or new is None or not _digest(old):
        return False
    observed = (old.get("status") or {}).get("observedGeneration", 0)
    return new.get("spec") == old.get("spec") and bool(observed == old["metadata"].get("generation"))


def _decided(review: Review) -> str:
    """What the stamp `decision` must be."""
    digest, stamp = _digest(review.old), _annotations(review.old).get(Annotation.DECISION, "")
    if _fresh(review) and review.may_decide:
        if _asks(review, Annotation.REJECT) == digest:
            return f"reject {digest} by {review.principal.user}"
        if _asks(review, Annotation.APPROVE) == digest and not stamp.startswith(f"reject {digest}"):
            return f"approve {digest} by {review.principal.user}"
    return stamp


def _resolved(review: Review) -> str:
    """What the stamp `resolved` must be."""
    asked = _asks(review, Annotation.RESOLVE)
    if asked and review.may_decide:
        return f"{asked} by {review.principal.user}"
    return _annotations(review.old).get(Annotation.RESOLVED, "")


def _stamped(review: Review, new: dict[str, Any]) -> dict[str, Any]:
    """Rule 1."""
    now = _annotations(new)
    want = {Annotation.DECISION: _decided(review), Annotation.RESOLVED: _resolved(review)}
    if all(now.get(name, "") == value for name, value in want.items()):
        return new
    rest = {name: value for name, value in now.items() if name not in want}
    annotations = rest | {name: value for name, value in want.items() if value}
    metadata = {name: value for name, value in new["metadata"].items() if name != "annotations"}
    return {**new, "metadata": metadata | ({"annotations": annotations} if annotations else {})}


def _with_finalizer(new: dict[str, Any]) -> dict[str, Any]:
    """Rule 6a."""
    present = _finalizers(new)
    if FINALIZER in present:
        return new
    return {**new, "metadata": {**new["metadata"], "finalizers": [*present, FINALIZER]}}


def _decision(review: Review) -> None:
    """Rule 2. Forged stamps were overwritten by rule 1; who lacks the verb is told so."""
    if review.new is None or review.type.plural in _UNDECIDABLE or review.may_decide:
        return
    digest, who, plural = _digest(review.old), review.principal.user, review.type.plural
    if digest and digest in (_asks(review, Annotation.APPROVE), _asks(review, Annotation.REJECT)):
        raise Forbidden(f'{who} may not decide about plans of {plural}: the verb "approve" is missing')
    if _asks(review, Annotation.RESOLVE):
        raise Forbidden(f'{who} may not resolve steps of {plural}: the verb "approve" is missing')


def _operator_only(review: Review, subresource: str) -> None:
    """Rule 4."""
    journal = review.type.plural == Operation.info.plural
    if (subresource != "status" and not journal) or review.is_operator:
        return
    if review.new is None and review.is_cluster:
        return
    what = review.type.plural + (f"/{subresource}" if subresource else "")
    raise Forbidden(f"{what} is written by the AgentMetal operator only")


def _preapproval(review: Review) -> None:
    """Rule 5."""
    if review.type.plural != ApprovalPolicy.info.plural:
        return
    named = {plural for item in (review.new, review.old) if item for plural in item["spec"]["resources"]}
    # Roles here hold for all our kinds alike: one answer stands for every resource that the policy names.
    if named and not review.authorizer.allowed(review.principal, "approve", review.type):
        raise Forbidden(f'{review.principal.user} needs the verb "approve" on every resource that this policy names')
    if review.is_operator:
        raise Forbidden("the operator may not approve in advance")


def _finalizer(review: Review) -> None:
    """Rule 6b."""
    dropped = review.new and FINALIZER in _finalizers(review.old) and FINALIZER not in _finalizers(review.new)
    if dropped and not (review.is_operator or review.may_decide):
        raise Forbidden('removing the finalizer abandons machines and data: it needs the verb "approve"')


def _deletion(review: Review) -> None:
    """Rule 7."""
    if review.new is not None or review.old is None:
        return
    if ((review.old.get("spec") or {}).get("management") or {}).get("deletionProtection"):
        raise Forbidden("deletion is protected: set spec.management.deletionProtection to false first")


def _fence(review: Review) -> None:
    """Rule 8."""
    if review.type.plural != "instances" or review.new is None:
        return
    was = ((review.old or {}).get("spec") or {}).get("fence")
    if (review.new.get("spec") or {}).get("fence") != was and not (review.is_operator or review.may_decide):
        raise Forbidden('spec.fence is the operator\'s: lifting it by hand needs the verb "approve"')
