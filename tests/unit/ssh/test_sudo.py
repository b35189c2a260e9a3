"""Claims about becoming root: what a host's answer means, and what a human is told to do."""

from __future__ import annotations

import pytest

from agentmetal.clients.ssh import sudo
from agentmetal.clients.ssh.errors import write_error
from agentmetal.core.errors import AgentMetalError, Forbidden, LimitReached, NotFound, Unavailable
from agentmetal.core.machine import Completed


def said(exit_code: int, stdout: str = "", stderr: str = "") -> Completed:
    return Completed(exit_code=exit_code, stdout=stdout, stderr=stderr)


def test_root_is_root() -> None:
    sudo.check("ops", said(0, "0\n"))


@pytest.mark.parametrize(
    "answer",
    [
        said(1, stderr="sudo: a password is required\n"),
        said(1, stderr="ops is not in the sudoers file.\n"),
        said(0, "1000\n"),
        said(0, ""),
    ],
)
def test_whoever_is_not_is_told_the_line_to_add(answer: Completed) -> None:
    with pytest.raises(Forbidden) as refused:
        sudo.check("ops", answer)

    assert "`ops ALL=(root) NOPASSWD: ALL` into /etc/sudoers.d/agentmetal" in refused.value.message


def test_a_host_without_sudo_is_another_trouble() -> None:
    with pytest.raises(Forbidden, match="has no sudo"):
        sudo.check("ops", said(127, stderr="sh: 1: sudo: not found\n"))


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("dd: error writing '/x': No space left on device", LimitReached),
        ("install: cannot create regular file '/x': Disk quota exceeded", LimitReached),
        ("mkdir: cannot create directory '/x': Read-only file system", Forbidden),
        ("rm: cannot remove '/x': Operation not permitted", Forbidden),
        ("ln: failed to access '/x': No such file or directory", NotFound),
        ("Segmentation fault", Unavailable),
        ("", Unavailable),
    ],
)
def test_what_a_program_says_of_a_file_is_one_of_our_errors(stderr: str, error: type[AgentMetalError]) -> None:
    told = write_error("/x", said(1, stderr=stderr))

    assert type(told) is error
    assert "'/x' cannot be changed" in told.message
