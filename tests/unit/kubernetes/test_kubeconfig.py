"""Kubeconfig files and service accounts, as they come and as they must not."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentmetal.clients.kubeconfig import from_file, in_cluster
from agentmetal.core.errors import AgentMetalError, Invalid, NotFound
from agentmetal.dev.controlplane.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path, "ca")
    made.prepare()
    return made


def _written(directory: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    document = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


def test_certificates_are_files_or_inline(tmp_path: Path, authority: Authority) -> None:
    pair = authority.client("erin", ())
    files = _written(
        tmp_path, {"certificate-authority": "ca.crt"}, {"client-certificate": str(pair), "client-key": str(pair)}
    )
    (tmp_path / "ca.crt").write_bytes(authority.certificate.read_bytes())
    assert from_file(files).server == "https://127.0.0.1:6443"
    data = base64.b64encode(pair.read_bytes()).decode()
    inline = _written(
        tmp_path,
        {"certificate-authority-data": base64.b64encode(authority.certificate.read_bytes()).decode()},
        {"client-certificate-data": data, "client-key-data": data},
    )
    connection = from_file(inline)
    assert connection.namespace == "team"
    assert len(connection.tls.get_ca_certs()) == 1


def test_tokens_are_inline_or_in_a_file_and_never_printed(tmp_path: Path) -> None:
    connection = from_file(_written(tmp_path, {}, {"token": "hush"}))
    assert connection.token == "hush"
    assert "hush" not in repr(connection)
    assert from_file(_written(tmp_path, {}, {"tokenFile": "token"})).token_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("cluster", "user", "says"),
    [
        ({"insecure-skip-tls-verify": True}, {}, "certificate-authority"),
        ({"server": "http://127.0.0.1"}, {}, "https"),
        ({}, {"exec": {"command": "aws"}}, "token"),
        ({}, {"username": "a", "password": "b"}, "token"),
        ({"certificate-authority-data": "%%%"}, {}, "base64"),
        ({"certificate-authority-data": base64.b64encode(b"no pem").decode()}, {}, "unusable"),
        ({"certificate-authority": "absent"}, {}, "absent"),
    ],
)
def test_what_is_weak_or_broken_is_refused_with_advice(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], says: str
) -> None:
    with pytest.raises(AgentMetalError, match=says):
        from_file(_written(tmp_path, cluster, user))


def test_a_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="'other'"):
        from_file(_written(tmp_path, {}, {}), context="other")
    with pytest.raises(NotFound, match="nowhere"):
        from_file(tmp_path / "nowhere")


def test_a_pod_finds_its_service_account(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(NotFound, match="--kubeconfig"):
        in_cluster(tmp_path, {})
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("agentmetal-system\n")
    (tmp_path / "ca.crt").write_bytes(authority.certificate.read_bytes())
    connection = in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert (connection.server, connection.namespace) == ("https://[fd00::1]:443", "agentmetal-system")
    assert connection.token_file == tmp_path / "token"
