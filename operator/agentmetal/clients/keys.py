"""SSH key pairs: making them and naming them. Called by tools that create hosts and their credentials, and by
`clients/ssh`; keeps no private key and writes nothing: storing one in a Secret is the caller's work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

import asyncssh

from agentmetal.core.errors import Invalid

_BEGINNING = re.compile(r"-----BEGIN [A-Z0-9 ]+-----\s*")


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """An ed25519 key pair. The private half stays out of `repr`, and so out of logs."""

    private_openssh: str = field(repr=False)
    """The private key in OpenSSH form, unencrypted, with its final newline."""
    public_line: str
    """The public key as one OpenSSH line, without newline."""
    fingerprint: str
    """`SHA256:…`, as `ssh-keygen -l` shows it."""


def make_key_pair(comment: str) -> KeyPair:
    """A new pair; the comment is part of both halves."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    return KeyPair(
        private_openssh=key.export_private_key("openssh").decode("ascii"),
        public_line=key.export_public_key("openssh").decode().strip(),
        fingerprint=key.get_fingerprint(),
    )


def public_line(private_openssh: str) -> str:
    """The public half of a private key, as one OpenSSH line. Raises Invalid; the message holds nothing of the key."""
    return read_private_key(private_openssh).export_public_key("openssh").decode().strip()


def read_private_key(private_openssh: str) -> asyncssh.SSHKey:
    """The key. Raises Invalid; the message holds nothing of it."""
    try:
        return asyncssh.import_private_key(_plain(private_openssh))
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        raise Invalid("a private SSH key cannot be read: give an unencrypted key in OpenSSH form") from error


def read_public_key(public_line: str) -> asyncssh.SSHKey:
    """The key of one OpenSSH line. Raises Invalid."""
    try:
        return asyncssh.import_public_key(_plain(public_line))
    except (asyncssh.KeyImportError, ValueError) as error:
        text = public_line[:80]
        raise Invalid(f"{text!r} is not a public SSH key: give one OpenSSH line, `ssh-ed25519 AAAA…`") from error


@lru_cache(maxsize=4096)  # every look at a host asks twice for the same one, and reading a key is dear
def fingerprint(public_line: str) -> str:
    """`SHA256:…` of one OpenSSH line. Raises Invalid."""
    return read_public_key(public_line).get_fingerprint()


def _plain(text: str) -> str:
    """The text, unless asyncssh, which makes a regular expression of such a line as it is, would trip over it."""
    if any(line.startswith("-----BEGIN ") and not _BEGINNING.fullmatch(line) for line in text.split("\n")):
        raise ValueError("a key begins with a line that is none")
    return text
