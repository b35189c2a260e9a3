"""The three programs' command lines, as pure functions of where things are. Used by `plane`; starts nothing.

What the flags do, beyond TLS on loopback: etcd does not wait for the disk (a power cut may lose seconds, kill -9 loses
nothing), the API server leaves out the admission plugins that need nodes and pods, and the controller manager runs
only what an API without nodes needs: garbage collection, namespaces, and aggregated roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentmetal.dev.controlplane.binaries import Binaries

HOST = "127.0.0.1"
SERVICE_RANGE = "10.0.0.0/24"
SERVER_NAMES = (
    HOST,
    "10.0.0.1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
UNUSED_ADMISSION = (
    "ServiceAccount",
    "DefaultStorageClass",
    "StorageObjectInUseProtection",
    "TaintNodesByCondition",
    "Priority",
    "RuntimeClass",
    "PersistentVolumeClaimResize",
    "ResourceQuota",
    "LimitRanger",
)
CONTROLLERS = ("garbage-collector-controller", "namespace-controller", "clusterrole-aggregation-controller")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """One loopback port for each listener; picked once, then kept."""

    etcd: int
    etcd_peer: int
    api: int
    controllers: int


@dataclass(frozen=True, kw_only=True)
class Files:
    """What the programs read: certificates and keys, and the directories of their own."""

    etcd_data: Path
    etcd_authority: Path
    etcd_pair: Path
    etcd_client: Path
    authority: Path
    api_pair: Path
    token_private: Path
    token_public: Path
    controllers_kubeconfig: Path
    controllers_pair: Path
    recording: Recording | None = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Which requests the API server writes down (an audit policy), and where: one JSON object a line."""

    policy: Path
    log: Path


def environment(name: str) -> Mapping[str, str]:
    """Nothing of the caller's (no proxy, no trace setting); GOGC: 18 % less CPU of the API server for more memory."""
    return {"GOGC": "400"} if name == "kube-apiserver" else {"GOGC": "100"}


def etcd(binaries: Binaries, ports: Ports, files: Files) -> tuple[str, ...]:
    """etcd asks its clients for a certificate of an authority of its own: the cluster's users cannot pass it by."""
    client, peer = f"https://{HOST}:{ports.etcd}", f"https://{HOST}:{ports.etcd_peer}"
    return (
        str(binaries.etcd),
        "--name=dev",
        f"--data-dir={files.etcd_data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=dev={peer}",
        f"--cert-file={files.etcd_pair}",
        f"--key-file={files.etcd_pair}",
        f"--trusted-ca-file={files.etcd_authority}",
        "--client-cert-auth",
        f"--peer-cert-file={files.etcd_pair}",
        f"--peer-key-file={files.etcd_pair}",
        f"--peer-trusted-ca-file={files.etcd_authority}",
        "--peer-client-cert-auth",
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--quota-backend-bytes=4294967296",
    )


def kube_apiserver(binaries: Binaries, ports: Ports, files: Files) -> tuple[str, ...]:
    """RBAC, client certificates and ServiceAccount tokens; no anonymous tokens, no static ones."""
    return (
        str(binaries.kube_apiserver),
        f"--etcd-servers=https://{HOST}:{ports.etcd}",
        f"--etcd-cafile={files.etcd_authority}",
        f"--etcd-certfile={files.etcd_client}",
        f"--etcd-keyfile={files.etcd_client}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={ports.api}",
        f"--tls-cert-file={files.api_pair}",
        f"--tls-private-key-file={files.api_pair}",
        f"--client-ca-file={files.authority}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={files.token_public}",
        f"--service-account-signing-key-file={files.token_private}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=RBAC",
        "--endpoint-reconciler-type=none",
        f"--disable-admission-plugins={','.join(UNUSED_ADMISSION)}",
        *_recorded(files.recording),
    )


def _recorded(recording: Recording | None) -> tuple[str, ...]:
    return () if recording is None else (f"--audit-policy-file={recording.policy}", f"--audit-log-path={recording.log}")


def kube_controller_manager(binaries: Binaries, ports: Ports, files: Files) -> tuple[str, ...]:
    """Its user is in system:masters: with its usual roles alone, namespaces would stay Terminating for ever."""
    return (
        str(binaries.kube_controller_manager),
        f"--kubeconfig={files.controllers_kubeconfig}",
        f"--controllers={','.join(CONTROLLERS)}",
        "--leader-elect=false",
        f"--bind-address={HOST}",
        f"--secure-port={ports.controllers}",
        "--authorization-always-allow-paths=/healthz,/readyz,/livez,/metrics",
        f"--tls-cert-file={files.controllers_pair}",
        f"--tls-private-key-file={files.controllers_pair}",
    )
