"""What the API server does with a schema beyond what a model does: drops nulls, tells twins in lists, asks the rules.

Called by `kinds`, after the model has looked at the value (`rules_of` before, when a kind is registered). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from agentmetal.kube.crds.schema import RULES, Schema
from agentmetal.kube.memory.cel import Expression, NoSuchKey, understood

_TYPE, _KEYS = "x-kubernetes-list-type", "x-kubernetes-list-map-keys"
_INT64 = 2**63
_ABSENT = object()
"""There is no old value to compare with: rules about changes are not asked."""

understood_once = cache(understood)


def check_understood(schema: Schema) -> None:
    """Raises NotUnderstood when a rule anywhere below cannot be asked here."""
    for rule in schema.get(RULES, ()):
        understood_once(rule["rule"])
    for below in (*schema.get("properties", {}).values(), *(schema[k] for k in _PARTS if k in schema)):
        check_understood(below)


_PARTS = ("items", "additionalProperties")


def without_nulls(value: Any, schema: Schema) -> Any:
    """The value without nulls in the fields of objects: there they mean absent."""
    if isinstance(value, dict):
        fields, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        kept = {k: v for k, v in value.items() if v is not None or not (k in fields or others)}
        return {k: without_nulls(v, fields.get(k, others)) for k, v in kept.items()}
    if isinstance(value, list):
        return [without_nulls(item, schema.get("items", {})) for item in value]
    return value


def problems(value: Any, old: Any, schema: Schema, path: str) -> Iterator[str]:
    """Why the server refuses what the model takes. `old` is None for what is new."""
    yield from _problems(value, _ABSENT if old is None else old, schema, path)


def sentence_at(schema: Schema, location: Sequence[int | str]) -> str:
    """What the rules of a place say, for a value that its pattern refuses; empty when they say nothing."""
    for part in location:
        if isinstance(part, int):
            schema = schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(part) or schema.get("additionalProperties", {})
    return "; ".join(rule["message"] for rule in schema.get(RULES, ()) if "message" in rule)


def _problems(value: Any, old: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, int) and not isinstance(value, bool) and not -_INT64 <= value < _INT64:
        yield f"{path}: {value} is no integer of 64 bits"
    yield from broken_rules(value, old, schema, path)
    if isinstance(value, dict):
        fields, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        for name, item in value.items():
            before = old.get(name, _ABSENT) if isinstance(old, dict) else _ABSENT
            yield from _problems(item, before, fields.get(name, others), f"{path}.{name}")
    elif isinstance(value, list):
        yield from _twins(value, schema, path)
        before = _by_key(old, schema) if isinstance(old, list) else {}
        for number, item in enumerate(value):
            was = before.get(_key(item, schema), _ABSENT) if schema.get(_TYPE) == "map" else _ABSENT
            yield from _problems(item, was, schema.get("items", {}), f"{path}[{number}]")


def broken_rules(value: Any, old: Any, schema: Schema, path: str) -> Iterator[str]:
    """What the rules of this very place say."""
    for rule in schema.get(RULES, ()):
        if "oldSelf" in rule["rule"] and old in (_ABSENT, None):
            continue
        if said := _asked(understood_once(rule["rule"]), {"self": value, "oldSelf": old}):
            yield f"{path}{rule.get('fieldPath', '')}: {rule.get('message', '') if said is True else said}"


def _asked(rule: Expression, scope: Mapping[str, Any]) -> bool | str:
    """True when it is broken, or why it cannot be answered."""
    try:
        return not rule(scope)
    except (NoSuchKey, ValueError) as error:
        return str(error)


def _twins(items: Sequence[Any], schema: Schema, path: str) -> Iterator[str]:
    if schema.get(_TYPE) not in ("set", "map"):
        return
    seen: set[str] = set()
    for number, item in enumerate(items):
        key = _key(item, schema)
        if key in seen:
            yield f"{path}[{number}]: Duplicate value: {key}"
        seen.add(key)


def _by_key(items: Sequence[Any], schema: Schema) -> dict[str, Any]:
    return {_key(item, schema): item for item in items}


def _key(item: Any, schema: Schema) -> str:
    if schema.get(_TYPE) == "map" and isinstance(item, dict):
        item = {name: item.get(name) for name in schema[_KEYS]}
    return json.dumps(item, sort_keys=True)
