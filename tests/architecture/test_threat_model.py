"""SECURITY.md promises nothing without a proof: each line names tests that exist, or says why there is none."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
PROVED = ("Who can do what", "What we are made of")
"""The chapters of which each line needs its proof."""


def chapters() -> dict[str, str]:
    """The page by its chapters."""
    parts = re.split(r"^## (.+)$", (ROOT / "SECURITY.md").read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def lines() -> list[str]:
    return [line for name in PROVED for line in chapters()[name].splitlines() if line.startswith("* ")]


@cache
def written_in(path: str) -> frozenset[str]:
    """The names of the tests in a file; none when there is no such file."""
    if not (ROOT / path).exists():
        return frozenset()
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_named_test_exists() -> None:
    named = TEST.findall((ROOT / "SECURITY.md").read_text())
    assert len(named) > 60
    assert [f"{path}::{name}" for path, name in named if name not in written_in(path)] == []


def test_every_line_has_its_test_or_says_why_not() -> None:
    assert len(lines()) > 50
    assert [line for line in lines() if not TEST.search(line) and "*No test:*" not in line] == []


def test_everybody_is_thought_of() -> None:
    told = chapters()["Who can do what"]
    for who in ("viewer", "editor", "approver", "administrator", "token of the operator", "password of the store"):
        assert re.search(rf"^### .*{who}", told, re.MULTILINE | re.IGNORECASE), who
    for who in ("hostile host", "provider's API", "model", "in the middle", "backup of etcd", "Another operator"):
        assert re.search(rf"^### .*{who}|{who}", told, re.MULTILINE), who


def test_a_test_that_does_not_exist_would_be_found() -> None:
    assert written_in("tests/architecture/test_threat_model.py") >= {"test_every_named_test_exists"}
    assert written_in("tests/no/such_file.py") == frozenset()
