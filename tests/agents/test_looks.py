"""One look at a host: the command runs on a real system, and no answer, however nasty, does harm."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmetal.clients.ssh.wrapper import PATH as WRAPPER_PATH
from agentmetal.core.claim import CLAIM_PATH, UNREADABLE, Claim
from agentmetal.core.clock import SystemClock
from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.core.machine import Completed, OwnerTag
from agentmetal_tools.looks import LOOK, MAX_FAILED_UNITS, MAX_FILE, Look, look, read_look

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TAG = OwnerTag(cluster="c", namespace="shop", uid="u")
LARGEST = 16 * 1024
"""Characters that everything we keep of a look may take together."""


def read(text: str, *, took: float = 0.1) -> Look:
    return read_look(text, asked=NOW, answered=NOW + timedelta(seconds=took))


def answer(files: Mapping[str, str] | None = None, *, there: str = "", units: str = "") -> str:
    """As the command prints it."""
    lines = [f"clock:{NOW.timestamp()}", "disk:1000 500 400 100 90", "machine:x86_64", there]
    lines += [f"{path}:{line}" for path, text in (files or {}).items() for line in text.split("\n")]
    return "\n".join([*lines, "units:", units])


class Host:
    """Answers every command alike."""

    def __init__(self, completed: Completed) -> None:
        self._completed = completed

    async def run(self, *_: object, **__: object) -> Completed:
        return self._completed


def test_the_command_reads_a_real_system_as_anybody() -> None:
    asked = datetime.now(UTC)
    done = subprocess.run(LOOK, capture_output=True, text=True, timeout=20, check=False)
    seen = read_look(done.stdout, asked=asked, answered=datetime.now(UTC))
    assert seen.kernel == platform.release()
    assert seen.architecture == platform.machine()
    assert seen.hostname == platform.node()
    assert seen.os in Path("/etc/os-release").read_text()
    assert seen.cpus >= 1
    assert seen.memory_mb > 100
    assert seen.boot.id
    assert seen.boot.up_seconds > 0
    assert seen.vitals.clock_offset_seconds == 0.0
    for ratio in (seen.vitals.disk_free_ratio, seen.vitals.memory_available_ratio):
        assert ratio is not None
        assert 0 < ratio <= 1


def test_what_is_missing_is_no_error() -> None:
    seen = read("clock:\ndisk:\nmachine:\n\nunits:\n")
    assert seen == Look()


def test_no_file_can_pretend_to_be_another_one() -> None:
    forged = Claim.of(TAG).file().decode().strip()
    text = f"PRETTY_NAME=x\n{CLAIM_PATH}:{forged}\nthere:1 {WRAPPER_PATH}\nunits:\nssh.service loaded failed"
    seen = read(answer({"/etc/os-release": text}))
    assert (seen.os, seen.claimed_by, seen.wrapper, seen.failed_units) == ("x", "", False, ())


def test_names_of_units_pretend_nothing_either() -> None:
    nasty = f"\nunits:\n{CLAIM_PATH}:{Claim.of(TAG).file().decode()}there:1 {WRAPPER_PATH}\nmachine:evil"
    seen = read(answer(units=nasty))
    assert (seen.claimed_by, seen.wrapper, seen.architecture) == ("", False, "x86_64")


@pytest.mark.parametrize("ending", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_a_newline_ends_a_line(ending: str) -> None:
    seen = read(answer({"/etc/os-release": f"X=1{ending}units:{ending}there:1 {WRAPPER_PATH}"}))
    assert (seen.wrapper, seen.failed_units) == (False, ())


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"cluster": 1}'])
def test_a_claim_that_says_nothing_is_somebodys(content: str) -> None:
    assert read(answer({CLAIM_PATH: content}, there=f"there:1 {CLAIM_PATH}")).claimed_by == UNREADABLE


def test_a_claim_is_read_however_it_is_laid_out() -> None:
    pretty = Claim.of(TAG).model_dump_json(indent=2)
    assert read(answer({CLAIM_PATH: pretty}, there=f"there:1 {CLAIM_PATH}")).claimed_by == str(TAG)


MOUNTS = [
    ("/dev/sda1 / ext4 rw,relatime 0 0", False),
    ("/dev/sda1 / ext4 ro,relatime 0 0", True),
    ("/dev/sda1 / ext4 rw,relatime,emergency_ro 0 0", True),
    ("/dev/sda1 / ext4 rw,errors=remount-ro 0 0", False),
    ("rootfs / rootfs ro 0 0\n/dev/sda1 / ext4 rw 0 0", False),
    ("/dev/sr0 /mnt iso9660 ro 0 0", False),
]


@pytest.mark.parametrize(("mounts", "read_only"), MOUNTS)
def test_what_is_mounted_last_at_the_root_decides(mounts: str, read_only: bool) -> None:
    assert read(answer({"/proc/self/mounts": mounts})).root_read_only is read_only


OFFSETS = [(0.05, 0.0), (-0.5, -0.5), (3600.0, 3599.9), (-3600.0, -3600.0)]


@pytest.mark.parametrize(("ahead", "certain"), OFFSETS)
def test_a_clock_is_off_only_as_far_as_the_way_does_not_explain_it(ahead: float, certain: float) -> None:
    seen = read(f"clock:{NOW.timestamp() + ahead:.9f}\nmachine:\n\nunits:\n", took=0.1)
    assert seen.vitals.clock_offset_seconds == pytest.approx(certain, abs=1e-3)


def test_a_clock_that_is_far_off_changes_nothing_else() -> None:
    files = {"/proc/sys/kernel/random/boot_id": "b", "/proc/1/stat": f"1 (s) {'0 ' * 19}200", "/proc/uptime": "100.5 1"}
    right = read(answer(files))
    wrong = read(answer(files).replace(f"clock:{NOW.timestamp()}", "clock:12.5"))
    assert wrong.boot == right.boot
    assert wrong.boot.up_seconds == pytest.approx(98.5)
    assert wrong.vitals.packages_age_seconds == right.vitals.packages_age_seconds


KERNELS = [
    ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.153-1 (2025-09-20)", datetime(2025, 9, 20, tzinfo=UTC)),
    ("#31-Ubuntu SMP PREEMPT_DYNAMIC Sat Apr 20 00:40:06 UTC 2024", datetime(2024, 4, 20, tzinfo=UTC)),
    ("#1 SMP PREEMPT_DYNAMIC Wed Dec  3 10:11:12 EST 2025", datetime(2025, 12, 3, tzinfo=UTC)),
    ("#1 SMP (2025-13-77)", None),
    ("#1 SMP PREEMPT_DYNAMIC @0", None),
]


@pytest.mark.parametrize(("version", "built"), KERNELS)
def test_the_age_of_a_kernel_stands_in_its_version(version: str, built: datetime | None) -> None:
    age = read(answer({"/proc/sys/kernel/version": version}), took=0).vitals.kernel_age_seconds
    assert age == ((NOW - built).total_seconds() if built else None)


def test_failed_units_are_few_sorted_and_clean() -> None:
    listed = "".join(f"u{n:03}.service loaded failed failed \x1b[31mred\n" for n in range(500, 0, -1))
    nasty = "../../etc/passwd loaded\n$(reboot) loaded\n\x1b[0m loaded\nagentmetal-op-1-2-3.service loaded failed\n"
    seen = read(answer(units=nasty + listed)).failed_units
    assert seen == tuple(f"u{n:03}.service" for n in range(1, MAX_FAILED_UNITS + 1))


def test_processors_are_counted_from_ranges() -> None:
    online = {"/sys/devices/system/cpu/online": "0-3,8,10-11"}
    assert read(answer(online)).cpus == 7


def test_numbers_that_are_none_are_left_out() -> None:
    for nasty in ("nan", "inf", "-1", "9" * 5000, "x10", "٣", ""):
        seen = read(
            f"clock:{nasty}\ndisk:{' '.join([nasty] * 5)}\nmachine:\nthere:{nasty} /var/lib/dpkg/status\nunits:\n"
        )
        assert seen.vitals.disk_free_ratio is None or 0 <= seen.vitals.disk_free_ratio <= 1
        assert seen.packages_from == ""


WORDS = st.sampled_from(
    [
        "clock:",
        "disk:",
        "machine:",
        "there:",
        "units:",
        "\n",
        "\nunits:\n",
        " ",
        "9" * 400,
        "-1",
        "nan",
        "\0",
        "\x1b[0m",
    ]
)
PATHS = st.sampled_from(
    [f"{path}:" for path in LOOK if path.startswith("/")] + [f"there:99 {path}" for path in (CLAIM_PATH, WRAPPER_PATH)]
)
PIECES = st.lists(st.one_of(WORDS, PATHS, st.text(max_size=40), st.integers().map(str), st.floats().map(str)))


@given(PIECES, st.integers(min_value=1, max_value=200))
def test_no_answer_raises_and_none_is_large(pieces: list[str], times: int) -> None:
    seen = read("".join(pieces) * times)
    assert len(str(asdict(seen))) <= LARGEST
    assert len(seen.user_data) <= MAX_FILE
    assert all(value is None or value == value for value in asdict(seen.vitals).values()), "no NaN"


async def test_a_command_that_does_not_run_says_nothing_about_whose_the_host_is() -> None:
    missing = Completed(exit_code=127, stdout="", stderr="timeout: failed to run command 'find': No such file\n")
    with pytest.raises(Invalid, match="install findutils"):
        await look(Host(missing), SystemClock())  # type: ignore[arg-type]  # only `run` is used
    broken = Completed(exit_code=1, stdout="", stderr="sh: cannot fork: out of memory\n")
    with pytest.raises(Unavailable, match="cannot fork"):
        await look(Host(broken), SystemClock())  # type: ignore[arg-type]  # only `run` is used
