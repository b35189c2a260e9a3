"""A real control plane for tests: where its programs come from, and kubectl as any of its users."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentmetal.dev.controlplane import Binaries, ControlPlane, find

KUBECTL_WITHIN = 60.0


def binaries() -> Binaries:
    """The programs; without them a test fails and says what to do (it never skips, and never builds for minutes)."""
    found = find()
    if found is None:
        pytest.fail(
            "There is no etcd, kube-apiserver, kube-controller-manager and kubectl on this machine yet. Run "
            "`make install` (builds them once, about 8 minutes), or set KUBEBUILDER_ASSETS to a directory of all four.",
            pytrace=False,
        )
    return found


@asynccontextmanager
async def temporary_control_plane() -> AsyncIterator[ControlPlane]:
    """A running control plane of one's own, in a directory that goes away with it."""
    with tempfile.TemporaryDirectory(prefix="agentmetal-control-plane-") as directory:
        plane = ControlPlane(Path(directory), binaries())
        try:
            await plane.up()
            yield plane
        finally:
            await plane.down()


class KubectlFailed(AssertionError):
    """kubectl said no; the message is its own."""


async def kubectl(plane: ControlPlane, *arguments: str, user: str = "admin", input: str = "") -> str:
    """What kubectl answers to that user."""
    process = await asyncio.create_subprocess_exec(
        plane.binaries.kubectl,
        f"--kubeconfig={plane.directory / f'{user}.kubeconfig'}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(plane.directory)},  # nothing of the developer's, and its discovery cache goes with the plane
    )
    async with asyncio.timeout(KUBECTL_WITHIN):
        output, complaint = await process.communicate(input.encode())
    if process.returncode != 0:
        raise KubectlFailed(f"kubectl {' '.join(arguments)} as {user!r}: {complaint.decode().strip()}")
    return output.decode()


async def kubectl_json(plane: ControlPlane, *arguments: str, user: str = "admin") -> Any:
    """The same, as JSON."""
    return json.loads(await kubectl(plane, *arguments, "-o", "json", user=user))
