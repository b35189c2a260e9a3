"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902, the four operations we use), as the API server applies them."""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from typing import Any

from agentmetal.core.errors import Conflict, Invalid


def clone(value: Any) -> Any:
    """A deep copy of a JSON value: ten times faster than copy.deepcopy."""
    return marshal.loads(marshal.dumps(value))  # noqa: S302 - it never leaves this expression


def merge_patch(target: Any, patch: Any) -> Any:
    """The patched value. Shares what did not change with the target, which stays as it is."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def json_patch(target: dict[str, Any], steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The patched value; the target stays as it is.

    What cannot be applied is a Conflict when the patch tests something (the object is not as it was thought to be),
    and Invalid when it does not: the real server's answer does not tell a failed test from a missing path either.
    """
    patched: dict[str, Any] = clone(target)
    try:
        for step in steps:
            _apply(patched, step)
    except _DoesNotFit as error:
        refusal = Conflict if any(step.get("op") == "test" for step in steps) else Invalid
        raise refusal(f"the patch does not fit the object: {error}") from error
    return patched


class _DoesNotFit(Exception):
    """A step of a JSON patch cannot be applied."""


def _apply(document: dict[str, Any], step: Mapping[str, Any]) -> None:
    op, path = str(step.get("op")), str(step.get("path"))
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]] or [""]
    where: Any = document
    for part in parents:
        where = _child(where, part, path)
    match op:
        case "test":
            found = where.get(last) if isinstance(where, dict) else _child(where, last, path)
            if found != step.get("value"):
                raise _DoesNotFit(f"test of {path!r} failed: it is {found!r}, not {step.get('value')!r}")
        case "add" | "replace":
            _put(where, last, path, clone(step.get("value")), insert=op == "add")
        case "remove":
            _child(where, last, path)
            del where[int(last) if isinstance(where, list) else last]
        case _:
            raise _DoesNotFit(f"operation {op!r} is not supported: use test, add, replace or remove")


def _child(where: Any, part: str, path: str) -> Any:
    if isinstance(where, dict) and part in where:
        return where[part]
    if isinstance(where, list) and part.isdigit() and int(part) < len(where):
        return where[int(part)]
    raise _DoesNotFit(f"path {path!r} does not exist")


def _put(where: Any, last: str, path: str, value: Any, *, insert: bool) -> None:
    if isinstance(where, dict):
        where[last] = value
    elif isinstance(where, list) and insert and last == "-":
        where.append(value)
    elif isinstance(where, list) and insert and last.isdigit() and int(last) <= len(where):
        where.insert(int(last), value)
    elif isinstance(where, list) and last.isdigit() and int(last) < len(where):
        where[int(last)] = value
    else:
        raise _DoesNotFit(f"path {path!r} does not exist")
