"""The parts of the program on hosts that decide: what it reads, what it puts on the wire, what the kernel is told."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmetal_tools import address_program as program
from agentmetal_tools.address_program import Check, Heard, Placed, Problem, Trouble

MAC = bytes.fromhex("024d0a4d000b")
OTHER = bytes.fromhex("024d0a4d000c")
ADDRESS = socket.inet_aton("10.77.255.1")
CONF = b"address=10.77.255.1\nepoch=7\nlifetime=30\ndevice=\ncondition=/bin/test\ncondition=a=b\ncondition=\n"
SHOWN = """\
1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: eth0    inet 10.77.0.11/16 brd 10.77.255.255 scope global eth0\\       valid_lft forever preferred_lft forever
2: eth0    inet 10.77.255.1/32 scope global eth0\\       valid_lft 2sec preferred_lft 2sec
3: wide    inet 10.0.0.5/8 scope global wide\\       valid_lft forever preferred_lft forever
"""


def test_configuration_keeps_every_argument_as_it_is() -> None:
    conf = program.read_conf(CONF, b"program")

    assert conf[:5] == ("10.77.255.1", 7, 30, "", ("/bin/test", "a=b", ""))
    assert conf.digest == program.digest(CONF, b"program") != program.digest(CONF, b"another")


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\x0b", "\r"])
def test_no_argument_can_end_its_line(end: str) -> None:
    conf = program.read_conf(CONF + f"condition=a{end}epoch=99\n".encode(), b"")

    assert (conf.epoch, conf.condition[-1]) == (7, f"a{end}epoch=99")


@pytest.mark.parametrize("missing", [b"address=10.77.255.1\n", b"epoch=7\n", b"lifetime=30\n"])
def test_configuration_that_lacks_something_is_refused(missing: bytes) -> None:
    with pytest.raises(Problem, match="not understood"):
        program.read_conf(CONF.replace(missing, b""), b"")


@pytest.mark.parametrize("wrong", [CONF.replace(b"30", b"2"), CONF.replace(b"condition", b"precondition")])
def test_configuration_without_a_bound_or_a_condition_is_refused(wrong: bytes) -> None:
    with pytest.raises(Problem, match="lifetime of 3 s or more, and a condition"):
        program.read_conf(wrong, b"")


@given(good=st.floats(0, 1e6), lifetime=st.integers(3, 300), late=st.floats(0, 400))
def test_kernel_is_never_told_more_than_what_is_left_since_the_check_began(
    good: float, lifetime: int, late: float
) -> None:
    told = program.left(good, lifetime, good + late)

    assert 0 <= told <= max(0.0, lifetime - late + 1e-6)
    assert told > lifetime - late - 1 - 1e-6


def test_announcement_is_said_to_everybody_in_both_forms() -> None:
    frames = program.announcements(MAC, ADDRESS)

    said = [program.heard(frame) for frame in frames]
    assert said == [Heard(1, MAC, ADDRESS, ADDRESS), Heard(2, MAC, ADDRESS, ADDRESS)]
    assert all(frame[:14] == b"\xff" * 6 + MAC + b"\x08\x06" for frame in frames)
    # Linux takes a reply for gratuitous only when it names its sender as its target, too.
    assert frames[1][32:38] == MAC


def test_probe_is_a_question_of_nobody() -> None:
    assert program.heard(program.probe(MAC, ADDRESS)) == Heard(1, MAC, b"\0" * 4, ADDRESS)


def test_reply_of_another_host_is_understood_with_its_padding() -> None:
    reply = bytes.fromhex("024d0a4d000b 024d0a4d000c 0806 0001 0800 06 04 0002") + OTHER + ADDRESS + MAC + b"\0" * 4

    assert program.heard(reply + b"\0" * 18) == Heard(2, OTHER, ADDRESS, b"\0" * 4)


@given(st.binary(max_size=80))
def test_noise_on_the_wire_is_ignored(frame: bytes) -> None:
    message = program.heard(frame)
    assert message is None or frame[12:20] == bytes.fromhex("0806 0001 0800 0604")


def test_addresses_are_read_with_their_lifetimes() -> None:
    assert program.placed(SHOWN) == [
        Placed("lo", "127.0.0.1", 8, None),
        Placed("eth0", "10.77.0.11", 16, None),
        Placed("eth0", "10.77.255.1", 32, 2),
        Placed("wide", "10.0.0.5", 8, None),
    ]
    assert [each.ours for each in program.placed(SHOWN)] == [False, False, True, False]
    assert not Placed("eth0", "10.77.255.1", 16, 3600).ours, "a lease of DHCP"


def test_device_is_the_one_in_the_smallest_network_with_the_address() -> None:
    there = program.placed(SHOWN)

    assert program.device_for("10.77.255.1", there) == "eth0"
    assert program.device_for("10.1.2.3", there) == "wide"
    with pytest.raises(Problem, match="name the device"):
        program.device_for("192.0.2.1", there)


def judged(argv: tuple[str, ...], timeout: float) -> str:
    """How a check ends."""
    check = Check(argv, timeout)
    deadline = time.monotonic() + 10
    while (said := check.judged()) is None:
        assert time.monotonic() < deadline
    return said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((sys.executable, "-S", "-c", ""), ""),
        ((sys.executable, "-S", "-c", "raise SystemExit(3)"), "exit code 3"),
        (("/no/such/program",), "cannot be started: [Errno 2] No such file or directory: '/no/such/program'"),
    ],
    ids=["succeeds", "fails", "missing"],
)
def test_condition_holds_only_by_exit_code_0(argv: tuple[str, ...], said: str) -> None:
    assert judged(argv, 10) == said


def test_condition_that_does_not_end_in_time_is_killed_and_does_not_hold() -> None:
    assert judged(("sleep", "60"), 0.05) == "no answer within 0.05 s"


def test_what_a_condition_leaves_running_is_killed(tmp_path: Path) -> None:
    fifo = tmp_path / "open while anything runs"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert judged(("sh", "-c", 'sleep 60 >"$0" & exec 3>"$0"', str(fifo)), 10) == ""
        hung_up = select.poll()
        hung_up.register(reader, select.POLLHUP)
        assert hung_up.poll(10_000)
    finally:
        os.close(reader)


def test_end_in_time_that_is_seen_late_does_not_count() -> None:
    check = Check(("true",), 0.05)
    deadline = check.began + 0.1
    while program.now() < deadline:  # as if we were frozen: nobody looks
        pass
    assert check.judged() == "no answer within 0.05 s"


@pytest.mark.parametrize(
    ("problem", "code"),
    [(OSError(28, "no space left"), 1), (Trouble("x"), 1), (Problem("x"), program.BROKEN)],
    ids=["full", "trouble", "problem"],
)
def test_systemd_starts_it_again_unless_only_a_person_can_mend_it(problem: Exception, code: int) -> None:
    assert program.exit_code(problem) == code


@pytest.mark.parametrize("argv", [[], ["hold"], ["hold", "10.0.0.300"], ["hold", "../x"], ["rm", "10.0.0.1"]])
def test_command_that_is_not_understood_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(argv) == program.BROKEN
    assert "agentmetal-address: " in capsys.readouterr().err
