"""Text of others (hosts, servers, users) as one line for people. Called wherever such text enters status, journal or a
message: a terminal must not be told to clear itself, nor a line be forged. Pure."""

from __future__ import annotations


def one_line(text: str, limit: int) -> str:
    """Printable characters only (no line ends, no control sequences, no bidirectional tricks), and not too many."""
    seen = text[: 4 * limit]
    if not seen.isprintable():
        seen = "".join(c if c.isprintable() else " " for c in seen)
    return seen.strip()[:limit]
