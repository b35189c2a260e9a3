"""Python twins of the admission rules in `manifests/admission` for our own kinds.

`hint.yaml` only warns, which nobody here could see: it has no twin. All functions are pure: the cluster calls them
with the object as it would be stored, before anything happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.errors import Forbidden
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.resource import FINALIZER, GROUP, Annotation, ResourceType
from agentmetal.kube.memory.rbac import Authorizer, Principal

OPERATOR = "system:serviceaccount:agentmetal-system:agentmetal-operator"
CONTROLLER_MANAGER = "system:kube-controller-manager"
CLUSTER = (
    CONTROLLER_MANAGER,
    "system:serviceaccount:kube-system:generic-garbage-collector",
    "system:serviceaccount:kube-system:namespace-controller",
)
_FENCED = "instances"
_UNDECIDABLE = {Operation.info.plural, ApprovalPolicy.info.plural, AuditCheckpoint.info.plural}


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
        """Has it the verb `approve`, and is it not the operator, who never decides?"""
        return not self.is_operator and self.may_approve(self.type.plural)

    def may_approve(self, plural: str) -> bool:
        """Has it the verb `approve` on these resources?"""
        return self.authorizer.allowed(self.principal, "approve", GROUP, plural)

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
    """finalizer.yaml and decision.yaml: the object with our finalizer and with the stamps that the request deserves."""
    new = review.new or {}
    if review.type.plural in _UNDECIDABLE:
        return new
    if review.old is None:
        new = _with_finalizer(new)
    return _stamped(review, new)


def validate(review: Review, subresource: str = "") -> None:
    """Raises Forbidden for what must not be."""
    _operator_only(review, subresource)
    if subresource:
        return
    _deletion(review)
    _preapproval(review)
    _finalizer(review)
    _fence(review)
    _decision(review)


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
        if _asks(review, Annotation.APPROVE) == digest and not stamp.startswith(f"reject {digest} "):
            return f"approve {digest} by {review.principal.user}"
    return stamp


def _resolved(review: Review) -> str:
    """What the stamp `resolved` must be."""
    asked = _asks(review, Annotation.RESOLVE)
    if asked and review.may_decide:
        return f"{asked} by {review.principal.user}"
    return _annotations(review.old).get(Annotation.RESOLVED, "")


def _stamped(review: Review, new: dict[str, Any]) -> dict[str, Any]:
    """decision.yaml, mutating."""
    now = _annotations(new)
    want = {Annotation.DECISION: _decided(review), Annotation.RESOLVED: _resolved(review)}
    if all(now.get(name, "") == value for name, value in want.items()):
        return new
    rest = {name: value for name, value in now.items() if name not in want}
    annotations = rest | {name: value for name, value in want.items() if value}
    metadata = {name: value for name, value in new["metadata"].items() if name != "annotations"}
    return {**new, "metadata": metadata | ({"annotations": annotations} if annotations else {})}


def _with_finalizer(new: dict[str, Any]) -> dict[str, Any]:
    """finalizer.yaml, mutating."""
    present = _finalizers(new)
    if FINALIZER in present:
        return new
    return {**new, "metadata": {**new["metadata"], "finalizers": [*present, FINALIZER]}}


def _decision(review: Review) -> None:
    """decision.yaml, validating. Forged stamps are overwritten already; who lacks the verb is told so."""
    if review.new is None or review.type.plural in _UNDECIDABLE or review.may_decide:
        return
    digest, who, plural = _digest(review.old), review.principal.user, review.type.plural
    if digest and digest in (_asks(review, Annotation.APPROVE), _asks(review, Annotation.REJECT)):
        raise Forbidden(f'{who} may not decide about plans of {plural}: the verb "approve" is missing')
    if _asks(review, Annotation.RESOLVE):
        raise Forbidden(f'{who} may not resolve steps of {plural}: the verb "approve" is missing')


def _operator_only(review: Review, subresource: str) -> None:
    """operator-only.yaml"""
    journal = review.type.plural == Operation.info.plural
    if review.type.plural == AuditCheckpoint.info.plural and review.new is None and review.is_operator:
        raise Forbidden("the operator may not delete checkpoints of its own audit trail: administrators do")
    kept = review.type.plural == AuditCheckpoint.info.plural and review.new is not None
    if (subresource != "status" and not journal and not kept) or review.is_operator:
        return
    if review.is_cluster and (review.new is None or _same_contents(review)):
        return
    what = review.type.plural + (f"/{subresource}" if subresource else "")
    raise Forbidden(f"{what} is written by the AgentMetal operator only")


def _same_contents(review: Review) -> bool:
    """Does an update leave alone what the object says (it changes owner references, say)?"""
    new, old = review.new or {}, review.old
    return old is not None and new.get("spec") == old.get("spec") and new.get("status") == old.get("status")


def _preapproval(review: Review) -> None:
    """preapproval.yaml"""
    if review.type.plural != ApprovalPolicy.info.plural:
        return
    named = {plural for item in (review.new, review.old) if item for plural in item["spec"]["resources"]}
    by_cluster = review.is_cluster and review.new is None
    if not by_cluster and not all(review.may_approve(plural) for plural in named):
        raise Forbidden(
            f'{review.principal.user} needs the verb "approve" on every resource that this policy names:'
            f" {', '.join(sorted(named))}"
        )
    if review.is_operator:
        raise Forbidden("the operator may not approve in advance")


def _finalizer(review: Review) -> None:
    """finalizer.yaml, validating."""
    dropped = review.new and FINALIZER in _finalizers(review.old) and FINALIZER not in _finalizers(review.new)
    if dropped and not (review.is_operator or review.may_decide):
        raise Forbidden('removing the finalizer abandons machines and data: it needs the verb "approve"')


def _deletion(review: Review) -> None:
    """deletion.yaml"""
    if review.new is not None or review.old is None:
        return
    if ((review.old.get("spec") or {}).get("management") or {}).get("deletionProtection"):
        raise Forbidden("deletion is protected: set spec.management.deletionProtection to false first")


def _fence(review: Review) -> None:
    """fence.yaml"""
    if review.type.plural != _FENCED or review.new is None:
        return
    was = ((review.old or {}).get("spec") or {}).get("fence")
    if (review.new.get("spec") or {}).get("fence") != was and not (review.is_operator or review.may_decide):
        raise Forbidden('spec.fence is the operator\'s: changing it by hand needs the verb "approve"')
