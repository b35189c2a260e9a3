"""Claims about reading `agentmetal-run`'s answers: strict, and never "not started" by mistake."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmetal.clients.ssh import wrapper
from agentmetal.core.errors import AgentMetalError, Forbidden, Invalid, LimitReached, NotFound, StaleLeader, Unavailable
from agentmetal.core.machine import Completed, UnitPhase, UnitState


def said(word: str, output: str = "", *, exit_code: int = 0) -> Completed:
    return Completed(exit_code=exit_code, stdout=f"agentmetal-run 1 {word}\n{output}", stderr="")


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("never", UnitState(phase=UnitPhase.NEVER)),
        ("running", UnitState(phase=UnitPhase.RUNNING)),
        ("interrupted", UnitState(phase=UnitPhase.INTERRUPTED)),
        ("unknown", UnitState(phase=UnitPhase.UNKNOWN)),
        ("ended success exited 0", UnitState(phase=UnitPhase.ENDED, exit_code=0)),
        ("ended exit-code exited 3", UnitState(phase=UnitPhase.ENDED, exit_code=3)),
        ("ended timeout killed TERM", UnitState(phase=UnitPhase.ENDED, killed_by="timeout")),
        ("ended timeout exited 0", UnitState(phase=UnitPhase.ENDED, killed_by="timeout")),
        ("ended success killed TERM", UnitState(phase=UnitPhase.ENDED, killed_by="TERM")),
        ("ended signal killed KILL", UnitState(phase=UnitPhase.ENDED, killed_by="KILL")),
        ("ended core-dump dumped SEGV", UnitState(phase=UnitPhase.ENDED, killed_by="SEGV")),
        ("ended oom-kill killed KILL", UnitState(phase=UnitPhase.ENDED, killed_by="oom-kill")),
        ("ended oom-kill exited 0", UnitState(phase=UnitPhase.ENDED, killed_by="oom-kill")),
    ],
)
def test_each_state_is_read(word: str, state: UnitState) -> None:
    assert wrapper.read_state(said(word), "n") == state


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (said("stale 7", exit_code=75), StaleLeader),
        (said("full", exit_code=73), LimitReached),
        (said("read-only", exit_code=73), Forbidden),
        (said("missing", exit_code=69), NotFound),
        (said("never"), Unavailable),
        (said("running", exit_code=75), Unavailable),
        (said("stale 7"), Unavailable),
        (Completed(exit_code=127, stdout="", stderr="not found"), Unavailable),
    ],
)
def test_a_refused_start_says_why(answer: Completed, error: type[AgentMetalError]) -> None:
    with pytest.raises(error):
        wrapper.read_start(answer, "n")


def test_output_is_the_last_kibibyte_and_may_look_like_an_answer() -> None:
    state = wrapper.read_state(said("running", "x" * 2000 + "\nagentmetal-run 1 never\n"), "n")

    assert state.phase is UnitPhase.RUNNING
    assert len(state.output) == 1024
    assert state.output.endswith("never\n")


@pytest.mark.parametrize(
    "stdout",
    ["", "never", "never\n", "agentmetal-run 2 never\n", "Welcome!\nagentmetal-run 1 never\n", "agentmetal-run 1 never"]
    + [
        f"agentmetal-run 1 {word}\n"
        for word in ("Never", "never ", "ended", "ended x exited 999", "ended x killed $(id)")
    ],
)
def test_anything_else_is_no_answer(stdout: str) -> None:
    with pytest.raises(Unavailable):
        wrapper.read_state(Completed(exit_code=0, stdout=stdout, stderr=""), "n")


@given(st.integers(0, 255), st.text(), st.text())
def test_no_text_of_a_host_is_read_as_never_started(exit_code: int, stdout: str, stderr: str) -> None:
    for read in (wrapper.read_state, wrapper.read_start):
        try:
            state = read(Completed(exit_code=exit_code, stdout=stdout, stderr=stderr), "n")
        except AgentMetalError:
            continue
        assert state.phase is not UnitPhase.NEVER or (exit_code == 0 and stdout.startswith("agentmetal-run 1 never\n"))


@pytest.mark.parametrize("name", ["", "A", "a b", "a;b", "../a", "-a", "a" * 129, "a\n", "ä"])
def test_a_name_is_checked_before_anything_is_sent(name: str) -> None:
    with pytest.raises(Invalid):
        wrapper.state_argv("c1", name)
    with pytest.raises(Invalid):
        wrapper.state_argv(name, "n")


def test_a_timeout_is_whole_seconds_and_never_none() -> None:
    assert wrapper.start_argv("c1", "n", ["true"], epoch=1, timeout=0.2)[5] == "1"
    assert wrapper.start_argv("c1", "n", ["true"], epoch=1, timeout=1.2)[5] == "2"


def test_the_program_ships_with_the_package_and_is_posix_shell() -> None:
    subprocess.run(["sh", "-n"], input=wrapper.program(), check=True)


@pytest.mark.parametrize("arguments", [[], ["c1"], ["c1", "state", "../x"], ["C", "state", "x"], ["c1", "what", "x"]])
def test_the_program_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    done = subprocess.run(["sh", "-s", "--", *arguments], input=wrapper.program(), capture_output=True)

    assert done.returncode == 64
    assert done.stdout == b""
