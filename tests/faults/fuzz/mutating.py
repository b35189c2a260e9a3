"""Valid text made invalid in the ways in which texts go wrong. Used by the fuzz tests; a function of its choices."""

from __future__ import annotations

from hypothesis import strategies as st

ODD = (
    *(b"\0", b"\n", b"\r", b"\x0b", b"\x1b[2J", b"\xff", b"\xed\xa0\x80", b" ", "²".encode(), "٣".encode()),
    *(
        b"-1",
        b"0",
        b"9" * 40,
        b"9" * 5000,
        b"1e309",
        b"NaN",
        b"null",
        b"true",
        b"{}",
        b"[]",
        b'"',
        b"'",
        b"\\",
        b"..",
        b"/",
    ),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"- " * 3000,
        b"(" * 300,
        b"a" * 4096,
        b" " * 4096,
        b"\t",
        b":",
        b"=",
        b" by ",
        b"%00",
    ),
    *(
        b"eyJ-",
        b"-----BEGIN ",
        b"password",
        b"bearer ",
        b"://a:",
        b"&a [*a]",
        b"!!python/object:os.system",
        b"\xef\xbb\xbf",
    ),
)
"""What upsets parsers."""


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A valid text with up to five changes: cut, doubled, exchanged, filled with something odd."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 5))):
        one, other = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        match draw(st.sampled_from(("cut", "double", "put", "replace", "repeat"))):
            case "cut":
                data = data[:one] + data[other:]
            case "double":
                data = data[:other] + data[one:other] + data[other:]
            case "put":
                data = data[:one] + draw(st.sampled_from(ODD) | st.binary(max_size=8)) + data[one:]
            case "replace":
                data = data[:one] + draw(st.sampled_from(ODD) | st.binary(max_size=8)) + data[other:]
            case _:  # repeat
                data = data[:one] + data[one : one + 40] * draw(st.sampled_from((2, 17, 100))) + data[other:]
    return data[:65536]
