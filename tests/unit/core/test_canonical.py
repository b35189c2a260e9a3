"""The fast way to canonical JSON writes what RFC 8785 asks for."""

import contextlib

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentmetal.core.canonical import canonical

TEXT = st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers(-(2**54), 2**54) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(TEXT, inner),
)


@given(JSON)
def test_canonical_json_is_that_of_the_reference(value: object) -> None:
    expected: bytes | None = None
    with contextlib.suppress(ValueError):
        expected = rfc8785.dumps(value)  # type: ignore[arg-type]  # JSON of any shape
    if expected is None:
        with pytest.raises(ValueError):
            canonical(value)
    else:
        assert canonical(value) == expected


@pytest.mark.parametrize(
    "value", ['\x00\x1f\x7f\u2028"\\\b\f\n\r\t/', {"\uffff": 1, "\U00010000": 2, "a": [True, None]}]
)
def test_escapes_and_the_order_of_keys_are_those_of_the_reference(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]  # JSON of any shape


@pytest.mark.parametrize("value", [2**53, -(2**53), float("nan"), "\ud800", {"a": object()}, {1: "a"}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical(value)
