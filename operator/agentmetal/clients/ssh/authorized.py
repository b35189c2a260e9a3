"""Who may log in: the lines of an `authorized_keys` file. Called by `host.py` and by the simulated hosts; pure.

Only lines with the key in question are touched, everything else stays byte for byte. Keys are compared by what they
are, never by their comments.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import PurePosixPath

from agentmetal.clients.keys import read_public_key
from agentmetal.core.errors import Invalid

PATH = PurePosixPath(".ssh/authorized_keys")
"""Below the directory that a login starts in."""
LIMIT = 1024 * 1024
"""Bytes of a file that we are willing to read and write again."""
MODE = 0o600
DIRECTORY_MODE = 0o700

# Possessive (`++`): what was read is not read in another way again, so no line of a hostile host costs more than that.
_OPTIONS = rb'(?:(?P<options>(?:[^\s"]++|"(?:[^"\\]++|\\"?)*+")++)[ \t]++)??'
_KEY = rb"(?P<kind>(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+)[ \t]+(?P<blob>[A-Za-z0-9+/]+={0,2})(?:[ \t]+(?P<comment>.*))?"
_LINE = re.compile(rb"[ \t]*(?!#)" + _OPTIONS + _KEY + rb"\s*")


def keys_in(content: bytes) -> tuple[str, ...]:
    """The keys that may log in, one OpenSSH line each, without the options that may stand before them."""
    found = (_LINE.fullmatch(line) for line in content.splitlines())
    return tuple(_shown(match) for match in found if match and _blob(match) is not None)


def with_key(content: bytes, public_key: str, *, like: str = "") -> bytes:
    """The file with that key; unchanged when it is there. Raises Invalid for what is no public key.

    It is restricted just as the key that it is `like`: who wrote `from="10.0.0.5"` before that meant the new one, too.
    """
    line, blob = _given(public_key)
    if any(_holds(there, blob) for there in content.splitlines()):
        return content
    line = _options(content, like) + line if like else line
    gap = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + gap + line + b"\n"


def without_key(content: bytes, public_key: str) -> bytes:
    """The file without that key; unchanged when it is not there. Raises Invalid for what is no public key."""
    _, blob = _given(public_key)
    return b"".join(line for line in content.splitlines(keepends=True) if not _holds(line, blob))


def _options(content: bytes, public_key: str) -> bytes:
    """What stands before that key, with a blank behind it; nothing for a key without options, or that is not there."""
    _, blob = _given(public_key)
    lines = (line for line in content.splitlines() if _holds(line, blob))
    found = [match for line in lines if (match := _LINE.fullmatch(line))]
    return found[0]["options"] + b" " if found and found[0]["options"] else b""


def _given(public_key: str) -> tuple[bytes, bytes]:
    """A key of ours as a line and as what it is."""
    if len(public_key.strip().splitlines()) != 1:
        raise Invalid(f"{public_key[:80]!r} is not one public SSH key: give one OpenSSH line, `ssh-ed25519 AAAA…`")
    key = read_public_key(public_key)
    return key.export_public_key("openssh").strip(), key.public_data


def _holds(line: bytes, blob: bytes) -> bool:
    """Does it let that key in? sshd ignores a line that calls a key something else than the key calls itself."""
    match = _LINE.fullmatch(line)
    itself = blob[4 : 4 + int.from_bytes(blob[:4])]
    return match is not None and _blob(match) == blob and match["kind"] == itself


def _blob(match: re.Match[bytes]) -> bytes | None:
    """The key itself; None for an authority, which signs keys but is none that logs in."""
    if b"cert-authority" in (match["options"] or b"").lower().split(b","):
        return None
    try:
        return base64.b64decode(match["blob"], validate=True)
    except binascii.Error:
        return None


def _shown(match: re.Match[bytes]) -> str:
    text = b" ".join(part for part in (match["kind"], match["blob"], match["comment"]) if part).decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()
