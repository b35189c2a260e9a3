"""All tests, tier by tier, each within its time: what `make test` runs after the linters.

The tiers run in order, as pytest processes, and all of them run even when one fails. A tier over its budget fails the
run. Budgets are for two idle cores; `TEST_BUDGET_SCALE=2` doubles them on a slow machine. The last line is always
`N passed, N failed`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
NOTHING_COLLECTED = 5
PASSED, SKIPPED, FAILED = range(3)  # of two verdicts on one test the higher one counts
HARD_LIMIT = 2.0
"""Times the budget: a tier that takes longer is stopped."""
LAST_WORDS = 60.0
"""Seconds a stopped pytest gets to take down what its fixtures started."""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Directories below tests/ that prove one sort of thing."""

    name: str
    directories: tuple[str, ...]
    budget: float
    workers: int = 1
    """Processes that share the tests: where many small ones wait or count, and none measures."""
    share: str = "load"
    """What a process takes at a time: a test; (loadfile) a file of them whose fixtures are dear; (sorts) either."""


SHARED = {"sorts": ("--dist=loadfile", "-p", "tests.support.sharing")}
"""How pytest is told, where that is not its own word."""
TIERS = (
    Tier(name="unit, agents", directories=("unit", "agents"), budget=60, workers=2),
    Tier(name="contract", directories=("contract",), budget=120, workers=4, share="loadfile"),
    Tier(name="sweep", directories=("sweep",), budget=120, workers=2),
    Tier(name="integration", directories=("integration",), budget=300, workers=3, share="loadfile"),
    Tier(name="faults", directories=("faults",), budget=240, workers=3, share="sorts"),
    Tier(name="architecture", directories=("architecture",), budget=60),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a tier went."""

    tier: Tier
    passed: int
    failed: int
    skipped: int
    seconds: float
    budget: float
    complaint: str = ""
    """What went wrong beside failing tests."""

    @property
    def counted_failures(self) -> int:
        """Failing tests, and the tier itself when it has a complaint."""
        return self.failed + bool(self.complaint)


def run_tier(tier: Tier, scale: float, tests: Path = ROOT / "tests", keep: Path | None = None) -> Result:
    """Run one tier; its output goes where ours goes. `keep`: where pytest's report of each test is left."""
    budget = tier.budget * scale
    paths = [str(tests / name) for name in tier.directories if (tests / name).is_dir()]
    with tempfile.TemporaryDirectory(prefix="agentmetal-tests-") as scratch:
        report = keep or Path(scratch, "report.xml")
        began = time.monotonic()
        arguments = [*paths, *_shared(tier), f"--junit-xml={report}"]
        code = _pytest(arguments, budget * HARD_LIMIT) if paths else NOTHING_COLLECTED
        seconds = time.monotonic() - began
        passed, failed, skipped = _count(report)
    complaint = complaint_about(tier, code, failed, seconds, budget)
    return Result(
        tier=tier, passed=passed, failed=failed, skipped=skipped, seconds=seconds, budget=budget, complaint=complaint
    )


def _shared(tier: Tier) -> Sequence[str]:
    """How pytest is told to share the tests."""
    if tier.workers == 1:
        return ()
    return (f"--numprocesses={tier.workers}", *SHARED.get(tier.share, (f"--dist={tier.share}",)))


def _pytest(arguments: Sequence[str], limit: float) -> int | None:
    """The exit code; None when it had to be stopped."""
    with subprocess.Popen([sys.executable, "-m", "pytest", "-q", "--durations=5", *arguments], cwd=ROOT) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then takes down its fixtures, as it does on Ctrl-C
        try:
            process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            process.kill()
        return None


def _count(report: Path) -> tuple[int, int, int]:
    """Passed, failed, skipped. A test that passed and whose teardown failed has failed."""
    if not report.exists():
        return 0, 0, 0
    # Our own pytest wrote the file a moment ago. A test with a failing teardown stands in it twice.
    verdicts: dict[tuple[str | None, str | None], int] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 - not from strangers
        test = case.get("classname"), case.get("name")
        verdicts[test] = max(_verdict(case), verdicts.get(test, PASSED))
    found = Counter(verdicts.values())
    return found[PASSED], found[FAILED], found[SKIPPED]


def _verdict(case: ElementTree.Element) -> int:
    tags = {child.tag for child in case}
    return FAILED if tags & {"failure", "error"} else SKIPPED if "skipped" in tags else PASSED


def complaint_about(tier: Tier, code: int | None, failed: int, seconds: float, budget: float) -> str:
    """What is wrong with a tier beside its failing tests; a `code` of None says that pytest had to be stopped."""
    if code is None:
        return (
            f"The tier {tier.name!r} was stopped after {seconds:.0f} s, far over its {budget:.0f} s: something hangs."
        )
    if seconds > budget:
        return (
            f"The tier {tier.name!r} took {seconds:.0f} s; its budget is {budget:.0f} s. Make its slowest tests, "
            "listed above, faster, or set TEST_BUDGET_SCALE on a slow machine."
        )
    if code not in (0, NOTHING_COLLECTED) and not failed:
        return f"pytest ended with exit code {code} in the tier {tier.name!r} though no test failed; see its output."
    return ""


def summary(results: Sequence[Result]) -> str:
    """The closing table, the complaints, and the line that machines read."""
    lines = ["", f"{'tier':<14}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}{'budget':>8}"]
    lines += [
        f"{r.tier.name:<14}{r.passed:>8}{r.failed:>8}{r.skipped:>9}{r.seconds:>9.1f}{r.budget:>8.0f}" for r in results
    ]
    lines += ["", *(r.complaint for r in results if r.complaint)]
    passed, failed = sum(r.passed for r in results), sum(r.counted_failures for r in results)
    return "\n".join([*lines, f"{passed} passed, {failed} failed"])


def main() -> int:
    """Run the tiers; the exit code says whether all is well."""
    scale = float(os.environ.get("TEST_BUDGET_SCALE", "1"))
    results = []
    for tier in TIERS:
        sys.stdout.write(f"\n== {tier.name} (budget {tier.budget * scale:.0f} s)\n")
        sys.stdout.flush()
        results.append(run_tier(tier, scale))
    sys.stdout.write(summary(results) + "\n")
    return 1 if any(result.counted_failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
