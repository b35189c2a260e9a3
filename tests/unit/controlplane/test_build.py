"""Finding and building the control plane's programs, with a stand-in for the go command."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentmetal.dev.controlplane import binaries
from agentmetal.dev.controlplane.binaries import PACKAGES, ControlPlaneFailed, find
from agentmetal.dev.controlplane.build import ensure

PROGRAMS = tuple(PACKAGES)
GO = """#!{python}
import os, pathlib, sys, time
with open({calls!r}, "a") as calls:
    print(*sys.argv[1:], file=calls)
assert pathlib.Path("go.mod").exists() and pathlib.Path("go.sum").exists()
assert os.environ["CGO_ENABLED"] == "0" and os.environ["GOTOOLCHAIN"] == "auto" and "GOFLAGS" not in os.environ
print("k8s.io/some/package", file=sys.stderr, flush=True)
time.sleep({seconds})
output = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
if output.name == {failing!r}:
    sys.exit("go: no such module")
output.write_text("#!/bin/sh\\n")
output.chmod(0o755)
"""


class Machine:
    """A machine with a home directory and, when asked for, a go."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.bin = directory / "bin"
        self.calls_file = directory / "calls"
        self.bin.mkdir()
        self.environment = {"HOME": str(self.home), "PATH": str(self.bin), "GOFLAGS": "-mod=vendor"}

    def install_go(self, *, failing: str = "", seconds: float = 0.0) -> None:
        go = self.bin / "go"
        go.write_text(GO.format(python=sys.executable, calls=str(self.calls_file), failing=failing, seconds=seconds))
        go.chmod(0o755)

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def directory_with(directory: Path, *programs: str) -> Path:
    directory.mkdir(parents=True)
    for program in programs:
        (directory / program).write_text("#!/bin/sh\n")
        (directory / program).chmod(0o755)
    return directory


def test_explicit_directory_wins_over_everything(machine: Machine, tmp_path: Path) -> None:
    explicit = directory_with(tmp_path / "explicit", *PROGRAMS)
    assets = directory_with(tmp_path / "assets", *PROGRAMS)
    found = find(explicit, {**machine.environment, "KUBEBUILDER_ASSETS": str(assets)})
    assert found is not None
    assert found.directory == explicit


def test_explicit_directory_that_lacks_a_program_is_an_error_that_names_it(machine: Machine, tmp_path: Path) -> None:
    explicit = directory_with(tmp_path / "explicit", "etcd", "kubectl", "kube-apiserver")
    with pytest.raises(ControlPlaneFailed, match="has no 'kube-controller-manager'"):
        find(explicit, machine.environment)


def test_complete_envtest_assets_win_over_our_cache(machine: Machine, tmp_path: Path) -> None:
    assets = directory_with(tmp_path / "assets", *PROGRAMS)
    directory_with(binaries.cache_directory(machine.environment), *PROGRAMS)
    found = find(environment={**machine.environment, "KUBEBUILDER_ASSETS": str(assets)})
    assert found is not None
    assert found.directory == assets


def test_envtest_assets_without_a_controller_manager_are_passed_over(machine: Machine, tmp_path: Path) -> None:
    assets = directory_with(tmp_path / "assets", "etcd", "kube-apiserver", "kubectl")
    cache = directory_with(binaries.cache_directory(machine.environment), *PROGRAMS)
    found = find(environment={**machine.environment, "KUBEBUILDER_ASSETS": str(assets)})
    assert found is not None
    assert found.directory == cache


def test_nothing_anywhere_is_none(machine: Machine) -> None:
    assert find(environment=machine.environment) is None


def test_cache_follows_xdg(machine: Machine, tmp_path: Path) -> None:
    environment = {**machine.environment, "XDG_CACHE_HOME": str(tmp_path / "elsewhere")}
    assert binaries.cache_directory(environment).parent == tmp_path / "elsewhere" / "agentmetal" / "controlplane"


def test_first_call_builds_all_four_and_shows_which(machine: Machine) -> None:
    machine.install_go()
    said: list[str] = []
    found = ensure(environment=machine.environment, progress=said.append)
    assert found.directory == binaries.cache_directory(machine.environment)
    assert [call.rpartition(" ")[2] for call in machine.calls()] == list(PACKAGES.values())
    for number, program in enumerate(PROGRAMS, start=1):
        assert f"{program} ({number} of 4): building" in said


def test_server_is_told_its_version(machine: Machine) -> None:
    machine.install_go()
    ensure(environment=machine.environment)
    version = binaries.kubernetes_version()
    assert all(f"-X k8s.io/component-base/version.gitVersion={version} " in call for call in machine.calls())


def test_slow_build_shows_elapsed_time_and_what_the_compiler_does(machine: Machine) -> None:
    machine.install_go(seconds=0.5)
    said: list[str] = []
    ensure(environment=machine.environment, progress=said.append, report_every=0.05)
    assert any("etcd (1 of 4): 0 s, k8s.io/some/package" in line for line in said)


def test_second_call_builds_nothing(machine: Machine) -> None:
    machine.install_go()
    ensure(environment=machine.environment)
    ensure(environment=machine.environment)
    assert len(machine.calls()) == 4


def test_two_callers_at_once_build_once(machine: Machine) -> None:
    machine.install_go(seconds=0.1)
    said: list[str] = []
    threads = [
        threading.Thread(target=ensure, kwargs={"environment": machine.environment, "progress": said.append})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(machine.calls()) == 4
    assert "another process builds the control plane; waiting for it" in said


def test_failed_build_leaves_nothing_behind_and_shows_the_compilers_words(machine: Machine) -> None:
    machine.install_go(failing="kube-apiserver")
    with pytest.raises(
        ControlPlaneFailed, match=r"kube-apiserver \(2 of 4\) failed with exit code 1(?s:.*)no such module"
    ):
        ensure(environment=machine.environment)
    root = binaries.cache_root(machine.environment)
    assert sorted(path.name for path in root.iterdir()) == ["build.log", "lock"]
    machine.install_go()
    assert ensure(environment=machine.environment).etcd.exists()


def test_cache_that_lost_a_program_is_built_again(machine: Machine) -> None:
    machine.install_go()
    ensure(environment=machine.environment).kubectl.unlink()
    assert ensure(environment=machine.environment).kubectl.exists()


def test_without_go_the_error_says_what_to_install(machine: Machine) -> None:
    with pytest.raises(ControlPlaneFailed, match=r"'go' 1\.26 or newer.*https://go\.dev/doc/install"):
        ensure(environment=machine.environment)


def test_incomplete_envtest_assets_are_mentioned_before_building(machine: Machine, tmp_path: Path) -> None:
    machine.install_go()
    assets = directory_with(tmp_path / "assets", "etcd", "kube-apiserver", "kubectl")
    said: list[str] = []
    ensure(environment={**machine.environment, "KUBEBUILDER_ASSETS": str(assets)}, progress=said.append)
    assert said[0] == f"KUBEBUILDER_ASSETS={str(assets)!r} lacks kube-controller-manager: not used"


def test_module_runs_as_a_program_without_a_warning(machine: Machine, tmp_path: Path) -> None:
    assets = directory_with(tmp_path / "assets", *PROGRAMS)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "agentmetal.dev.controlplane.build"],
        env={**machine.environment, "KUBEBUILDER_ASSETS": str(assets), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{assets}\n", "")
