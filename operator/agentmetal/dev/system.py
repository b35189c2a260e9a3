"""The development system: control plane, operator and machines of one directory, `.agentmetal/`. Used by `dev`, `demo`.

`up` starts whatever does not run, also after a crash or a reboot; `down` removes everything but the logs and leaves no
process, mount or namespace. Both hold the directory's lock. Nothing is kept in memory: any number of processes may use
one system.

    admin, editor, approver, operator .kubeconfig      who is who
    etcd/ pki/ ports.json *.pid                         the control plane
    operator.log operator.json audit.db                 the operator
    machines/                                           the fleet
    hosts/                                              machines that are not ours, while `demo fleet` runs
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from agentmetal.dev import machines, requirements
from agentmetal.dev.controlplane import Binaries, ControlPlane
from agentmetal.dev.operator import OperatorProcess
from agentmetal.dev.report import Quiet, Reporter
from agentmetal.dev.watching import client
from agentmetal.kube.install import ACCOUNT, NAMESPACE, install
from agentmetal.providers.nspawn.fleet import Fleet

USERS = ("admin", "editor", "approver", "operator")
TOKEN_SECONDS = 365 * 86_400
TOKEN_RENEW_SECONDS = 30 * 86_400
"""A token with less than this left is replaced."""
POLL = 0.1
_DATA = (
    *("etcd", "pki", "ports.json", "operator.json", ".kube"),
    *("audit.db", "audit.db-wal", "audit.db-shm", "audit.db.lock"),
    *("audit-policy.yaml", "requests.log"),
)
_NOT_NEEDED = Binaries(
    etcd=Path("etcd"), kube_apiserver=Path("apiserver"), kube_controller_manager=Path("kcm"), kubectl=Path("kubectl")
)
"""Programs for who only stops or looks."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What runs now."""

    operator_pid: int | None
    operator_ready: bool
    metrics_port: int | None
    url: str | None
    control_plane_pids: Mapping[str, int | None]
    machines: int


class DevSystem:
    """The development system of a directory. Without `binaries` it can only be looked at and taken down."""

    def __init__(self, directory: Path, binaries: Binaries | None = None) -> None:
        self.directory = directory.absolute()
        self.plane = ControlPlane(self.directory, binaries or _NOT_NEEDED)
        self.operator = OperatorProcess(directory=self.directory)
        self.fleet = Fleet(self.directory / "machines")
        self.hosts = self.directory / "hosts"
        """Where a demonstration keeps machines that are not ours (`dev.hosts`)."""

    def kubeconfig(self, user: str) -> Path:
        """Where the kubeconfig of one of USERS is, once it is up."""
        return self.directory / f"{user}.kubeconfig"

    async def up(self, count: int = 0, reporter: Reporter | None = None) -> None:
        """Start what does not run, with at least so many machines, all ready when it returns.

        With machines comes the Provider that they are made by, also with none yet; without root there is neither.
        Raises CannotRunMachines before anything is started, ControlPlaneFailed, OperatorFailed, TooLate, NotReady.
        """
        reporter, possible = reporter or Quiet(), not requirements.missing()
        if count:
            requirements.check()
        async with self._locked():
            await self._start_cluster(reporter)
            if possible:
                await self.fleet.ensure_image(machines.IMAGE, reporter.say)
            if await self.operator.start(self.kubeconfig("admin")):
                reporter.say(f"operator started (process {self.operator.pid()}, log {self.operator.log})")
            if possible:
                async with client(self.kubeconfig("admin")) as api:
                    await machines.provide(api, reporter)
                    await machines.order(api, machines.names(count), reporter)

    async def down(self, reporter: Reporter | None = None) -> None:
        """End and remove all of it but the logs. Finishes what an interrupted one left."""
        reporter = reporter or Quiet()
        if not self.directory.exists():
            return
        async with self._locked():
            if (pid := self.operator.pid()) is not None:
                reporter.say(f"stopping the operator (process {pid})")
            await self.operator.stop()
            if os.geteuid() == 0:  # nobody else has ever been able to make a machine
                if found := await self.fleet.machines():
                    reporter.say(f"removing {len(found)} machines")
                await self.fleet.down()
                await Fleet(self.hosts).down()
            await self.plane.down(reporter.say)
            self._forget()

    async def status(self) -> Status:
        """What runs now."""
        plane = self.plane.status()
        return Status(
            operator_pid=self.operator.pid(),
            operator_ready=await self.operator.ready(),
            metrics_port=self.operator.metrics_port,
            url=plane.url,
            control_plane_pids=plane.pids,
            machines=len(await self.fleet.machines()),
        )

    async def _start_cluster(self, reporter: Reporter) -> None:
        await self.plane.up(reporter.say)
        began = time.monotonic()
        await install(self.plane.binaries.kubectl, self.kubeconfig("admin"))
        reporter.say(f"CRDs, roles and admission rules in force ({time.monotonic() - began:.1f} s)")
        if _seconds_left(self.kubeconfig("operator")) < TOKEN_RENEW_SECONDS:
            await self.plane.service_account_kubeconfig(NAMESPACE, ACCOUNT, name="operator", seconds=TOKEN_SECONDS)

    def _forget(self) -> None:
        """Remove what would be taken for a running system; logs stay, and so does what is not ours."""
        for name in (*_DATA, *(path.name for path in self.directory.glob("*.kubeconfig"))):
            path = self.directory / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """One `up` or `down` at a time. The file stays: who waits for it holds it open."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.directory / "dev.lock").open("w") as file:
            while not _try_lock(file.fileno()):  # noqa: ASYNC110 - the other holder is another process
                await asyncio.sleep(POLL)
            yield


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _seconds_left(kubeconfig: Path) -> float:
    """How long the token in a kubeconfig is still good for; nothing when there is none."""
    if not kubeconfig.exists():
        return 0.0
    token: str = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
    claims = token.split(".")[1]
    decoded = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    return float(decoded["exp"]) - time.time()
