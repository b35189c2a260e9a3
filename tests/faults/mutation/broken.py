"""Specs with one rule of the schema broken, out of the schema itself. Used by the tests beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.faults.mutation.values import Mutation, mutations, values

from agentmetal.kube.crds.schema import Schema
from agentmetal.kube.memory.cel import matches

_OTHER_TYPES: tuple[Any, ...] = ("text", "3", "true", 3, 3.5, True, [], {}, ["a"], {"a": "b"})
_ODD_TEXTS = (
    *("", " ", "-", "..", "../../etc/passwd", "a b", "a\n", "\na", "a\0", "\x1b[2J", "é", "\u202e", "\U0001f980", "Ａ"),
    *(
        "a" * 64,
        "a" * 254,
        "a" * 100_000,
        "0s",
        "5",
        "m",
        "-5m",
        "5 m",
        "1h1h",
        "999999h",
        "/",
        "/etc",
        "/srv",
        "$(reboot)",
    ),
    *("/srv/../etc", "/var/lib/agentmetal/x", "root", "ssh-ed25519", "ssh-ed25519 AAAA\nssh-rsa AAAA", "ssh-dss AAAA"),
    *("256.0.0.1", "1.2.3", "01.2.3.4", "no", "null", "'; drop table", "$(reboot)"),
)
_NUMBERS = (-(2**63), -1, 0, 2**31, 2**53, 2**63 - 1, 2**63, 10**30)


def breakages(schema: Schema, spec: Any, path: str = "spec") -> Iterator[Mutation]:
    """The spec with one thing in it that the schema does not allow."""
    yield from (Mutation(path, value, value) for value in _wrong(schema))
    if isinstance(spec, dict) and "properties" in schema:
        yield Mutation(f"{path}.unheardOf", 1, {**spec, "unheardOf": 1})
        for name in schema.get("required", ()):
            yield Mutation(f"{path}.{name}", "left out", {key: value for key, value in spec.items() if key != name})
        for name, below in schema["properties"].items():
            inner = spec.get(name, values(below)[-1])
            for found in breakages(below, inner, f"{path}.{name}"):
                yield Mutation(found.path, found.value, {**spec, name: found.spec})
    elif isinstance(spec, list) and spec:
        for found in breakages(schema["items"], spec[0], f"{path}[0]"):
            yield Mutation(found.path, found.value, [found.spec, *spec[1:]])
        if schema.get("x-kubernetes-list-type") in ("set", "map"):
            yield Mutation(path, "a twin", [*spec, spec[0]])
    elif isinstance(spec, dict) and spec and "additionalProperties" in schema:
        name = next(iter(spec))
        for found in breakages(schema["additionalProperties"], spec[name], f"{path}[{name}]"):
            yield Mutation(found.path, found.value, {**spec, name: found.spec})


def contradictions(schema: Schema, spec: Any) -> Iterator[Mutation]:
    """Specs whose parts are all right, and which a rule may refuse: two changes at a time."""
    singles = list(mutations(schema, spec))
    for one in singles[:: max(1, len(singles) // 12)]:
        seconds = list(mutations(schema, one.spec))
        for other in seconds[:: max(1, len(seconds) // 12)]:
            yield Mutation(f"{one.path}, {other.path}", (one.value, other.value), other.spec)


def _wrong(schema: Schema) -> Iterator[Any]:
    kind = schema["type"]
    yield from (value for value in _OTHER_TYPES if not _is(kind, value))
    if "enum" in schema:
        yield from ("", "nothing of the kind", schema["enum"][0].lower())
    elif kind == "string":
        low, high = schema.get("minLength", 0), schema.get("maxLength", 10**9)
        for text in _ODD_TEXTS:
            if not (low <= len(text) <= high and matches(text, schema.get("pattern", ""))):
                yield text
    elif kind == "integer":
        low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
        yield from (number for number in _NUMBERS if not low <= number <= high)
    elif kind == "array":
        yield (values(schema["items"])[:1] * (schema["maxItems"] + 1))
        if schema.get("minItems"):
            yield []
    elif "maxProperties" in schema:
        first = values(schema["additionalProperties"])[0]
        yield {f"key-{number}": first for number in range(schema["maxProperties"] + 1)}


def _is(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    types = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
    return isinstance(value, types[kind])
