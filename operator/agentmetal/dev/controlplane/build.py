"""Building the control plane once from Go modules, with visible progress. Also `python -m …controlplane.build`.

Called by `make install` and by the command line before it starts a control plane. A build happens in a temporary
directory under a lock and is renamed into the cache when all four programs are there: nobody ever sees half a build,
and of two callers one builds and the other finds it done. What is already somewhere (`binaries.find`) is not built.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agentmetal.dev.controlplane import binaries as where
from agentmetal.dev.controlplane.binaries import Binaries, ControlPlaneFailed

Progress = Callable[[str], None]

REPORT_EVERY = 10.0
"""Seconds between two lines about a program that is still being built."""

GO_MISSING = (
    "To build the control plane, 'go' 1.26 or newer is needed and is not on PATH. Install it from "
    "https://go.dev/doc/install (unpack the archive to /usr/local and add /usr/local/go/bin to PATH), then try again. "
    "Or set KUBEBUILDER_ASSETS to a directory with etcd, kube-apiserver, kube-controller-manager and kubectl."
)


def ensure(
    explicit: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    progress: Progress = lambda line: None,
    report_every: float = REPORT_EVERY,
) -> Binaries:
    """The programs: found, or built now. Blocks for minutes the first time; use a thread from async code."""
    found = where.find(explicit, environment)
    if found is not None:
        return found
    if assets := environment.get("KUBEBUILDER_ASSETS"):
        progress(f"KUBEBUILDER_ASSETS={assets!r} lacks {', '.join(where.missing_in(Path(assets)))}: not used")
    target = where.cache_directory(environment)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.parent / "lock", progress):
        found = where.in_directory(target)
        if found is None:
            _Build(target, environment, progress, report_every).run()
            found = where.find(target)
    assert found is not None, "a directory named explicitly is complete or an error"  # noqa: S101 - narrows the type
    return found


@contextmanager
def _alone(lock: Path, progress: Progress) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process builds the control plane; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Build:
    """One build, from nothing to a complete directory."""

    def __init__(self, target: Path, environment: Mapping[str, str], progress: Progress, report_every: float) -> None:
        self._target = target
        self._environment = environment
        self._progress = progress
        self._report_every = report_every
        self._log = target.parent / "build.log"

    def run(self) -> None:
        go = shutil.which("go", path=self._environment.get("PATH", os.defpath))
        if go is None:
            raise ControlPlaneFailed(GO_MISSING)
        began = time.monotonic()
        self._progress(
            f"building Kubernetes {where.kubernetes_version()} from source into {self._target}: once, "
            "about 8 minutes on two cores, 0.8 GB of downloads and 2.6 GB of Go's build cache"
        )
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._target.parent) as scratch:
            self._build_all(go, Path(scratch))
        self._progress(f"control plane built in {_elapsed(began)}: {self._target}")

    def _build_all(self, go: str, scratch: Path) -> None:
        for name in ("go.mod", "go.sum"):
            shutil.copy(where.MODULE / name, scratch)
        output = scratch / "bin"
        output.mkdir()
        with self._log.open("wb") as log:
            for number, (program, package) in enumerate(where.PACKAGES.items(), start=1):
                label = f"{program} ({number} of {len(where.PACKAGES)})"
                self._build_one([go, *_arguments(output / program, package)], scratch, label, log.fileno())
        if self._target.exists():  # incomplete, or we would not be here; somebody removed programs by hand
            shutil.rmtree(self._target)
        output.rename(self._target)

    def _build_one(self, command: list[str], directory: Path, label: str, log: int) -> None:
        began = time.monotonic()
        self._progress(f"{label}: building")
        with subprocess.Popen(
            command,
            cwd=directory,
            env=_go_environment(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process:
            try:
                code = self._follow(process, label, began)
            except BaseException:  # also Ctrl-C: no compiler may go on behind the caller's back
                process.kill()
                raise
        if code != 0:
            raise ControlPlaneFailed(
                f"Building {label} failed with exit code {code}. The end of {str(self._log)!r}:\n{self._tail(12)}\n"
                "If go is too old, install 1.26 or newer; if a download failed, check the network (or GOPROXY). "
                "Then try again."
            )
        self._progress(f"{label}: done in {_elapsed(began)}")

    def _follow(self, process: subprocess.Popen[bytes], label: str, began: float) -> int:
        while True:
            try:
                return process.wait(self._report_every)
            except subprocess.TimeoutExpired:
                self._progress(f"{label}: {_elapsed(began)}, {self._tail(1) or 'starting'}")

    def _tail(self, lines: int) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


def _arguments(output: Path, package: str) -> list[str]:
    version = where.kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    prefix = "k8s.io/component-base/version.git"
    linker = f"-s -w -X {prefix}Version={version} -X {prefix}Major={major} -X {prefix}Minor={minor}"
    # -v names each package as it is compiled: that is the visible progress.
    return ["build", "-v", "-trimpath", "-ldflags", linker, "-o", str(output), package]


def _go_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's, without what would build something else than go.mod says.

    GOTOOLCHAIN=auto lets an older go (from 1.21) fetch the one that go.mod asks for; distributions switch that off.
    """
    kept = {name: value for name, value in environment.items() if name not in ("GOFLAGS", "GOOS", "GOARCH")}
    return {"GOTOOLCHAIN": "auto", **kept, "CGO_ENABLED": "0", "GOWORK": "off"}


def _elapsed(began: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def main() -> int:
    """Find or build, and say where."""
    try:
        found = ensure(progress=lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 - a program of its own
    except ControlPlaneFailed as failure:
        print(failure.message, file=sys.stderr)  # noqa: T201 - a program of its own
        return 1
    print(found.directory)  # noqa: T201 - a program of its own
    return 0


if __name__ == "__main__":
    sys.exit(main())
