"""Python twins of `manifests/admission/spec.yaml` and `secrets.yaml`: who may say what is wanted, and whose Secrets.

Called by the cluster beside `admission`. All functions are pure.
"""

from __future__ import annotations

from typing import Any

from agentmetal.core.errors import Forbidden
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.resource import FINALIZER, GROUP, Annotation
from agentmetal.kube.memory.admission import Review

MANAGED_BY, OURS = "app.kubernetes.io/managed-by", "agentmetal"
_DECISIONS = {Annotation.APPROVE, Annotation.REJECT, Annotation.RESOLVE}
_JOURNAL = {Operation.info.plural, ApprovalPolicy.info.plural}


def guard(review: Review) -> None:
    """Raises Forbidden for what must not be."""
    if review.type == SECRET:
        _secrets_operator(review)
        _secrets_ours(review)
    elif review.type.group == GROUP and review.type.plural not in _JOURNAL and review.new and review.old:
        _spec(review)


def _spec(review: Review) -> None:
    """spec.yaml"""
    new, old = review.new or {}, review.old or {}
    changed = _wanted(new) != _wanted(old)
    if review.is_operator:
        if (changed or _annotated(new, old)) and not _is_child(old):
            raise Forbidden("the operator does not write what people want: no spec and no annotation of theirs")
        return
    plural, who = review.type.plural, review.principal
    if changed and not review.authorizer.allowed(who, "create", GROUP, plural):
        raise Forbidden(f'{who.user} may not change the spec of {plural}: the verb "create" is missing')


def _secrets_operator(review: Review) -> None:
    """secrets.yaml: the operator writes no others."""
    if not review.is_operator:
        return
    new, old = review.new or {}, review.old or {}
    if not old:
        if not (new.get("type") == "Opaque" and _is_ours(new) and _is_child(new)):
            raise Forbidden("the operator makes Secrets for its own objects only")
        return
    same = all(new.get(name) == old.get(name) for name in ("data", "type"))
    lets_go = bool(new) and same and FINALIZER in (old["metadata"].get("finalizers") or ())
    if not (_is_ours(old) or lets_go):
        raise Forbidden("the operator changes and deletes only the Secrets that it made")


def _secrets_ours(review: Review) -> None:
    """secrets.yaml: nobody else writes ours."""
    new, old = review.new or {}, review.old or {}
    if not (_is_ours(new) or _is_ours(old)) or review.is_operator or review.may_approve("instances"):
        return
    if review.is_cluster and old and (not new or new.get("data") == old.get("data")):
        return
    raise Forbidden('this Secret is AgentMetal\'s: writing it by hand needs the verb "approve" on instances')


def _wanted(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (item.get("spec") or {}).items() if key != "fence"}


def _annotated(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Another annotation than decisions, which have a rule of their own."""
    now, before = _metadata(new, "annotations"), _metadata(old, "annotations")
    added = any(before.get(name) != value for name, value in now.items() if name not in _DECISIONS)
    return added or bool(before.keys() - now.keys())


def _metadata(item: dict[str, Any], name: str) -> dict[str, str]:
    return (item.get("metadata") or {}).get(name) or {}


def _is_ours(item: dict[str, Any]) -> bool:
    return _metadata(item, "labels").get(MANAGED_BY) == OURS


def _is_child(item: dict[str, Any]) -> bool:
    """Has it a controller of ours?"""
    owners = (item.get("metadata") or {}).get("ownerReferences") or []
    return any(owner["apiVersion"].startswith(f"{GROUP}/") and owner.get("controller") for owner in owners)
