"""The operator as a process of the development system: started detached, found again, ended. Used by `system`.

Nothing restarts it by itself: `dev up` does, when it has ended. It is known by pid and start time, so a recycled pid is
never touched (`controlplane.processes`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from agentmetal.core.errors import AgentMetalError, NotFound
from agentmetal.core.kubetypes import LEASE
from agentmetal.dev.controlplane.processes import Daemon
from agentmetal.dev.watching import client
from agentmetal.kube.install import NAMESPACE

READY_WITHIN = 60.0
GRACE = 25.0
"""Seconds to end in order: it finishes what it records and gives the Lease up."""
POLL = 0.05
LEASE_NAME = "agentmetal-operator"
OURS = "AGENTMETAL_DEV_STATE"
"""Says to `agentmetal dev` where the system is; no setting of the operator."""
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "PYTHONPATH", "XDG_CACHE_HOME")
"""What it sees of ours, beside AGENTMETAL_*: our environment may hold secrets, and it outlives us."""


class OperatorFailed(AgentMetalError):
    """The operator did not start. The message holds the end of its log."""

    reason = "OperatorFailed"
    who_must_act = "the developer at this machine"


@dataclass(frozen=True, kw_only=True)
class OperatorProcess:
    """The one operator of a directory."""

    directory: Path

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self._daemon.log

    @property
    def metrics_port(self) -> int | None:
        """Where it serves /metrics, /healthz, /readyz and /leading; None when it was never started."""
        try:
            return int(json.loads(self._facts.read_text())["metricsPort"])
        except FileNotFoundError:
            return None

    def pid(self) -> int | None:
        """The pid, while it runs."""
        return self._daemon.pid()

    async def ready(self) -> bool:
        """Does it lead, and know the cluster?"""
        port = self.metrics_port
        if self.pid() is None or port is None:
            return False
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            return await _says_ready(session, port)

    async def start(self, admin: Path, environment: Mapping[str, str] = os.environ) -> bool:
        """Start it unless it runs, and wait until it is ready. Whether it had to be started."""
        started = self.pid() is None
        if started:
            await _free_lease(admin)
            port = _free_port()
            self._facts.write_text(json.dumps({"metricsPort": port}))
            self._daemon.start(self._arguments(port), _environment(environment))
        await self._until_ready()
        return started

    async def stop(self, *, grace: float = GRACE) -> None:
        """End it: SIGTERM, then SIGKILL. When this returns it does not run."""
        await self._daemon.stop(grace=grace)

    async def kill(self) -> None:
        """A crash: SIGKILL, nothing else. When this returns it does not run."""
        pid = self.pid()
        if pid is None:
            return
        handle = os.pidfd_open(pid)
        try:
            if self.pid() == pid:  # asked after opening: the handle pins whom it names
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
        await self._daemon.ended(GRACE)

    @property
    def _daemon(self) -> Daemon:
        return Daemon(name="operator", directory=self.directory)

    @property
    def _facts(self) -> Path:
        return self.directory / "operator.json"

    def _arguments(self, port: int) -> tuple[str, ...]:
        return (
            *(sys.executable, "-P", "-m", "agentmetal", "run", "--development", "--again"),
            f"--kubeconfig={self.directory / 'operator.kubeconfig'}",
            f"--state-directory={self.directory}",
            f"--store-path={self.directory / 'audit.db'}",
            "--provider-types=Nspawn,SSH,Fake",
            f"--metrics-port={port}",
            "--log-format=text",
        )

    async def _until_ready(self) -> None:
        """Its end is an event; its readiness can only be asked for."""
        loop = asyncio.get_running_loop()
        deadline, port = loop.time() + READY_WITHIN, self.metrics_port or 0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not await _says_ready(session, port):
                if await self._daemon.ended(POLL):
                    raise self._failure("the operator ended while it started")
                if loop.time() > deadline:
                    raise self._failure(f"the operator was not ready within {READY_WITHIN:.0f} s")

    def _failure(self, what: str) -> OperatorFailed:
        return OperatorFailed(f"{what}. The end of {str(self.log)!r}:\n{self._daemon.last_words()}")


async def _free_lease(admin: Path) -> None:
    """The holder is certainly dead, for it ran here: nobody need wait until its Lease expires."""
    async with client(admin) as api:
        try:
            await api.patch(LEASE, NAMESPACE, LEASE_NAME, {"spec": {"holderIdentity": ""}})
        except NotFound:
            return  # nobody has led yet


async def _says_ready(session: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with session.get(f"http://127.0.0.1:{port}/leading") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT_ENVIRONMENT or (name.startswith("AGENTMETAL_") and name != OURS)
    }
