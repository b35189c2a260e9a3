"""Makes the CustomResourceDefinition of a kind: names, columns, subresources around the schema. Called by `files`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from agentmetal.core.resource import GROUP, VERSION, Column, KindInfo, Resource
from agentmetal.kube.crds.schema import RULES, NotExpressible, Schema, check_rules, ordered, structural

AnyKind = type[Resource[Any, Any]]

CATEGORY = "agentmetal"
"""`kubectl get agentmetal` shows every managed object."""

_READY = '.status.conditions[?(@.type=="Ready")]'
_STATE = (
    Column("Phase", ".status.phase", description="A summary for people."),
    Column("Ready", f"{_READY}.status", description="Does the service answer as specified?"),
    Column("Risk", ".status.plan.risk", description="Risk of the plan that waits or runs."),
    Column("Plan", ".status.plan.shortDigest", description="Digest of that plan, shortened."),
    Column("Reason", f"{_READY}.reason", description="Why it is Ready or not."),
)
_AGE = Column("Age", ".metadata.creationTimestamp", type="date")


def definition(kind: AnyKind) -> dict[str, Any]:
    """The CustomResourceDefinition, ready for YAML. Raises NotExpressible."""
    info = kind.info
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{GROUP}", "labels": {"app.kubernetes.io/name": "agentmetal"}},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": _names(info), "versions": [_version(kind)]},
    }


def _names(info: KindInfo) -> dict[str, Any]:
    names: dict[str, Any] = {
        "kind": info.kind,
        "listKind": f"{info.kind}List",
        "plural": info.plural,
        "singular": info.kind.lower(),
    }
    if info.short:
        names["shortNames"] = list(info.short)
    if info.managed:
        names["categories"] = [CATEGORY]
    return names


def _version(kind: AnyKind) -> dict[str, Any]:
    info = kind.info
    columns = (*_STATE, *info.columns, _AGE) if info.managed else info.columns
    version: dict[str, Any] = {"name": VERSION, "served": True, "storage": True}
    if info.managed:
        version["subresources"] = {"status": {}}
    if info.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in info.selectable]
    version["additionalPrinterColumns"] = [_column(column) for column in columns]
    version["schema"] = {"openAPIV3Schema": _root(kind)}
    return version


def _column(column: Column) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        entry["description"] = column.description
    if column.wide:
        entry["priority"] = 1
    return entry


def _root(kind: AnyKind) -> Schema:
    properties: Schema = {
        "apiVersion": {"description": f"{GROUP}/{VERSION}", "type": "string"},
        "kind": {"description": kind.info.kind, "type": "string"},
        "metadata": {"type": "object"},
    }
    for name in ("spec", "status"):
        if (part := _part(kind, name)) is not None:
            properties[name] = part
    root: Schema = {"description": kind.info.description, "type": "object", "properties": properties}
    if kind.model_fields["spec"].is_required():
        root["required"] = ["spec"]
    if rules := _root_rules(kind):
        root[RULES] = rules
    check_rules(kind.__name__, root)
    return ordered(root)


def _part(kind: AnyKind, name: str) -> Schema | None:
    """The schema of spec or status; None for a status without fields."""
    path = f"{kind.__name__}.{name}"
    info = kind.model_fields[name]
    model = info.annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise NotExpressible(path, f"must be one model, not {model!r}")
    if name == "status" and not model.model_fields:
        return None
    schema = structural(model)
    if info.is_required():
        return schema
    if info.default != model():
        raise NotExpressible(path, f"the default must be {model.__name__}(): put other defaults into a subclass")
    return ordered({**schema, "default": {}})


def _root_rules(kind: AnyKind) -> list[Any]:
    extra = kind.model_config.get("json_schema_extra")
    if extra is None:
        return []
    if not isinstance(extra, dict) or set(extra) != {RULES}:
        raise NotExpressible(kind.__name__, f"json_schema_extra of a kind may hold {RULES!r} only")
    rules = extra[RULES]
    if not isinstance(rules, list):
        raise NotExpressible(kind.__name__, f"{RULES!r} must be a list of rules")
    return rules
