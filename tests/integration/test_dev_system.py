"""`agentmetal dev`: one command brings all of it, brings back what ended, and another takes all of it away."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from tests.support.devsystem import Dev, instance, new_name

from agentmetal.core.machine import ServerState

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines]


async def status(dev: Dev) -> dict[str, dict[str, object]]:
    answer = await dev.agentmetal("dev", "status", "--output=json")
    assert answer.code == 0, answer.complaint
    found: dict[str, dict[str, object]] = json.loads(answer.output)
    return found


async def test_it_is_up_with_a_machine_that_is_ready(dev_system: Dev) -> None:
    now = await status(dev_system)
    assert now["operator"]["ready"] is True
    assert str(now["controlPlane"]["url"]).startswith("https://127.0.0.1:")
    assert set(now["kubeconfigs"]) == {"admin", "editor", "approver", "operator"}
    listed = await dev_system.agentmetal("dev", "machine", "list", "--output=json")
    assert {m["name"]: m["state"] for m in json.loads(listed.output)}["machine-1"] == "Running"
    assert (await dev_system.get("instance", "machine-1"))["status"]["phase"] == "Running"


async def test_everybody_is_who_the_kubeconfig_says(dev_system: Dev) -> None:
    for user, name in {
        "editor": "editor",
        "approver": "approver",
        "operator": "system:serviceaccount:agentmetal-system:agentmetal-operator",
    }.items():
        assert f"Username: {name}" in " ".join((await dev_system.kubectl("auth", "whoami", as_=user)).split()).replace(
            "Username ", "Username: "
        )


async def test_an_editor_may_not_approve_and_an_approver_may(dev_system: Dev) -> None:
    question = ("auth", "can-i", "approve", "instances.agentmetal.io")
    assert (await dev_system.ask_kubectl(*question, as_="editor")).output.strip() == "no"
    assert (await dev_system.ask_kubectl(*question, as_="approver")).output.strip() == "yes"


async def test_up_again_starts_nothing_that_runs(dev_system: Dev) -> None:
    before = await status(dev_system)
    again = await dev_system.agentmetal("dev", "up", "--machines=1")
    assert again.code == 0, again.complaint
    after = await status(dev_system)
    assert before == after


async def test_up_starts_an_operator_that_was_killed(dev_system: Dev) -> None:
    before = (await status(dev_system))["operator"]["pid"]
    await dev_system.kill_operator()
    assert (await status(dev_system))["operator"]["pid"] is None
    assert (await dev_system.agentmetal("dev", "up")).code == 0
    after = (await status(dev_system))["operator"]
    assert after["ready"] is True
    assert after["pid"] != before


async def test_a_stranger_with_the_recorded_pid_is_not_touched(dev_system: Dev) -> None:
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    pid_file = dev_system.system.directory / "operator.pid"
    recorded = pid_file.read_text()
    try:
        pid_file.write_text(json.dumps({**json.loads(recorded), "pid": stranger.pid}))
        assert dev_system.system.operator.pid() is None
        await dev_system.kill_operator()
        assert stranger.returncode is None
        os.kill(stranger.pid, 0)
    finally:
        pid_file.write_text(recorded)
        stranger.send_signal(signal.SIGKILL)
        await stranger.wait()


async def test_faults_are_named_by_instance(dev_system: Dev) -> None:
    name = new_name()
    await dev_system.kubectl("apply", "-f", "-", input=instance(name))
    await dev_system.kubectl("wait", "--for=condition=Ready", "--timeout=50s", f"instance/{name}")
    answer = await dev_system.agentmetal("dev", "machine", "kill", f"default/{name}")
    assert answer.code == 0, answer.complaint
    server = await dev_system.server(name)
    assert (await dev_system.fleet.machine(server)).state is ServerState.STOPPED
    assert (await dev_system.agentmetal("dev", "machine", "start", server)).code == 0


async def test_a_machine_s_faults_are_listed(dev_system: Dev) -> None:
    name = new_name()
    await dev_system.kubectl("apply", "-f", "-", input=instance(name))
    await dev_system.kubectl("wait", "--for=condition=Ready", "--timeout=50s", f"instance/{name}")
    try:
        for fault in ("freeze", "cut"):
            assert (await dev_system.agentmetal("dev", "machine", fault, name)).code == 0
        listed = (await dev_system.agentmetal("dev", "machine", "list")).output.splitlines()
        assert any(line.startswith(name) and "Running (frozen, cable pulled)" in line for line in listed)
    finally:
        for cure in ("heal", "thaw"):
            assert (await dev_system.agentmetal("dev", "machine", cure, name)).code == 0


async def test_an_unknown_machine_is_refused_with_the_known_ones(dev_system: Dev) -> None:
    answer = await dev_system.agentmetal("dev", "machine", "kill", "nobody")
    assert answer.code == 1
    assert "machine 'nobody' does not exist" in answer.complaint
    assert "default/machine-1" in answer.complaint
    assert "Traceback" not in answer.complaint
