"""ControlPlane: a real Kubernetes API in a directory. Made by the command line and by the integration tests.

`up` starts what does not run, in the order etcd, API server, controller manager, and keeps data, ports and keys of
earlier runs; `down` stops in the opposite order (an API server whose etcd is gone does not end by itself). Both hold
the directory's lock, so two of them at once are one after the other. The processes outlive the caller.
It installs nothing into the cluster: CRDs, roles and the operator are the command line's.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from agentmetal.dev.controlplane import components
from agentmetal.dev.controlplane.binaries import Binaries, ControlPlaneFailed
from agentmetal.dev.controlplane.certificates import Authority, signing_key, write_private
from agentmetal.dev.controlplane.components import HOST, Files, Ports, Recording
from agentmetal.dev.controlplane.kubeconfig import Writer
from agentmetal.dev.controlplane.processes import Daemon

Progress = Callable[[str], None]

ORDER = ("etcd", "kube-apiserver", "kube-controller-manager")
GRACE: Mapping[str, float] = {"etcd": 10.0, "kube-apiserver": 5.0, "kube-controller-manager": 3.0}
"""Seconds to end politely. An API server with an open watch takes longer than anybody waits; etcd has its data."""
READY_WITHIN = 90.0
POLL = 0.05
BELOW_EPHEMERAL = range(20_000, 32_768)
"""Ports that no outgoing connection gets by itself, so that they are still free at the next start."""
AUDIT_POLICY, REQUESTS = "audit-policy.yaml", "requests.log"
"""Who lays an audit policy into the directory before the start finds the requests it names in the other file."""
USERS: Mapping[str, tuple[str, ...]] = {"admin": ("system:masters",), "editor": (), "approver": ()}


@dataclass(frozen=True, kw_only=True)
class Status:
    """What runs now."""

    pids: Mapping[str, int | None]
    """Program to pid; None when it does not run."""
    url: str | None
    """The API server's, once a first start has picked its port."""

    @property
    def running(self) -> bool:
        """All of it."""
        return all(pid is not None for pid in self.pids.values())


