"""Turns a pydantic model into the structural OpenAPI v3 schema of a CRD. Called by `definition`.

It refuses and never drops: a keyword lost here would be a value that the cluster accepts and the model rejects.
Only `title` and `additionalProperties: false` go: the API server refuses or prunes unknown fields by itself.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

Schema = dict[str, Any]
RULES = "x-kubernetes-validations"
PRESERVE = "x-kubernetes-preserve-unknown-fields"
_REF = "#/$defs/"

_HINTS = {
    "exclusiveMinimum": "use ge= instead of gt=",
    "exclusiveMaximum": "use le= instead of lt=",
    "prefixItems": "make the tuple a small model with named fields",
    "uniqueItems": 'use a tuple with json_schema_extra={"x-kubernetes-list-type": "set"}',
    "oneOf": "use optional fields and a CEL rule that says which belong together",
    "allOf": "write the fields out in one model",
    "discriminator": "use optional fields and a CEL rule that says which belong together",
    "propertyNames": "use plain str keys and a CEL rule about them",
    "patternProperties": "use plain str keys and a CEL rule about them",
    "examples": "put the example into the description",
}
_ORDER = (
    "description", "type", "format", "default", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "multipleOf", "minItems", "maxItems", "minProperties", "maxProperties", PRESERVE, "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-int-or-string", RULES, "required",
    "items", "additionalProperties", "properties",
)  # fmt: skip
_FORMATS = {"date-time", "date", "byte", "int32", "int64", "ipv4", "ipv6", "uuid"}
_TYPES = {"string", "integer", "boolean", "array", "object"}
_RULE_ORDER = ("rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf")
_MEMBER = re.compile(r"\.\??([A-Za-z_][A-Za-z0-9_]*)")


class NotExpressible(Exception):
    """A model says something that a CRD cannot say."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")


def structural(model: type[BaseModel]) -> Schema:
    """The schema of a spec or a status. Raises NotExpressible."""
    return _Generator(model).of_model(model, model.__name__)


def ordered(schema: Schema) -> Schema:
    """The same schema with its keywords in the order in which people read them."""
    if RULES in schema:
        rules = [{key: rule[key] for key in _RULE_ORDER if key in rule} for rule in schema[RULES]]
        schema = {**schema, RULES: rules}
    return {keyword: schema[keyword] for keyword in _ORDER if keyword in schema}


def check_rules(path: str, schema: Schema) -> None:
    """Refuses rules without a sentence, and rules over strings of unbounded length (CEL has a cost budget)."""
    for rule in schema.get(RULES, ()):
        if unknown := set(rule) - set(_RULE_ORDER):
            raise NotExpressible(path, f"a rule has no {sorted(unknown)}: it may have {', '.join(_RULE_ORDER)}")
        if not (rule.get("message") or rule.get("messageExpression")):
            raise NotExpressible(path, f"rule {rule.get('rule')!r} needs a message that says what to write instead")
        named = set(_MEMBER.findall(rule["rule"] + rule.get("messageExpression", "")))
        for place in (*_unbounded(path, schema), *_unbounded_below(path, schema, named)):
            raise NotExpressible(place, f"is named in the rule {rule['rule']!r}: give the string a max_length")


def _unbounded(path: str, schema: Schema) -> Iterator[str]:
    """The place of a string without a bound: the value itself, an item of the list, a value of the map."""
    if schema.get("type") == "string" and not schema.keys() & {"maxLength", "enum", "format"}:
        yield path
    for part in ("items", "additionalProperties"):
        if part in schema:
            yield from _unbounded(f"{path}[]", schema[part])


def _unbounded_below(path: str, schema: Schema, named: set[str]) -> Iterator[str]:
    for name, value in schema.get("properties", {}).items():
        if name in named:
            yield from _unbounded(f"{path}.{name}", value)
        yield from _unbounded_below(f"{path}.{name}", value, named)
    for part in ("items", "additionalProperties"):
        if part in schema:
            yield from _unbounded_below(f"{path}[]", schema[part], named)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation mentions, at any depth of its type arguments."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _reachable(model: type[BaseModel], found: dict[type[BaseModel], None]) -> dict[type[BaseModel], None]:
    if model not in found:
        found[model] = None
        for info in model.model_fields.values():
            for part in _models(info.annotation):
                _reachable(part, found)
    return found


