"""One form for everything that is hashed: RFC 8785 JSON and sha256. Called for planHash, digest and audit."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical(value: Any) -> bytes:
    """RFC 8785 JSON. Raises ValueError for what has no canonical form (NaN, integers beyond 2**53)."""
    return rfc8785.dumps(value)


def sha256_hex(value: Any) -> str:
    """sha256 over the canonical form, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()
