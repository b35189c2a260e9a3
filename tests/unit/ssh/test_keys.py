"""Claims about SSH key pairs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agentmetal.clients.keys import fingerprint, make_key_pair, public_line
from agentmetal.core.errors import Invalid


def test_two_pairs_are_never_the_same() -> None:
    assert make_key_pair("a").public_line != make_key_pair("a").public_line


def test_the_public_line_is_one_line_with_the_comment() -> None:
    pair = make_key_pair("agentmetal web-1")

    assert pair.public_line.startswith("ssh-ed25519 ")
    assert pair.public_line.endswith(" agentmetal web-1")
    assert "\n" not in pair.public_line


def test_the_public_half_follows_from_the_private_one() -> None:
    pair = make_key_pair("c")

    assert public_line(pair.private_openssh) == pair.public_line
    assert fingerprint(pair.public_line) == pair.fingerprint


def test_openssh_agrees_with_the_fingerprint(tmp_path: Path) -> None:
    pair = make_key_pair("c")
    key = tmp_path / "key"
    key.write_text(pair.private_openssh)
    key.chmod(0o600)

    shown = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True).stdout

    assert pair.fingerprint in shown


def test_repr_holds_nothing_of_the_private_key() -> None:
    pair = make_key_pair("c")

    assert "PRIVATE KEY" not in repr(pair)
    assert pair.private_openssh.splitlines()[1] not in repr(pair)


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "no key at all", "ssh-ed25519 %%%% c"])
def test_what_is_no_public_key_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        fingerprint(text)


def test_a_broken_private_key_is_invalid_and_not_quoted() -> None:
    with pytest.raises(Invalid) as caught:
        public_line("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n-----END OPENSSH PRIVATE KEY-----\n")

    assert "secret" not in str(caught.value)
