"""Detached processes: found again, ended for certain, and never mistaken for somebody else's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentmetal.dev.controlplane.processes import Daemon, Identity

SLEEP = (shutil.which("sleep") or "/bin/sleep", "300")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()",
)


def program_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(name="thing", directory=tmp_path)
    yield daemon
    await daemon.stop(grace=0)


async def test_started_process_is_found_by_another_who_looks(daemon: Daemon) -> None:
    pid = daemon.start(SLEEP, {})
    assert Daemon(name="thing", directory=daemon.directory).pid() == pid
    assert os.getsid(pid) == pid, "a session of its own: it outlives the terminal it came from"


async def test_process_is_found_from_its_very_first_moment(tmp_path: Path) -> None:
    for number in range(50):  # a new process has no command line until the kernel has loaded it
        daemon = Daemon(name=f"thing-{number}", directory=tmp_path)
        pid = daemon.start(SLEEP, {})
        assert daemon.pid() == pid
        assert not await daemon.ended(0)
        assert daemon.pid() == pid
        await daemon.stop(grace=30)


async def test_program_that_hands_over_to_another_is_still_found(daemon: Daemon) -> None:
    script = daemon.directory / "wrapper"
    script.write_text(f'#!/bin/sh\necho ready\nexec {SLEEP[0]} "$@"\n')
    script.chmod(0o755)
    pid = daemon.start((str(script), "300"), {})
    async with asyncio.timeout(30):
        while "sleep" not in program_of(pid):
            assert not await daemon.ended(0.01)
    assert daemon.pid() == pid


async def test_stopped_process_is_gone_with_its_pid_file(daemon: Daemon) -> None:
    pid = daemon.start(SLEEP, {})
    await daemon.stop(grace=30)
    assert daemon.pid() is None
    assert Identity.of(pid, ()) is None
    assert not (daemon.directory / "thing.pid").exists()


async def test_process_that_ignores_the_polite_signal_is_killed(daemon: Daemon) -> None:
    pid = daemon.start(STUBBORN, {})
    async with asyncio.timeout(30):
        while "deaf" not in daemon.last_words():
            await daemon.ended(0.02)
        await daemon.stop(grace=0.1)
    assert Identity.of(pid, ()) is None


async def test_killed_process_is_seen_as_not_running(daemon: Daemon) -> None:
    os.kill(daemon.start(SLEEP, {}), signal.SIGKILL)
    assert await daemon.ended(30)
    assert daemon.pid() is None


async def test_running_process_has_not_ended(daemon: Daemon) -> None:
    daemon.start(SLEEP, {})
    assert not await daemon.ended(0.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [("started", 1), ("boot", "another boot"), ("arguments", ["600"])],
    ids=["pid was recycled", "machine was restarted", "program is another"],
)
async def test_stranger_with_the_recorded_pid_is_never_touched(tmp_path: Path, field: str, value: object) -> None:
    stranger = Daemon(name="stranger", directory=tmp_path)
    pid = stranger.start(SLEEP, {})
    try:
        recorded = json.loads((tmp_path / "stranger.pid").read_text())
        (tmp_path / "ours.pid").write_text(json.dumps({**recorded, field: value}))
        ours = Daemon(name="ours", directory=tmp_path)
        assert ours.pid() is None
        await ours.stop(grace=0)
        assert stranger.pid() == pid
    finally:
        await stranger.stop(grace=0)


@pytest.mark.parametrize("content", ["", "12", "{}", "not json", '{"pid": 1}'])
async def test_pid_file_that_is_not_ours_names_nobody(daemon: Daemon, content: str) -> None:
    (daemon.directory / "thing.pid").write_text(content)
    assert daemon.pid() is None


async def test_log_of_the_run_before_is_kept(daemon: Daemon) -> None:
    for word in ("first", "second"):
        daemon.start((shutil.which("echo") or "/bin/echo", word), {})
        assert await daemon.ended(30)
    assert daemon.last_words() == "second"
    assert (daemon.directory / "thing.log.1").read_text() == "first\n"
