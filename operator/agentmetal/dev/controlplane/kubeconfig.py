"""Kubeconfig files: who speaks to the development control plane. Written by `plane`, read by kubectl and our clients.

The namespace is `default`. Certificates are named by absolute path, as Python's TLS wants files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from agentmetal.dev.controlplane.certificates import write_private


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes kubeconfigs for one server into one directory."""

    directory: Path
    server: str
    authority: Path

    def with_certificate(self, name: str, pair: Path) -> Path:
        """For a user known by a client certificate; `pair` holds certificate and key."""
        return self._write(name, {"client-certificate": str(pair), "client-key": str(pair)})

    def with_token(self, name: str, token: str) -> Path:
        """For a user known by a bearer token."""
        return self._write(name, {"token": token})

    def _write(self, name: str, user: Mapping[str, str]) -> Path:
        path = self.directory / f"{name.rpartition(':')[2]}.kubeconfig"
        cluster = {"server": self.server, "certificate-authority": str(self.authority)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "agentmetal-dev", "cluster": cluster}],
            "users": [{"name": name, "user": dict(user)}],
            "contexts": [
                {"name": name, "context": {"cluster": "agentmetal-dev", "user": name, "namespace": "default"}},
            ],
            "current-context": name,
        }
        write_private(path, yaml.safe_dump(document, sort_keys=False).encode())
        return path