class _Generator:
    """Walks models and their JSON schemas side by side: only the models know what a default was made of."""

    def __init__(self, root: type[BaseModel]) -> None:
        models = list(_reachable(root, {}))
        references, document = models_json_schema([(model, "validation") for model in models], by_alias=True)
        self._definitions: Mapping[str, Schema] = document["$defs"]
        self._names = {model: references[model, "validation"]["$ref"].removeprefix(_REF) for model in models}
        self._models = {name: model for model, name in self._names.items()}
        self._inside: list[type[BaseModel]] = []

    def of_model(self, model: type[BaseModel], path: str) -> Schema:
        if model in self._inside:
            raise NotExpressible(path, f"{model.__name__} contains itself: a CRD has no recursive schemas")
        self._inside.append(model)
        definition = dict(self._definitions[self._names[model]])
        raw = definition.pop("properties", {})
        if definition.get("additionalProperties") is True:
            raise NotExpressible(path, 'extra="allow" has no form in a CRD beside fields: use "forbid" or "ignore"')
        properties = {}
        for name, info in model.model_fields.items():
            alias = info.alias or name
            properties[alias] = self._field(raw[alias], info, f"{path}.{alias}")
        self._inside.pop()
        schema = self._keywords(definition, path)
        return self._checked({**schema, **({"properties": properties} if properties else {})}, path)

    def _field(self, raw: Schema, info: FieldInfo, path: str) -> Schema:
        value, optional = self._without_null(raw, path)
        if optional and info.is_required():
            raise NotExpressible(path, "X | None without a default would be required and null: give it `= None`")
        if not value.get("description"):
            raise NotExpressible(path, "has no description: `kubectl explain` must read like a manual")
        schema = self._value({k: v for k, v in value.items() if k != "default"}, path)
        default = _default(info, raw, path)
        return schema if default is None else ordered({**schema, "default": default})

    def _without_null(self, raw: Schema, path: str) -> tuple[Schema, bool]:
        """`X | None` as X: what may be None is absent in Kubernetes, never null."""
        if "anyOf" not in raw:
            return raw, False
        branches = [branch for branch in raw["anyOf"] if branch != {"type": "null"}]
        if len(branches) != 1 or len(raw["anyOf"]) != 2:
            raise NotExpressible(path, "anyOf beyond `X | None`: use optional fields and a CEL rule")
        outer = {keyword: value for keyword, value in raw.items() if keyword != "anyOf"}
        return {**branches[0], **outer}, True

    def _value(self, raw: Schema, path: str) -> Schema:
        if "anyOf" in raw:
            raise NotExpressible(path, "anyOf is possible as `X | None` of a field only, not inside lists and maps")
        if "$ref" in raw:
            return self._referenced(raw, path)
        return self._checked(self._keywords(raw, path), path)

    def _referenced(self, raw: Schema, path: str) -> Schema:
        name = raw["$ref"].removeprefix(_REF)
        model = self._models.get(name)
        target = self.of_model(model, path) if model else self._value(self._definitions[name], path)
        beside = self._keywords({k: v for k, v in raw.items() if k != "$ref"}, path)
        rules = [*target.get(RULES, ()), *beside.get(RULES, ())]
        return self._checked({**target, **beside, **({RULES: rules} if rules else {})}, path)

    def _keywords(self, raw: Schema, path: str) -> Schema:
        """Keyword by keyword: translated, or refused."""
        schema: Schema = {}
        for keyword, value in raw.items():
            if keyword == "title" or (keyword == "additionalProperties" and value is False):
                continue
            if keyword == "const":
                schema["enum"] = [value]
            elif keyword == "items":
                schema["items"] = self._value(value, f"{path}[]")
            elif keyword == "additionalProperties":
                schema.update(self._map(value, raw, path))
            elif keyword in _ORDER:
                schema[keyword] = value
            else:
                hint = _HINTS.get(keyword, "say it another way")
                raise NotExpressible(path, f"{keyword} has no form in a CRD: {hint}")
        return schema

    def _map(self, values: Any, raw: Schema, path: str) -> Schema:
        if values is True:  # dict[str, Any]: only the marker makes it a map of anything, see _checked
            if not raw.get(PRESERVE):
                raise NotExpressible(path, f"values of any type need json_schema_extra={{{PRESERVE!r}: True}}")
            return {}
        if "maxProperties" not in raw:
            raise NotExpressible(path, "the map has no bound: give it a max_length")
        return {"additionalProperties": self._value(values, f"{path}[]")}

    def _checked(self, schema: Schema, path: str) -> Schema:
        kind = schema.get("type")
        if kind is None and not (schema.get(PRESERVE) or schema.get("x-kubernetes-int-or-string")):
            raise NotExpressible(path, f"has no type: give it one, or json_schema_extra={{{PRESERVE!r}: True}}")
        if kind == "number":
            raise NotExpressible(path, "floats are compared badly: use an integer with the unit in its name")
        if kind is not None and kind not in _TYPES:
            raise NotExpressible(path, f"type {kind!r} has no form in a CRD")
        if kind == "array" and "maxItems" not in schema:
            raise NotExpressible(path, "the list has no bound: give it a max_length")
        if schema.get("format", "date") not in _FORMATS:
            raise NotExpressible(path, f"format {schema['format']!r} means something else or nothing: use a pattern")
        if "pattern" in schema and RULES not in schema:
            raise NotExpressible(path, "a pattern tells people nothing: put Says('write ...') of core.saying behind it")
        check_rules(path, schema)
        return ordered(schema)


def _default(info: FieldInfo, raw: Schema, path: str) -> Any:
    """What the API server fills in; None for nothing. A sub-model's default is `{}`: its fields have their own."""
    factory = info.default_factory
    if factory is not None and not (isinstance(factory, type) and issubclass(factory, BaseModel)):
        raise NotExpressible(path, "default_factory is for sub-models: lists default to (), maps to a literal {}")
    default = factory() if isinstance(factory, type) else info.default
    if isinstance(default, BaseModel):
        return _default_of_model(default, info, path)
    if info.is_required() or default is None:
        return None
    value = raw["default"]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        raise NotExpressible(path, "a list of models cannot have a default other than ()")
    return value


def _default_of_model(default: BaseModel, info: FieldInfo, path: str) -> Schema:
    model = type(default)
    if model not in set(_models(info.annotation)):
        raise NotExpressible(path, f"the default is a {model.__name__}, the field is not: name it in the annotation")
    if any(field.is_required() for field in model.model_fields.values()) or default != model():
        raise NotExpressible(path, f"the default must be {model.__name__}(): put other defaults into a subclass")
    return {}
