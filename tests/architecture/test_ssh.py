"""Claims about how connections to hosts are made: in one place, and never to an unknown host."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKERS = {"connect", "connect_reverse", "create_connection", "run_client", "SSHClientConnection", "scp"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in what we ship."""
    for source in (ROOT / "operator", ROOT / "tools"):
        for path in sorted(source.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield str(path.relative_to(ROOT)), node


def makes_a_connection(call: ast.Call) -> bool:
    name = call.func
    return isinstance(name, ast.Attribute) and ast.unparse(name.value) == "asyncssh" and name.attr in MAKERS


def test_ssh_connections_are_made_in_one_place() -> None:
    assert [path for path, call in calls() if makes_a_connection(call)] == [
        "operator/agentmetal/clients/ssh/connection.py"
    ]


def test_no_connection_is_made_to_an_unknown_host_or_by_the_operators_own_account() -> None:
    (call,) = (call for _, call in calls() if makes_a_connection(call))
    said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}

    assert said["known_hosts"] == "([pin], [], [])"
    assert said["client_keys"] == "[client_key]"
    assert {name for name, value in said.items() if value == "None"} == {"x509_trusted_certs", "config", "agent_path"}
    assert {name for name, value in said.items() if value == "False"} >= {
        *("agent_forwarding", "password_auth", "kbdint_auth", "host_based_auth", "gss_auth", "gss_kex"),
    }


def test_known_hosts_is_never_none() -> None:
    assert [path for path, call in calls() if any(_is_blind(keyword) for keyword in call.keywords)] == []


def _is_blind(keyword: ast.keyword) -> bool:
    return keyword.arg == "known_hosts" and isinstance(keyword.value, ast.Constant) and keyword.value.value is None
