"""Where the four programs of a control plane are. Asked by `build` and by everybody who starts one; builds nothing.

Looked for in this order, the first complete set wins:

1. a directory named explicitly: incomplete is an error, because somebody meant it;
2. `KUBEBUILDER_ASSETS`, as envtest lays it out: incomplete (it usually lacks kube-controller-manager) means go on;
3. our cache, one directory for each recipe: `${XDG_CACHE_HOME:-~/.cache}/agentmetal/controlplane/<hash>/`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentmetal.core.errors import AgentMetalError

PACKAGES: Mapping[str, str] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
"""Program to Go package. The names are envtest's; etcd's own package would call its program `server`."""

RECIPE = 1
"""Raised when the way of building changes in a way that go.mod does not show (flags, layout)."""

MODULE = Path(__file__).parent
"""Holds go.mod and go.sum: which versions are built."""


class ControlPlaneFailed(AgentMetalError):
    """The development control plane could not be built, started or stopped. The message says what to do."""

    reason = "ControlPlaneFailed"
    who_must_act = "the developer at this machine"


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """The four programs; all of them exist and are executable."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path

    @property
    def directory(self) -> Path:
        """Where they are; put it on PATH to use this kubectl."""
        return self.kubectl.parent


def find(explicit: Path | None = None, environment: Mapping[str, str] = os.environ) -> Binaries | None:
    """The programs, if they are somewhere already."""
    if explicit is not None:
        return _named(explicit)
    assets = environment.get("KUBEBUILDER_ASSETS")
    return (in_directory(Path(assets)) if assets else None) or in_directory(cache_directory(environment))


def _named(directory: Path) -> Binaries:
    if binaries := in_directory(directory):
        return binaries
    raise ControlPlaneFailed(
        f"{str(directory)!r} has no {', '.join(map(repr, missing_in(directory)))}. Name a directory with "
        f"{', '.join(PACKAGES)}, or none: then they are found or built by themselves."
    )


def in_directory(directory: Path) -> Binaries | None:
    """The programs of a directory that has all of them."""
    if missing_in(directory):
        return None
    absolute = directory.absolute()
    return Binaries(
        etcd=absolute / "etcd",
        kube_apiserver=absolute / "kube-apiserver",
        kube_controller_manager=absolute / "kube-controller-manager",
        kubectl=absolute / "kubectl",
    )


def missing_in(directory: Path) -> tuple[str, ...]:
    """The programs a directory lacks."""
    return tuple(name for name in PACKAGES if not _executable(directory / name))


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of all cached builds."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home()) / ".cache"
    return Path(base) / "agentmetal" / "controlplane"


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of exactly the build this version wants, on this kind of machine (homes are shared at times)."""
    recipe = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        recipe.update((MODULE / name).read_bytes())
    recipe.update(f"{kubernetes_version()} {RECIPE} {platform.system()} {platform.machine()}".encode())
    return cache_root(environment) / recipe.hexdigest()[:16]


def kubernetes_version() -> str:
    """The version in go.mod, such as `v1.36.3`. The server calls itself v0.0.0 unless the linker is told."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\d+\.\d+\.\d+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ControlPlaneFailed(f"{str(MODULE / 'go.mod')!r} names no version of k8s.io/kubernetes; restore it.")
    return found[1]
