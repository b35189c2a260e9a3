"""The command line on a real system: what people see, and what their decisions do."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.support.devsystem import Dev, instance, new_name

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines]


@pytest.fixture
async def rebuild(dev_system: Dev) -> str:
    """An Instance whose new image waits for approval."""
    name = new_name()
    await dev_system.kubectl("apply", "-f", "-", input=instance(name))
    await dev_system.kubectl("wait", "--for=condition=Ready", "--timeout=50s", f"instance/{name}")
    await dev_system.kubectl("apply", "-f", "-", input=instance(name, image="bookworm-tools"))
    await dev_system.kubectl("wait", "--for=condition=AwaitingApproval", "--timeout=30s", f"instance/{name}")
    return name


async def test_the_plan_is_shown_with_risk_steps_and_the_line_that_approves_it(dev_system: Dev, rebuild: str) -> None:
    shown = await dev_system.agentmetal("plan", "inst", rebuild)
    digest = (await dev_system.get("instance", rebuild))["status"]["plan"]["digest"]
    assert "Dangerous plan" in shown.output
    assert "rebuild_instance" in shown.output
    assert f"kubectl annotate --overwrite instance {rebuild} -n default agentmetal.io/approve={digest}" in shown.output


async def test_an_editor_s_approval_is_refused_and_an_approver_s_runs_the_plan(dev_system: Dev, rebuild: str) -> None:
    refused = await dev_system.agentmetal("approve", f"instance/{rebuild}", "--yes", as_="editor")
    assert refused.code == 1
    assert 'the verb "approve" is missing' in refused.complaint
    approved = await dev_system.agentmetal("approve", "instance", rebuild, "--yes", as_="approver")
    assert approved.code == 0, approved.complaint
    assert approved.output.rstrip().endswith("by approver")
    await dev_system.kubectl(
        "wait", "--for=jsonpath={.status.image}=bookworm-tools", "--timeout=50s", f"instance/{rebuild}"
    )
    await dev_system.kubectl("wait", "--for=condition=Ready", "--timeout=50s", f"instance/{rebuild}")
    listed = await dev_system.agentmetal("operations", "inst", rebuild, "--output=json")
    assert [(op["phase"], op["risk"]) for op in json.loads(listed.output)] == [
        ("Succeeded", "Moderate"),
        ("Succeeded", "Dangerous"),
    ]


async def test_without_a_terminal_nothing_is_decided(dev_system: Dev, rebuild: str) -> None:
    answer = await dev_system.agentmetal("approve", "inst", rebuild, as_="approver")
    assert answer.code == 1
    assert "nothing was decided: use --yes" in answer.complaint
    assert "kubectl annotate" not in answer.output


async def test_an_approval_of_another_digest_is_not_written(dev_system: Dev, rebuild: str) -> None:
    answer = await dev_system.agentmetal("approve", "inst", rebuild, "--yes", "--digest=sha256:dead", as_="approver")
    assert answer.code == 1
    assert "look at that one first" in answer.complaint
    annotations = (await dev_system.get("instance", rebuild))["metadata"].get("annotations", {})
    assert "agentmetal.io/approve" not in annotations


async def test_a_rejection_is_explained_with_its_author(dev_system: Dev, rebuild: str) -> None:
    answer = await dev_system.agentmetal("reject", "inst", rebuild, "--yes", "--reason=not today", as_="approver")
    assert answer.code == 0, answer.complaint
    await dev_system.kubectl("wait", "--for=condition=Drifted", "--timeout=30s", f"instance/{rebuild}")
    told = (await dev_system.agentmetal("explain", "inst", rebuild)).output
    assert "rejected by approver" in told
    assert "nothing, although there is a plan" in told
    assert "agentmetal.io/replan=$(date +%s)" in told


async def test_nothing_can_be_approved_when_nothing_waits(dev_system: Dev) -> None:
    answer = await dev_system.agentmetal("approve", "inst", "machine-1", "--yes", as_="approver")
    assert answer.code == 1
    assert "has no plan that waits" in answer.complaint


async def test_a_file_is_planned_and_nothing_is_created(dev_system: Dev) -> None:
    name = new_name()
    before = len(await dev_system.fleet.machines())
    answer = await dev_system.agentmetal("plan", "-f", "/dev/stdin", input=instance(name))
    assert answer.code == 0, answer.complaint
    assert "Moderate plan, if it were applied now" in answer.output
    assert "provision_instance" in answer.output
    assert (await dev_system.ask_kubectl("get", "instance", name)).code == 1
    assert len(await dev_system.fleet.machines()) == before


async def test_a_file_with_an_unknown_image_would_wait(dev_system: Dev) -> None:
    answer = await dev_system.agentmetal("plan", "-f", "/dev/stdin", input=instance(new_name(), image="amiga"))
    assert "would wait" in answer.output
    assert "bookworm" in answer.output


async def test_pause_and_resume_are_seen(dev_system: Dev) -> None:
    assert (await dev_system.agentmetal("pause", "inst/machine-1")).code == 0
    await dev_system.kubectl("wait", "--for=condition=Paused", "--timeout=30s", "instance/machine-1")
    assert (await dev_system.agentmetal("resume", "inst/machine-1")).code == 0
    await dev_system.kubectl("wait", "--for=condition=Paused=false", "--timeout=30s", "instance/machine-1")


async def test_a_reboot_is_asked_for_by_an_annotation(dev_system: Dev) -> None:
    answer = await dev_system.agentmetal("reboot", "machine-1", "--at=2001-02-03T04:05:06+01:00")
    assert answer.code == 0, answer.complaint
    told = await dev_system.kubectl("get", "instance/machine-1", "-o", "jsonpath={.metadata.annotations}")
    assert json.loads(told)["agentmetal.io/reboot-at"] == "2001-02-03T03:05:06Z"


async def test_a_host_key_that_is_not_in_doubt_cannot_be_repinned(dev_system: Dev) -> None:
    answer = await dev_system.agentmetal("repin", "machine-1", f"SHA256:{'A' * 43}")
    assert answer.code == 1
    assert "there is nothing to decide" in answer.complaint


async def test_the_audit_is_whole_while_the_operator_runs(dev_system: Dev) -> None:
    answer = await dev_system.agentmetal("audit", "verify")
    assert answer.code == 0, answer.complaint
    assert answer.output.startswith("whole: ")
    listed = json.loads((await dev_system.agentmetal("audit", "list", "--output=json")).output)
    shown = await dev_system.agentmetal("audit", "show", str(listed[-1]["sequence"]))
    assert json.loads(shown.output)["hash"] == listed[-1]["hash"]


async def test_a_changed_record_is_named(dev_system: Dev, tmp_path: Path) -> None:
    copy = _copied_trail(dev_system, tmp_path)
    with sqlite3.connect(copy) as connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("UPDATE audit SET entry = replace(entry, 'operator', 'nobody') WHERE sequence = 3")
    connection.close()
    answer = await dev_system.agentmetal("audit", "verify", f"--store={copy}")
    assert answer.code == 1
    assert "broken at record 3" in answer.complaint


async def test_a_cut_off_end_is_noticed_by_the_operations(dev_system: Dev, tmp_path: Path) -> None:
    copy = _copied_trail(dev_system, tmp_path)
    with sqlite3.connect(copy) as connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("DELETE FROM audit WHERE sequence > 2")
    connection.close()
    answer = await dev_system.agentmetal("audit", "verify", f"--store={copy}")
    assert answer.code == 1
    assert "newest records are missing" in answer.complaint


async def test_the_committed_crds_are_fresh(dev_system: Dev) -> None:
    assert (await dev_system.agentmetal("crds")).code == 0


def _copied_trail(dev: Dev, directory: Path) -> Path:
    """A copy with what is still in the write-ahead log."""
    for name in ("audit.db", "audit.db-wal"):
        if (dev.system.directory / name).exists():
            shutil.copy(dev.system.directory / name, directory / name)
    return directory / "audit.db"
