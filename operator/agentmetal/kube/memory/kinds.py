"""What the CRDs do: refuse bad specs, drop unknown status fields, put in defaults. By the models, and by `schemas` for
what a server does beyond that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeGuard

from pydantic import ValidationError

from agentmetal.core.errors import Invalid
from agentmetal.core.resource import ApiModel, KindInfo, Resource, ResourceType
from agentmetal.kube.crds.definition import definition
from agentmetal.kube.crds.schema import Schema
from agentmetal.kube.memory.schemas import broken_rules, check_understood, problems, sentence_at, without_nulls

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_ENVELOPE = {"apiVersion", "kind", "metadata"}


class Kind:
    """A type as the cluster serves it: with a model (ours), or free-form (built-in ones)."""

    def __init__(self, type: ResourceType, model: type[Resource[Any, Any]] | None = None) -> None:
        self.type = type
        self.info: KindInfo | None = model.info if model else None
        self.ours = model is not None
        self.has_status_subresource = model is not None and model.info.managed
        self.selectable = model.info.selectable if model else ()
        self._schema = _schema_of(model) if model else {}
        self._parts = {field: _part(model, field) for field in ("spec", "status") if _has_part(model, field)}

    def completed(self, body: dict[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The body as it is stored: validated and with defaults. Parts equal to those before are not looked at."""
        if not self.ours:
            return {"type": "Opaque", **body} if self.type.kind == "Secret" else body
        name, before = body["metadata"].get("name", ""), before or {}
        unknown = body.keys() - _ENVELOPE - self._parts.keys()
        if unknown:
            raise Invalid(f"{self.type.kind} {name!r}: strict decoding error: unknown field {sorted(unknown)[0]!r}")
        completed = {**body}
        for field, part in self._parts.items():
            if field in before and body.get(field) == before[field]:
                completed[field] = before[field]
            else:
                completed = _with(completed, field, self._wire(part, field, name, body.get(field)))
                self._check(name, problems(completed.get(field), before.get(field), self._below(field), field))
        self._check(name, broken_rules(completed, before or None, self._schema, self.type.kind))
        return completed

    def _below(self, field: str) -> Schema:
        return self._schema["properties"].get(field, {})  # type: ignore[no-any-return]  # a schema in a schema

    def _check(self, name: str, problems: Iterable[str]) -> None:
        if said := "; ".join(problems):
            raise Invalid(f"{self.type.kind} {name!r} is invalid: {said}")

    def _wire(self, part: _Part, field: str, name: str, value: Any) -> Any:
        if value is None:
            if part.default is None and part.required:
                raise Invalid(f"{self.type.kind} {name!r} is invalid: {field}: Required value")
            return part.default() if part.default else None
        try:
            return self._read(part, field, value).wire()
        except ValidationError as error:
            schema = self._below(field)
            said = "; ".join(_sentence(field, detail, schema) for detail in error.errors(include_url=False))
            raise Invalid(f"{self.type.kind} {name!r} is invalid: {said}") from error

    def _read(self, part: _Part, field: str, value: Any) -> ApiModel:
        """A spec as strictly as the server: a model would take "3" for 3. Statuses are the operator's own."""
        if field != "spec":
            return part.model.model_validate(value)
        return part.model.model_validate_json(json.dumps(without_nulls(value, self._below(field))), strict=True)


@cache
def _schema_of(model: type[Resource[Any, Any]]) -> Schema:
    """What its CRD says. Raises NotUnderstood for a rule that cannot be asked here."""
    schema: Schema = definition(model)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    check_understood(schema)
    return schema


class _Part:
    """The spec or the status of a model."""

    def __init__(self, model: type[ApiModel], default: Callable[[], Any] | None, *, required: bool) -> None:
        self.model, self.default, self.required = model, default, required


def _has_part(model: type[Resource[Any, Any]] | None, name: str) -> TypeGuard[type[Resource[Any, Any]]]:
    """As in the CRD: a status without fields does not exist."""
    return model is not None and bool(_annotation(model, name).model_fields)


def _annotation(model: type[Resource[Any, Any]], name: str) -> type[ApiModel]:
    annotation = model.model_fields[name].annotation
    if not isinstance(annotation, type) or not issubclass(annotation, ApiModel):
        raise TypeError(f"{model.__name__}.{name} must be an ApiModel, not {annotation!r}")
    return annotation


def _part(model: type[Resource[Any, Any]], name: str) -> _Part:
    field, annotation = model.model_fields[name], _annotation(model, name)
    if field.is_required():
        return _Part(annotation, None, required=name == "spec")
    return _Part(annotation, lambda: field.get_default(call_default_factory=True).wire(), required=False)


def _sentence(field: str, detail: Mapping[str, Any], schema: Schema) -> str:
    path = ".".join([field, *(str(part) for part in detail["loc"])])
    if detail["type"] == "extra_forbidden":
        return f"strict decoding error: unknown field {path!r}"
    said = sentence_at(schema, detail["loc"]) if detail["type"] == "string_pattern_mismatch" else ""
    return f"{path}: {said or detail['msg']}"


def _with(body: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The body with that field, or without it when the value is None."""
    if value is None:
        body.pop(name, None)
    else:
        body[name] = value
    return body


def check_metadata(type: ResourceType, metadata: Mapping[str, Any]) -> None:
    """Names, labels, annotations and owners that the server would refuse."""
    name = str(metadata.get("name", ""))
    problem = ""
    if not _NAME.fullmatch(name) or len(name) > 253:
        problem = f"metadata.name: {name!r} must be lower case letters, digits, '-' and '.'"
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key) or len(key.rpartition("/")[2]) > 63:
            problem = f"metadata.labels: {key!r} is not a label name"
        elif not isinstance(value, str) or not _LABEL.fullmatch(value) or len(value) > 63:
            problem = f"metadata.labels: {value!r} must be 63 letters, digits, '-', '_' or '.' at most"
    for key, value in (metadata.get("annotations") or {}).items():
        if not _LABEL_KEY.fullmatch(key) or len(key.rpartition("/")[2]) > 63:
            problem = f"metadata.annotations: {key!r} is not an annotation name"
        elif not isinstance(value, str):
            problem = f"metadata.annotations: {key!r} must be a string, not {value!r}"
    for owner in metadata.get("ownerReferences") or ():
        if not all(owner.get(field) for field in ("apiVersion", "kind", "name", "uid")):
            problem = "metadata.ownerReferences: apiVersion, kind, name and uid are required"
    if problem:
        raise Invalid(f"{type.kind} {name!r} is invalid: {problem}")
