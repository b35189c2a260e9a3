"""Claims about the file that says who may log in: only the key in question is touched, whatever else stands there."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmetal.clients.keys import make_key_pair
from agentmetal.clients.ssh.authorized import keys_in, with_key, without_key
from agentmetal.core.errors import Invalid

OURS = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIh+joZQuPWTgJohCK8k9/FpTYo52HjojFqVRYCCDcf8 ours"
"""Always the same, for it is part of the tests' names."""
THEIRS = make_key_pair("theirs").public_line
BARE = " ".join(OURS.split()[:2])
RSA = "ssh-rsa QUFBQQ== old@laptop"


@pytest.mark.parametrize(
    "line",
    [
        OURS,
        BARE,
        f"  {BARE}\tsomebody else",
        f"no-pty,command=\"echo 'a b'\" {OURS}",
        f'from="10.0.0.*,!*.example.com" {BARE}',
        f'command="say \\"hi there\\"" {BARE}\r',
    ],
)
def test_a_key_is_known_by_what_it_is_not_by_its_comment_or_options(line: str) -> None:
    content = f"{THEIRS}\n{line}\n".encode()

    assert with_key(content, OURS) == content
    assert without_key(content, OURS) == f"{THEIRS}\n".encode()
    assert [one.split()[1] for one in keys_in(content)] == [THEIRS.split()[1], BARE.split()[1]]


@pytest.mark.parametrize(
    "line",
    ["", "#", f"# {OURS}", f"cert-authority {OURS}", f'no-pty,cert-authority,from="x" {OURS}', "ssh-ed25519", "x y"],
)
def test_what_lets_no_key_in_is_no_key(line: str) -> None:
    content = f"{line}\n".encode()

    assert keys_in(content) == ()
    assert without_key(content, OURS) == content
    assert with_key(content, OURS) == content + f"{OURS}\n".encode()


@pytest.mark.parametrize("options", ['from="10.0.0.5,!10.0.*"', 'restrict,command="say \\"hi there\\""'])
def test_a_key_like_another_one_is_restricted_like_it(options: str) -> None:
    content = f"{THEIRS}\n{options} {BARE} by hand\n".encode()
    new = make_key_pair("new").public_line

    assert with_key(content, new, like=OURS) == content + f"{options} {new}\n".encode()
    assert with_key(content, new, like=THEIRS) == with_key(content, new) == content + f"{new}\n".encode()


def test_a_last_line_without_its_end_stays_a_line() -> None:
    assert with_key(RSA.encode(), OURS) == f"{RSA}\n{OURS}\n".encode()
    assert without_key(f"{RSA}\n{OURS}".encode(), OURS) == f"{RSA}\n".encode()
    assert with_key(b"", OURS) == f"{OURS}\n".encode()


@pytest.mark.parametrize("key", ["", " ", "ssh-ed25519 AAAA", f"{OURS}\n{THEIRS}", f"no-pty {OURS}", "# comment"])
def test_only_one_public_key_is_taken(key: str) -> None:
    for change in (with_key, without_key):
        with pytest.raises(Invalid):
            change(b"", key)


@given(st.binary(max_size=300))
def test_whatever_a_file_holds_is_there_again_after_a_key_came_and_went(content: bytes) -> None:
    there = with_key(content, OURS)

    assert without_key(there, OURS).rstrip(b"\n") == content.rstrip(b"\n")
    assert there.startswith(content)
    assert with_key(there, OURS) == there


@given(st.text(max_size=200))
def test_what_is_told_of_a_file_is_printable_lines(text: str) -> None:
    assert all(line.isprintable() for line in keys_in(f"{BARE} {text}".encode(errors="replace")))


@pytest.mark.parametrize("line", [b'"' + b'\\"' * 100_000, b'x="a' * 100_000, b'""' * 100_000, b" \t" * 100_000 + b"#"])
def test_no_line_of_a_hostile_host_keeps_us_busy(line: bytes) -> None:
    before = time.process_time()
    assert keys_in(line) == ()
    assert time.process_time() - before < 2, "everything else stands still meanwhile"
