"""What people may write, out of the schema of a CRD: every field, every kind of value. Used by the tests beside it.

`mutations` goes through a spec that is well and yields it with one thing changed, always as the schema allows; what
the rules of the CRD say to the whole is the API server's to find out. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agentmetal.kube.crds.schema import Schema
from agentmetal.kube.memory.cel import matches

ROOT = Path(__file__).parents[3]
PEOPLE = ("agentmetal-editor", "agentmetal-approver")
"""Roles of those who write objects."""
_WORDS = (
    *(
        "a",
        "A",
        "0",
        "a" * 32,
        "a" * 63,
        "z9",
        "a-b",
        "a_b",
        "a.b",
        "_a",
        "a:b/c",
        "x" * 253,
        "word",
        "9" * 63,
        "small",
    ),
    *("bookworm", "trixie", "large", "host", "existing", "cloud", "lab", "absent", "h1", "web-1", "instances"),
    *("0s", "1s", "5m", "24h", "1h30m", "00s", "99999h", "99999h99999m", "59m59s"),
    *("10.0.0.7", "1.1.1.1", "255.255.255.255", "127.0.0.1", "::1", "fe80::1", "192.0.2.1", "db.example.com", "-", "."),
    *("/srv/a", "/opt/a/b/c/d/e/f/g/h", "/home/a", "/usr/local/a", "/var/lib/agentmetal/x", "/srv/" + "a" * 250),
    *(
        "",
        " ",
        "é",
        "\u202e",
        "\0",
        "\n",
        "line\nline",
        "\x1b[2J",
        "#cloud-config\n",
        "#cloud-config\nruncmd: [[true]]\n",
    ),
    *(
        "#cloud-config\n" + "#" * 32754,
        "#!/bin/sh\n",
        "#cloud-config\n&a [*a]",
        "\U0001f980" * 16,
        "true",
        "null",
        "{}",
    ),
    *("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGQIL2Aq5oyN0bM0hDSvYc1uqP2Cl7hTYJ0a6pGZ0ORk a comment", "ssh-rsa AAAA="),
    *("ssh-ed25519 AAAA", "ecdsa-sha2-nistp256 " + "A" * 1004, "Instance default/web-1", "create_instance"),
)
"""Whatever of these a place may hold is tried in it."""
_NUMBERS = (-(2**63), -1, 0, 1, 2, 100, 1000, 3600, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**60, 2**63 - 1)


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT: Any = _Absent()


@dataclass(frozen=True)
class Mutation:
    """A spec with one thing changed."""

    path: str
    value: Any
    spec: Any

    def __str__(self) -> str:
        shown = repr(self.value)
        return f"{self.path}={shown[:40]}{'…' if len(shown) > 40 else ''}"


def written_kinds() -> dict[str, Schema]:
    """The kinds that people write, and the schemas of their specs: out of the generated files."""
    written = set(_written())
    found = {}
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        crd = yaml.safe_load(file.read_text())
        names = crd["spec"]["names"]
        if names["plural"] in written:
            found[names["kind"]] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def _written() -> Iterator[str]:
    """The plural names of what people's roles let them create."""
    for role in yaml.safe_load_all((ROOT / "manifests" / "rbac" / "roles.yaml").read_text()):
        if role["metadata"]["name"] in PEOPLE:
            yield from (plural for rule in role["rules"] if "create" in rule["verbs"] for plural in rule["resources"])


def mutations(schema: Schema, spec: Any, path: str = "spec") -> Iterator[Mutation]:
    """The spec with one thing changed, in every way."""
    if isinstance(spec, dict) and schema.get("properties"):
        yield from _of_fields(schema, spec, path)
    elif isinstance(spec, dict):
        yield from _of_map(schema, spec, path)
    elif isinstance(spec, list):
        yield from _of_list(schema, spec, path)
    else:
        yield from (Mutation(path, value, value) for value in values(schema) if value != spec)


def _of_fields(schema: Schema, spec: dict[str, Any], path: str) -> Iterator[Mutation]:
    for name, below in schema["properties"].items():
        here = f"{path}.{name}"
        if name in spec:
            for found in mutations(below, spec[name], here):
                yield Mutation(found.path, found.value, {**spec, name: found.spec})
            if name not in schema.get("required", ()):
                yield Mutation(here, ABSENT, {key: value for key, value in spec.items() if key != name})
                yield Mutation(here, None, {**spec, name: None})
        else:
            yield from (Mutation(here, value, {**spec, name: value}) for value in values(below))


def _of_map(schema: Schema, spec: dict[str, Any], path: str) -> Iterator[Mutation]:
    below = schema.get("additionalProperties", {})
    for name in spec:
        rest = {key: value for key, value in spec.items() if key != name}
        yield Mutation(f"{path}[{name}]", ABSENT, rest)
        for found in mutations(below, spec[name], f"{path}[{name}]"):
            yield Mutation(found.path, found.value, {**spec, name: found.spec})
    yield from (Mutation(path, value, value) for value in values(schema) if value != spec)


def _of_list(schema: Schema, spec: list[Any], path: str) -> Iterator[Mutation]:
    for number, item in enumerate(spec[:2]):  # the others are like these
        for found in mutations(schema["items"], item, f"{path}[{number}]"):
            yield Mutation(found.path, found.value, [*spec[:number], found.spec, *spec[number + 1 :]])
        yield Mutation(f"{path}[{number}]", ABSENT, [*spec[:number], *spec[number + 1 :]])
    if len(spec) > 1:
        yield Mutation(path, "reversed", spec[::-1])
    yield from (Mutation(path, value, value) for value in values(schema) if value != spec)


def values(schema: Schema) -> list[Any]:
    """What a place may hold that holds nothing yet."""
    if "enum" in schema:
        return list(schema["enum"])
    return {
        "string": _strings,
        "integer": _integers,
        "boolean": lambda _schema: [True, False],
        "array": _lists,
        "object": _objects,
    }[schema["type"]](schema)


def _strings(schema: Schema) -> list[Any]:
    longest = schema.get("maxLength", 256)
    candidates = [*_WORDS, "a" * longest]
    fits = [text for text in candidates if schema.get("minLength", 0) <= len(text) <= longest]
    return list(dict.fromkeys(text for text in fits if matches(text, schema.get("pattern", ""))))


def _integers(schema: Schema) -> list[Any]:
    low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
    return sorted({number for number in (*_NUMBERS, low, high, low + 1) if low <= number <= high})


def _lists(schema: Schema) -> list[Any]:
    items, most = values(schema["items"]), schema["maxItems"]
    several = [items[:1], items[1:3], items[:most], (items * (most // max(1, len(items)) + 1))[:most]]
    return [[], *(found for found in several if len(found) >= schema.get("minItems", 0) and found)]


def _objects(schema: Schema) -> list[Any]:
    if "properties" not in schema:
        if "additionalProperties" not in schema:
            return [{}]
        first = values(schema["additionalProperties"])[0]
        keys = ["rack", "a" * 253, "é ü/\n", ""]
        many = {f"key-{number}": first for number in range(schema["maxProperties"])}
        return [{}, *({key: first} for key in keys), many]
    least = {name: values(schema["properties"][name])[0] for name in schema.get("required", ())}
    fullest = {name: values(below)[-1] for name, below in schema["properties"].items()}
    return [least, *(found.spec for found in mutations(schema, least)), fullest]
