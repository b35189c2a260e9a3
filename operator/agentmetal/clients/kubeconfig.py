"""How to reach an API server: a kubeconfig file, or the service account of our pod. Called by app, cli and dev.

Understands certificates (files or inline), bearer tokens and token files. Refuses what would weaken TLS or run a
program (`insecure-skip-tls-verify`, `exec`), and never falls back to the user's current cluster by itself.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agentmetal.core.errors import Invalid, NotFound

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An API server and who we are to it."""

    server: str
    """`https://host:port`, without a trailing slash."""
    tls: ssl.SSLContext = field(repr=False)
    namespace: str = "default"
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    """Read again now and then: the kubelet rotates it."""


def from_file(path: Path, *, context: str = "") -> Connection:
    """A context (else the current one) of a kubeconfig file."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise NotFound(f"kubeconfig {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Invalid(f"kubeconfig {str(path)!r} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise Invalid(f"kubeconfig {str(path)!r} is not a mapping: pass the file that `kubectl config view` shows")
    chosen = _named(path, document, "context", context or str(document.get("current-context", "")))
    cluster = _named(path, document, "cluster", str(chosen.get("cluster", "")))
    user = _named(path, document, "user", str(chosen.get("user", "")))
    token_file = _beside(path, user.get("tokenFile"))
    return Connection(
        server=str(cluster.get("server", "")).rstrip("/"),
        tls=_tls(path, cluster, user),
        namespace=str(chosen.get("namespace") or "default"),
        token=str(user.get("token", "")),
        token_file=token_file,
    )


def in_cluster(directory: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ) -> Connection:
    """The service account that Kubernetes mounts into our pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (directory / "token").exists():
        raise NotFound("this is not a pod of a Kubernetes cluster: name a cluster by --kubeconfig")
    return Connection(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        tls=ssl.create_default_context(cafile=str(directory / "ca.crt")),
        namespace=(directory / "namespace").read_text().strip(),
        token_file=directory / "token",
    )


def _named(path: Path, document: Mapping[str, Any], what: str, name: str) -> Mapping[str, Any]:
    """The entry of `contexts`, `clusters` or `users` with that name."""
    listed = document.get(f"{what}s")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    found = next((entry.get(what) or {} for entry in entries if entry.get("name") == name), None)
    if found is None:
        raise Invalid(f"kubeconfig {str(path)!r} has no {what} named {name!r}")
    if not isinstance(found, dict):
        raise Invalid(f"{what} {name!r} of kubeconfig {str(path)!r} is not a mapping")
    return found


def _tls(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    if cluster.get("insecure-skip-tls-verify"):
        raise Invalid(f"kubeconfig {str(path)!r} skips TLS verification: set certificate-authority instead")
    if not str(cluster.get("server", "")).startswith("https://"):
        raise Invalid(f"kubeconfig {str(path)!r}: server {cluster.get('server')!r} must begin with https://")
    if "exec" in user or "auth-provider" in user or "username" in user:
        raise Invalid(
            f"kubeconfig {str(path)!r} asks a program or a password for credentials: use a certificate, a token or a"
            " tokenFile (kubectl create token)"
        )
    authority = _material(path, cluster, "certificate-authority")
    try:
        context = ssl.create_default_context(cadata=authority.decode() if authority else None)
        certificate, key = _material(path, user, "client-certificate"), _material(path, user, "client-key")
        if certificate and key:
            _load_chain(context, certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise Invalid(f"kubeconfig {str(path)!r} holds an unusable certificate or key: {error}") from error
    return context


def _load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Only files can be loaded by the ssl module: one that nobody else may read, for a moment."""
    with tempfile.TemporaryDirectory(prefix="agentmetal-") as directory:
        chain = Path(directory, "chain.pem")
        chain.touch(mode=0o600)
        chain.write_bytes(certificate + b"\n" + key)
        context.load_cert_chain(chain)


def _material(path: Path, section: Mapping[str, Any], name: str) -> bytes:
    """PEM data of `<name>-data` (inline) or of the file `<name>`; empty when there is neither."""
    inline = section.get(f"{name}-data")
    if inline:
        try:
            return base64.b64decode(inline, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise Invalid(f"{name}-data of kubeconfig {str(path)!r} is not base64") from error
    file = _beside(path, section.get(name))
    try:
        return file.read_bytes() if file else b""
    except OSError as error:
        raise NotFound(f"{name} {str(file)!r} of kubeconfig {str(path)!r} cannot be read: {error.strerror}") from error


def _beside(path: Path, name: object) -> Path | None:
    """A path of a kubeconfig: relative ones are relative to it."""
    return path.parent / str(name) if name else None
