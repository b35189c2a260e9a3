"""One real control plane for all integration tests, and a namespace for each."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.controlplane import kubectl, temporary_control_plane
from tests.support.devsystem import dev_system as dev_system  # a fixture: found by its name

from agentmetal.agents import AGENTS
from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.dev.controlplane import ControlPlane
from agentmetal.kube.crds import AnyKind, write
from agentmetal.kube.install import install, shipped

KINDS: tuple[AnyKind, ...] = (*(agent.kind for agent in AGENTS), Operation, ApprovalPolicy, AuditCheckpoint)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_plane() -> AsyncIterator[ControlPlane]:
    """Shared by all tests of the run: never stop it, and never delete what is not yours."""
    async with temporary_control_plane() as plane:
        yield plane


@pytest.fixture
async def namespace(control_plane: ControlPlane) -> str:
    """A new namespace. It is not deleted (that takes 5 s): it goes with the control plane."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    await kubectl(control_plane, "create", "namespace", name)
    return name


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as shipped, with CRDs and roles freshly generated."""
    directory = tmp_path_factory.mktemp("installation")
    shutil.copytree(shipped() / "manifests", directory / "manifests")
    write(directory, KINDS)
    return directory


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def installed(control_plane: ControlPlane, installation: Path) -> ControlPlane:
    """The control plane with our CRDs, roles and admission rules in force."""
    kubeconfig = control_plane.directory / "admin.kubeconfig"
    await install(control_plane.binaries.kubectl, kubeconfig, directory=installation)
    await control_plane.renew_controllers()
    return control_plane
