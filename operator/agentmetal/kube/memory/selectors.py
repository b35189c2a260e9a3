"""Label and field selectors: text to a predicate over an object."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from agentmetal.core.errors import Invalid

Predicate = Callable[[Mapping[str, Any]], bool]
_TERM = re.compile(
    r"\s*(?:(?P<absent>!\s*[^\s=!,()]+)|(?P<key>[^\s=!,()]+)\s*"
    r"(?:(?P<op>==|=|!=)\s*(?P<value>[^\s=!,()]*)|(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)"
)


@lru_cache(maxsize=1024)
def label_predicate(selector: str) -> Predicate:
    """`a=b,c!=d,e in (f,g),h notin (i),j,!k`"""
    tests = [_label_test(term) for term in _terms(selector)]
    return lambda item: all(test(item["metadata"].get("labels") or {}) for test in tests)


@lru_cache(maxsize=1024)
def field_predicate(selector: str, selectable: tuple[str, ...]) -> Predicate:
    """`metadata.name=a,status.phase!=b`: only =, == and !=, and only selectable fields (`.status.phase`)."""
    allowed = {"metadata.name", "metadata.namespace", *(path.removeprefix(".") for path in selectable)}
    tests: list[Predicate] = []
    for term in _terms(selector):
        if not term["op"]:
            raise Invalid(f"field selector {selector!r}: only =, == and != are supported")
        if term["key"] not in allowed:
            raise Invalid(f"field label not supported: {term['key']!r}; one of {sorted(allowed)} is")
        tests.append(_field_test(term["key"].split("."), str(term["value"]), equal=term["op"] != "!="))
    return lambda item: all(test(item) for test in tests)


def _terms(selector: str) -> Iterable[re.Match[str]]:
    position = 0
    while position < len(selector):
        term = _TERM.match(selector, position)
        if term is None:
            raise Invalid(f"unable to parse requirement: selector {selector!r} at {selector[position:]!r}")
        yield term
        position = term.end()


def _label_test(term: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    if term["absent"]:
        absent = term["absent"][1:].strip()
        return lambda labels: absent not in labels
    key, op = term["key"], term["op"] or term["set"]
    if op is None:
        return lambda labels: key in labels
    values = {term["value"]} if term["op"] else {value.strip() for value in term["values"].split(",")}
    if op in ("!=", "notin"):
        return lambda labels: labels.get(key) not in values
    return lambda labels: labels.get(key) in values


def _field_test(path: list[str], value: str, *, equal: bool) -> Predicate:
    def test(item: Mapping[str, Any]) -> bool:
        found: Any = item
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return (("" if found is None else str(found)) == value) is equal

    return test
