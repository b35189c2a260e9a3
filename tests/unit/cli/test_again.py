"""`agentmetal run --again`: an operator that fails at every start does not keep the computer busy."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from itertools import accumulate, repeat
from pathlib import Path

import pytest

from agentmetal.cli.operator import PAUSE, pause_after


def test_pauses_between_short_lives_double_up_to_a_minute() -> None:
    lives = accumulate(repeat(0.5, 9), lambda before, lived: pause_after(lived, {PAUSE: f"{before:g}"}), initial=0.0)
    assert list(lives)[1:] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_whoever_lived_for_a_minute_pauses_shortly_again() -> None:
    assert pause_after(60.0, {PAUSE: "60"}) == 1
    assert pause_after(3600.0, {}) == 1


@pytest.mark.parametrize("word", ["", "soon", "nan", "inf", "-5", "1e9"])
def test_a_word_that_is_not_ours_counts_as_none(word: str) -> None:
    assert pause_after(0.5, {PAUSE: word}) == 1


async def test_a_process_that_cannot_start_pauses_longer_each_time_and_ends_on_sigterm(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],  # nothing answers there
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    (kubeconfig := tmp_path / "kubeconfig").write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "agentmetal", "run", "--development", "--again", "--log-format=text"),
        *(f"--kubeconfig={kubeconfig}", f"--state-directory={tmp_path}", f"--store-path={tmp_path / 'audit.db'}"),
        "--metrics-port=0",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    told: list[str] = []
    try:
        async with asyncio.timeout(60):
            while len(told) < 2:
                told += re.findall(r"starting anew in (\S+) s", (await process.stderr.readline()).decode())
        assert told == ["1", "2"]
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.communicate(), 10)
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode == -signal.SIGTERM
