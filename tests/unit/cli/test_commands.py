"""Commands that need no cluster, and how commands fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentmetal.agents import AGENTS
from agentmetal.cli import main
from agentmetal.cli.dev import chosen
from agentmetal.core.errors import Invalid, NotFound
from agentmetal.core.machine import ServerState
from agentmetal.providers.nspawn.fleet import Machine
from agentmetal.providers.nspawn.record import Record

runner = CliRunner()


def machine(namespace: str, instance: str, uid: str = "u1") -> Machine:
    record = Record(
        id=f"id-{uid}",
        name=f"{instance}-{uid}",
        owner=f"cluster/{namespace}/{uid}",
        type="small",
        image="bookworm",
        hostname=instance,
        number=11,
        powered=True,
        created_at="2026-01-01T00:00:00+00:00",
    )
    return Machine(record=record, state=ServerState.RUNNING, pid=1)


def test_every_tool_is_listed_with_its_risks() -> None:
    found = json.loads(runner.invoke(main.app, ["tools", "--output=json"]).output)
    assert [tool["name"] for tool in found] == [tool.name for agent in AGENTS for tool in agent.tools()]
    assert all(tool["risks"] and tool["risks"][0]["reason"] for tool in found)


def test_stale_crds_are_named_and_written_only_when_asked_for(tmp_path: Path) -> None:
    looked = runner.invoke(main.app, ["crds", f"--directory={tmp_path}"])
    assert looked.exit_code == 1
    assert "crds/instances.yaml" in looked.stderr
    assert not list(tmp_path.iterdir())
    assert runner.invoke(main.app, ["crds", "--write", f"--directory={tmp_path}"]).exit_code == 0
    assert runner.invoke(main.app, ["crds", f"--directory={tmp_path}"]).exit_code == 0


def test_a_missing_trail_is_a_sentence(tmp_path: Path) -> None:
    result = runner.invoke(main.app, ["audit", "list", f"--store={tmp_path / 'audit.db'}"])
    assert isinstance(result.exception, NotFound)
    assert "name it by --store" in result.exception.message


def test_a_machine_is_named_by_instance_namespace_or_server() -> None:
    fleet = (machine("shop", "web", "u1"), machine("blog", "db", "u2"))
    assert chosen("web", fleet) == chosen("shop/web", fleet) == chosen("web-u1", fleet) == "web-u1"


def test_an_ambiguous_machine_is_refused_with_the_choices() -> None:
    fleet = (machine("shop", "web", "u1"), machine("blog", "web", "u2"))
    with pytest.raises(Invalid, match=r"one of several: shop/web \(web-u1\), blog/web \(web-u2\)"):
        chosen("web", fleet)
    assert chosen("blog/web", fleet) == "web-u2"


def test_an_unknown_machine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match="there are shop/web"):
        chosen("db", (machine("shop", "web"),))


def test_a_reboot_is_asked_for_by_a_time_with_its_zone() -> None:
    result = runner.invoke(main.app, ["reboot", "web", "--at=tomorrow"])
    assert isinstance(result.exception, Invalid)
    assert "2026-01-31T03:00:00Z" in result.exception.message


def test_a_host_key_is_named_by_its_fingerprint() -> None:
    result = runner.invoke(main.app, ["repin", "web", "ssh-ed25519 AAAA"])
    assert isinstance(result.exception, Invalid)
    assert "condition HostKeyMismatch" in result.exception.message
