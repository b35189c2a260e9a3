"""Claims about quoting: a real shell takes apart exactly what was put together."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentmetal.clients.ssh.command import command_line
from agentmetal.core.errors import Invalid

ARGUMENTS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40), max_size=8
)


def as_a_shell_sees_it(arguments: list[str]) -> list[str]:
    """What a program gets that `sh` starts from our line."""
    tell = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(os.fsencode(a) for a in sys.argv[1:]) + b'\\0')"
    line = command_line([sys.executable, "-ISc", tell, *arguments])
    told = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout
    return [argument.decode("utf-8", "surrogateescape") for argument in told.split(b"\0")[:-1]] if arguments else []


@given(ARGUMENTS)
@example(["$HOME", "`id`", "$(id)", "'", '"', "\\", "\n", "", "*", "~", "!!", "-n", "--", ";", "&", "|", "#", "{a,b}"])
@settings(max_examples=60, deadline=None)
def test_any_argument_comes_out_as_it_went_in(arguments: list[str]) -> None:
    assert as_a_shell_sees_it(arguments) == arguments


@pytest.mark.parametrize("program", ["if", "then", "A=b", "!", "{", "a b", "it's", "$(id)", "~root"])
def test_a_program_is_never_read_as_shell_syntax(program: str) -> None:
    done = subprocess.run(["sh", "-c", command_line([program])], capture_output=True, text=True)

    assert done.returncode == 127
    assert "not found" in done.stderr
    assert program in done.stderr


@pytest.mark.parametrize("argv", [[], [""], ["a", "b\0c"], ["a", "\ud800"]])
def test_what_no_line_can_say_is_invalid(argv: list[str]) -> None:
    with pytest.raises(Invalid):
        command_line(argv)
