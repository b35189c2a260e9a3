"""What we are made of is named, pinned by hash, licensed and asked for with a reason. None of this needs a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PERMISSIVE = re.compile(r"MIT|BSD|Apache|Python Software Foundation|PSF|ISC|EPL-2\.0|LGPL-3\.0")
"""What may be shipped with an Apache-2.0 program: the last two as libraries that stay as they are."""


def lock() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return found


def asked_for() -> Iterator[tuple[str, str]]:
    """Every line of pyproject.toml that asks for a package, and what it says behind the #."""
    text = (ROOT / "pyproject.toml").read_text()
    for block in re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            wanted, _, reason = line.strip().partition("#")
            yield wanted.strip().strip('",'), reason.strip()


def test_every_dependency_carries_its_reason() -> None:
    obvious = {"pytest", "coverage", "mypy", "ruff", "types-PyYAML"}
    found = dict(asked_for())
    assert len(found) > 20
    bare = {re.split(r"[<>=\[]", wanted)[0] for wanted, reason in found.items() if not reason}
    assert bare <= obvious, "say behind a # why it is needed"


def test_the_lock_is_of_what_pyproject_asks_for() -> None:
    (ours,) = [package for package in lock() if package["name"] == "agentmetal"]
    metadata = ours["metadata"]
    requires = [*metadata["requires-dist"], *metadata["requires-dev"]["dev"]]
    locked = {(_canonical(entry["name"]), _sorted(entry.get("specifier", ""))) for entry in requires}
    wanted = {_parts(line) for line, _ in asked_for()}
    assert locked == wanted, "run `uv lock`"


def test_every_locked_file_has_its_hash() -> None:
    files = [
        (package["name"], file)
        for package in lock()
        if package["source"] != {"editable": "."}
        for file in (*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ()))
    ]
    assert files
    assert [name for name, file in files if not file.get("hash", "").startswith("sha256:")] == []
    sources = {json.dumps(package["source"]) for package in lock()}
    assert sources == {'{"editable": "."}', '{"registry": "https://pypi.org/simple"}'}, "no other source than PyPI"


def test_the_image_installs_by_hash_and_is_nobody() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "uv export --locked --no-dev --no-emit-project" in dockerfile
    assert "--require-hashes --requirement" in dockerfile
    assert "uv pip install --python /opt/agentmetal --no-deps /tmp/wheel/*.whl" in dockerfile
    assert re.search(r"^RUN pip install --no-cache-dir uv==[\d.]+$", dockerfile, re.MULTILINE)
    assert re.search(r"^USER 65532:65532$", dockerfile, re.MULTILINE)


def test_the_control_plane_is_built_from_modules_with_checksums() -> None:
    source = ROOT / "operator" / "agentmetal" / "dev" / "controlplane"
    text = (source / "go.mod").read_text()
    instead = dict(re.findall(r"^\s*(?:replace )?(\S+) => (\S+ v\S+)", text, re.MULTILINE))
    named = re.findall(r"^\s+(\S+) (v\S+)", text, re.MULTILINE)
    required = {instead.get(module, f"{module} {version}") for module, version in named}
    summed = {line.rsplit(" ", 1)[0] for line in (source / "go.sum").read_text().splitlines()}
    assert required
    assert {f"{module}/go.mod" for module in required} <= summed


def test_the_bill_of_materials_names_all_with_hash_and_licence(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.fail("uv is not installed: .ci/prepare uv", pytrace=False)
    target = tmp_path / "sbom.json"
    done = subprocess.run([sys.executable, ".ci/sbom", str(target)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    components = {part["name"]: part for part in json.loads(target.read_text())["components"]}
    assert {_parts(line)[0] for line, _ in asked_for()} & components.keys() >= {"kopf", "aiohttp", "asyncssh"}
    odd = [
        (name, entry["license"]["name"])
        for name, part in components.items()
        for entry in part["licenses"]
        if not PERMISSIVE.search(entry["license"]["name"])
    ]
    assert odd == [], "may that be shipped?"


def test_an_audit_that_could_ask_nobody_says_so_and_fails(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    for code, expected, said in ((0, 0, ""), (1, 1, "Raise what is named above"), (2, 3, "NOT AUDITED")):
        uv.write_text(f"#!/bin/sh\nexit {code}\n")
        uv.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run([str(ROOT / ".ci" / "audit")], env=environment, capture_output=True, text=True)
        assert (done.returncode, said in done.stderr) == (expected, True)


def _parts(line: str) -> tuple[str, str]:
    name, specifier = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", line).groups()  # type: ignore[union-attr]  # ours
    return _canonical(name), _sorted(specifier)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sorted(specifier: str) -> str:
    return ",".join(sorted(specifier.replace(" ", "").split(",")))
