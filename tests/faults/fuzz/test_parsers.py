"""Text from hosts, providers, servers, files and people, broken in every way a parser may meet.

Valid answers are cut, doubled and filled with what upsets parsers. Whatever comes, only declared errors escape, time
stays bounded, and what the text says goes nowhere unchecked. What crashed a parser once lies in `corpus` and is tried
again, for ever.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.faults.fuzz.mutating import ODD, mutated
from tests.faults.fuzz.ours import OURS
from tests.faults.fuzz.parsers import BY_NAME, PARSERS, Parser
from tests.support.seeds import ALL

CORPUS = Path(__file__).with_name("corpus")
ROOT = Path(__file__).parents[3]
LONG = 60_000
"""Characters: more than any answer is long."""
SOON = 3.0
"""Seconds of processor time for them, on a busy computer. What begins anew at each character takes far longer."""
TAKING_APART = frozenset(
    {
        *("loads", "safe_load", "safe_load_all", "compose", "model_validate_json", "validate_json", "fromisoformat"),
        *("b64decode", "splitlines", "split", "rsplit", "partition", "rpartition", "fullmatch", "match", "search"),
        *("findall", "finditer", "import_public_key", "import_private_key"),
    }
)
"""Calls by which text is taken apart."""


@pytest.mark.parametrize("name", BY_NAME)
def test_only_declared_errors_escape(name: str, record_property: Callable[[str, object], None]) -> None:
    examples = 1500 if ALL else 60
    parser = BY_NAME[name]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not ALL,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(parser.seeds) | st.binary(max_size=300))
    def survives(data: bytes) -> None:
        parser.survive(data)

    survives()
    record_property("points", examples)


@pytest.mark.parametrize("name", BY_NAME)
def test_what_it_is_made_for_is_understood(name: str) -> None:
    first, *others = BY_NAME[name].seeds
    BY_NAME[name].read(first)
    for seed in others:
        BY_NAME[name].survive(seed)


@pytest.mark.parametrize("name", BY_NAME)
def test_long_texts_take_no_long_time(name: str) -> None:
    parser = BY_NAME[name]
    for text in _long_texts(parser):
        began = time.process_time()
        parser.survive(text)
        took = time.process_time() - began
        assert took < SOON, f"{took:.1f} s for {len(text)} bytes that begin with {text[:60]!r}"


def _long_texts(parser: Parser) -> Iterator[bytes]:
    """One thing over and over, alone and in the middle of a valid text."""
    for odd in ODD if ALL else (*ODD[::3], b"eyJ-"):
        many = odd * (LONG // len(odd))
        yield many
        seed = parser.seeds[0]
        yield seed[: len(seed) // 2] + many + seed[len(seed) // 2 :]
    for seed in parser.seeds:
        yield seed * (LONG // len(seed))


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_crashed_once_crashes_no_more(file: Path) -> None:
    BY_NAME[file.parent.name].survive(file.read_bytes())


def test_every_module_that_takes_text_apart_is_listed() -> None:
    """A new parser is fuzzed, or somebody says why it need not be."""
    listed = {parser.module for parser in PARSERS}
    found = {_module(file) for file in _files() if _takes_apart(file)}
    excused = {module for module in found if any(f"{module}.".startswith(f"{ours}.") for ours in OURS)}

    assert not found - listed - excused, "add a Parser to parsers.py, or the reason for none to ours.py"
    assert not [ours for ours in OURS if not any(f"{module}.".startswith(f"{ours}.") for module in excused)]
    assert not listed & excused, "these are fuzzed: remove them from ours.py"


def _files() -> Iterator[Path]:
    for root in ("operator/agentmetal", "tools/agentmetal_tools"):
        yield from (ROOT / root).rglob("*.py")


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts).removesuffix(".__init__")


def _takes_apart(file: Path) -> bool:
    calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    return any(isinstance(call, ast.Attribute) and call.attr in TAKING_APART for call in calls)
