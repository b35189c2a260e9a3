"""Secrets that are recognised wherever they turn up, also encoded: what tests plant, and then look for everywhere."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

LENGTH = 12
"""Characters of a value that is found again, at least: shorter ones turn up by chance."""


@dataclass(frozen=True)
class Canary:
    """One secret, and what it is."""

    what: str
    value: str

    def forms(self) -> frozenset[str]:
        """How it may look: as it is, or escaped for JSON, a URL, a Python text, or encoded."""
        raw = self.value.encode()
        plain = {self.value, repr(self.value)[1:-1], quote(self.value), quote(self.value, safe="")}
        for _ in range(2):  # JSON in JSON is common: manifests, annotations, logs
            plain |= {json.dumps(text, ensure_ascii=ascii)[1:-1] for text in plain for ascii in (True, False)}
        return frozenset(plain | {raw.hex(), raw.hex().upper()} | set(_base64(raw)))


def canary(what: str) -> Canary:
    """A new one. Its characters look different in JSON, in URLs and in base64, and no pattern of `logs` knows it."""
    return Canary(what, f'cn{secrets.token_hex(6)}"\u00e4/{secrets.token_hex(6)}+?')


def token(what: str) -> Canary:
    """One that may stand in URLs, paths and tokens as it is."""
    return Canary(what, f"cn{secrets.token_hex(12)}")


def lines_of(what: str, text: str) -> tuple[Canary, ...]:
    """A key of several lines: each of them tells, but for the first and last, which all keys have."""
    lines = [line for line in text.splitlines() if len(line) > 40 and "-----" not in line]
    return tuple(Canary(what, line) for line in lines[1:])


def found(places: Mapping[str, str | bytes], canaries: Iterable[Canary]) -> list[str]:
    """Which secret turned up where; empty when none did."""
    texts = {name: _text(value) for name, value in places.items()}
    return [
        f"{one.what} in {name}"
        for one in canaries
        for name, text in texts.items()
        if any(form in text for form in one.forms() if len(form) >= LENGTH)
    ]


def _base64(raw: bytes) -> Iterable[str]:
    """In both alphabets, however it is shifted inside of something longer, without the ends that neighbours touch."""
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            inside = encode(bytes(shift) + raw).decode().rstrip("=")
            yield inside[(0, 2, 3)[shift] : len(inside) - 1]


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