class ControlPlane:
    """One control plane; all it has is in `directory`."""

    def __init__(self, directory: Path, binaries: Binaries) -> None:
        self.directory = directory.absolute()
        self.binaries = binaries
        self._pki = self.directory / "pki"
        self._authority = Authority(self._pki, "ca")
        self._etcd_authority = Authority(self._pki, "etcd-ca")
        self._daemons = {name: Daemon(name=name, directory=self.directory) for name in ORDER}

    @property
    def url(self) -> str:
        """Of the API server. Known after the first `up`."""
        return f"https://{HOST}:{self.ports().api}"

    async def up(self, progress: Progress = lambda line: None) -> None:
        """Start what does not run; returns when the API server and the controller manager are ready."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with self._locked():
            files = self._prepare()
            ports = self.ports()
            self._start("etcd", components.etcd(self.binaries, ports, files), progress)
            arguments = components.kube_apiserver(self.binaries, ports, files)
            await self._make_ready("kube-apiserver", arguments, f"https://{HOST}:{ports.api}/readyz", progress)
            progress(f"the API server is ready at {self.url}")
            arguments = components.kube_controller_manager(self.binaries, ports, files)
            url = f"https://{HOST}:{ports.controllers}/healthz"
            await self._make_ready("kube-controller-manager", arguments, url, progress)

    async def renew_controllers(self) -> None:
        """Start the controller manager anew: it learns of new kinds at its start, else only every half a minute."""
        async with self._locked():
            await self._daemons["kube-controller-manager"].stop(grace=GRACE["kube-controller-manager"])
        await self.up()

    async def down(self, progress: Progress = lambda line: None) -> None:
        """Stop all of it. When this returns nothing runs; data stays."""
        if not self.directory.exists():
            return
        async with self._locked():
            for name in reversed(ORDER):
                if (pid := self._daemons[name].pid()) is not None:
                    progress(f"stopping {name} (process {pid})")
                await self._daemons[name].stop(grace=GRACE[name])

    def status(self) -> Status:
        """What runs now."""
        known = self._ports_file.exists()
        pids = {name: daemon.pid() for name, daemon in self._daemons.items()}
        return Status(pids=pids, url=self.url if known else None)

    def kubeconfig(self, user: str, groups: Sequence[str] | None = None) -> Path:
        """The kubeconfig file of a user, known by a client certificate that is made when there is none.

        `up` has made those of `admin` (system:masters), `editor` and `approver`; their groups need not be named.
        """
        pair = self._authority.client(user, USERS.get(user, ()) if groups is None else groups)
        return self._writer().with_certificate(user, pair)

    def token_kubeconfig(self, name: str, token: str) -> Path:
        """The kubeconfig file of somebody who is known by a bearer token."""
        return self._writer().with_token(name, token)

    async def service_account_kubeconfig(
        self, namespace: str, account: str, *, name: str = "operator", seconds: int = 86_400 * 7
    ) -> Path:
        """The kubeconfig file of an existing ServiceAccount, with a fresh token that the API server made for it."""
        url = f"{self.url}/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        async with self._session() as session, session.post(url, json=request) as response:
            answer = await response.json()
        if response.status != 201:
            raise ControlPlaneFailed(
                f"No token for ServiceAccount {account!r} in namespace {namespace!r}: {answer.get('message')}. "
                "Apply the operator's manifests first."
            )
        return self.token_kubeconfig(name, answer["status"]["token"])

    def _start(self, name: str, arguments: Sequence[str], progress: Progress) -> bool:
        """Whether it had to be started."""
        daemon = self._daemons[name]
        if daemon.pid() is not None:
            return False
        pid = daemon.start(arguments, components.environment(name))
        progress(f"{name} started (process {pid}, log {daemon.log})")
        return True

    async def _make_ready(self, name: str, arguments: Sequence[str], url: str, progress: Progress) -> None:
        """Start a program unless it runs, and wait until it says it is ready.

        Its end is an event; its readiness can only be asked for. One that was found running may have been dying.
        """
        started = self._start(name, arguments, progress)
        deadline = asyncio.get_running_loop().time() + READY_WITHIN
        async with self._session() as session:
            while not await _says_ready(session, url):
                if await self._daemons[name].ended(POLL):
                    if started:
                        raise self._failure(name, "ended while it started")
                    started = self._start(name, arguments, progress)
                if self._daemons["etcd"].pid() is None:
                    raise self._failure("etcd", "does not run (any more)")
                if asyncio.get_running_loop().time() > deadline:
                    raise self._failure(name, f"was not ready within {READY_WITHIN:.0f} s")

    def _failure(self, name: str, what: str) -> ControlPlaneFailed:
        daemon = self._daemons[name]
        return ControlPlaneFailed(
            f"{name} {what}. The end of {str(daemon.log)!r}:\n{daemon.last_words()}\n"
            f"If a port was taken meanwhile: stop all of it, remove {str(self._ports_file)!r}, start again. "
            f"To start afresh: stop all of it and remove {str(self.directory)!r}."
        )

    def _session(self) -> aiohttp.ClientSession:
        pair = self._authority.client("admin", USERS["admin"])
        trust = ssl.create_default_context(cafile=str(self._authority.certificate))
        trust.load_cert_chain(pair)
        timeout = aiohttp.ClientTimeout(total=10)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), timeout=timeout)

    def _prepare(self) -> Files:
        """Everything that stands before the first start; what is there is kept."""
        for authority in (self._authority, self._etcd_authority):
            authority.prepare()
        etcd_data = self.directory / "etcd"
        etcd_data.mkdir(mode=0o700, exist_ok=True)
        for user in USERS:
            self.kubeconfig(user)
        private, public = signing_key(self._pki, "service-accounts")
        return Files(
            etcd_data=etcd_data,
            etcd_authority=self._etcd_authority.certificate,
            etcd_pair=self._etcd_authority.server("etcd", (HOST, "localhost"), also_client=True),
            etcd_client=self._etcd_authority.client("kube-apiserver-at-etcd"),
            authority=self._authority.certificate,
            api_pair=self._authority.server("kube-apiserver", components.SERVER_NAMES),
            token_private=private,
            token_public=public,
            controllers_kubeconfig=self.kubeconfig("system:kube-controller-manager", ("system:masters",)),
            controllers_pair=self._authority.server("kube-controller-manager", (HOST, "localhost")),
            recording=self._recording,
        )

    @property
    def _recording(self) -> Recording | None:
        policy = self.directory / AUDIT_POLICY
        return Recording(policy=policy, log=self.directory / REQUESTS) if policy.exists() else None

    def _writer(self) -> Writer:
        return Writer(directory=self.directory, server=self.url, authority=self._authority.certificate)

    @property
    def _ports_file(self) -> Path:
        return self.directory / "ports.json"

    def ports(self) -> Ports:
        """Picked at the first call, kept ever after: kubeconfigs and a restarted API server depend on it."""
        if not self._ports_file.exists():
            etcd, peer, api, controllers = _free_ports(4)
            ports = Ports(etcd=etcd, etcd_peer=peer, api=api, controllers=controllers)
            write_private(self._ports_file, json.dumps(asdict(ports)).encode())
        return Ports(**json.loads(self._ports_file.read_text()))

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        with (self.directory / "lock").open("w") as file:
            while not _try_lock(file.fileno()):  # noqa: ASYNC110 - the other holder is another process
                # A file lock cannot be awaited, and a thread that waits for one cannot be cancelled.
                await asyncio.sleep(POLL)
            yield


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    """That many different ports nobody listens on, held together until the last is found."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind((HOST, random.choice(BELOW_EPHEMERAL)))  # noqa: S311 - not a secret
            except OSError:
                continue
            found.append(candidate.getsockname()[1])
    return found


async def _says_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
