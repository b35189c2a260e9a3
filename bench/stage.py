"""The stage of a run: a fresh control plane in a temporary directory, and the operator as a process of its own.

`stage()` leaves nothing behind, however the run ends: processes are detached and known by pidfd (`dev.controlplane`).
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.dev.controlplane import Binaries, ControlPlane
from agentmetal.dev.operator import OperatorProcess
from agentmetal.kube.install import ACCOUNT, NAMESPACE, install
from bench.processes import Passes, Requests, cpu_seconds, passes_of, requests_of, rss_mb

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Stage:
    """Where a run plays."""

    plane: ControlPlane
    say: Say
    clients: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def directory(self) -> Path:
        """Everything of the run."""
        return self.plane.directory

    @property
    def operator(self) -> OperatorProcess:
        """The operator; started and stopped by the measurements."""
        return OperatorProcess(directory=self.directory)

    def kubeconfig(self, user: str) -> Path:
        """Of admin, editor, approver or operator."""
        return self.directory / f"{user}.kubeconfig"

    def client(self, user: str) -> KubernetesClient:
        """The API as that user, with connections of its own; closed with the stage."""
        api = KubernetesClient(kubeconfig.from_file(self.kubeconfig(user)))
        self.clients.push_async_callback(api.close)
        return api

    async def start_operator(self) -> None:
        """Returns when it is ready."""
        await self.operator.start(self.kubeconfig("admin"))

    async def stop_operator(self) -> None:
        """Returns when it has ended in order."""
        await self.operator.stop()

    @property
    def operator_pid(self) -> int:
        """Of the running operator."""
        if (pid := self.operator.pid()) is None:
            raise RuntimeError(f"the operator has ended; the end of its log {str(self.operator.log)!r} says why")
        return pid

    def operator_rss_mb(self) -> float:
        """Its resident memory."""
        return rss_mb(self.operator_pid)

    def api_server_cpu(self) -> float:
        """CPU seconds of API server and etcd so far."""
        pids = self.plane.status().pids
        return sum(cpu_seconds(pid) for name in ("etcd", "kube-apiserver") if (pid := pids[name]) is not None)

    async def requests(self) -> Requests:
        """What the operator has asked for so far."""
        return await requests_of(self._metrics_port)

    async def passes(self) -> Passes:
        """How long its passes took so far."""
        return await passes_of(self._metrics_port)

    @property
    def _metrics_port(self) -> int:
        if (port := self.operator.metrics_port) is None:
            raise RuntimeError("the operator was never started")
        return port

    async def up(self) -> None:
        """Control plane, CRDs, roles, rules, kubeconfigs."""
        await self.plane.up()
        await install(self.plane.binaries.kubectl, self.kubeconfig("admin"))
        await self.plane.service_account_kubeconfig(NAMESPACE, ACCOUNT, name="operator")

    async def down(self) -> None:
        """End all of it; each part also when another one fails to."""
        async with AsyncExitStack() as parts:
            parts.push_async_callback(self.plane.down)
            parts.push_async_callback(self.operator.stop, grace=2.0)
            parts.push_async_callback(self.clients.aclose)


@asynccontextmanager
async def stage(binaries: Binaries, say: Say) -> AsyncIterator[Stage]:
    """A stage that is up; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="agentmetal-bench-") as directory:
        made = Stage(plane=ControlPlane(Path(directory), binaries), say=say)
        try:
            say("starting a control plane")
            await made.up()
            yield made
        finally:
            await made.down()
            say("everything is taken down")  # last: whoever listened may have hung up (`| head`)
