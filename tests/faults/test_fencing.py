"""A leader hangs between its check and its command, or cannot reach the API server any more: it does nothing late.

The bytes of its command are held on their way to the host, another process leads meanwhile and does the work, and then
they arrive. The host itself writes down what was asked of it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from tests.support.devsystem import Dev
from tests.support.faults import ENDS_WITHIN, Story, holder, inside, operator
from tests.support.rack import RAN, plain_hosts, rack_of, record
from tests.support.relay import relay
from tests.support.replicas import ENVIRONMENT

from agentmetal.cli.operator import LOST_LEADERSHIP
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.operation import Operation, moment
from agentmetal.dev.hosts import PlainHost

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.long, pytest.mark.needs_machines, pytest.mark.timeout(600)]

STARTS = "/root/starts"
TELLING_FLOCK = f"""#!/bin/sh
# The wrapper takes its lock with this: write down with which arguments it was called, and take it.
tr '\\0' ' ' </proc/$PPID/cmdline | cut -c1-160 >>{STARTS}
exec /usr/bin/flock "$@"
"""
LONG = 20_000
"""Bytes of an argument, so that the request to start this command is known by its size, encrypted as it is."""
COMMAND = ("sh", "-c", f"echo did >>{RAN}", "x" * LONG)


async def told_starts(host: PlainHost) -> list[str]:
    """Epoch and unit of every start that the host was asked for, in order."""
    machine = await host.fleet.machine(host.name)
    lines = inside(machine, "sh", "-c", f"cat {STARTS} 2>/dev/null || true").splitlines()
    words = [line.split() for line in lines]
    return [" ".join(w[w.index("start") + 1 : w.index("start") + 3]) for w in words if "start" in w]


async def units_kept(host: PlainHost) -> str:
    """What the host still remembers of units."""
    machine = await host.fleet.machine(host.name)
    return inside(machine, "sh", "-c", "ls -A /var/lib/agentmetal/*/units")


async def test_a_command_that_arrives_after_a_newer_leader_acted_is_refused_on_the_host(
    dev_system: Dev, api: KubernetesClient, story: Story, tmp_path: Path, store_url: str
) -> None:
    environment = {**ENVIRONMENT, "AGENTMETAL_STORE_URL": store_url}
    await dev_system.system.operator.stop()
    async with (
        plain_hosts(tmp_path / "hosts", 1) as (host,),
        relay(host.port) as line,
        operator(dev_system, tmp_path / "old.db", environment=environment) as old,
    ):
        async with host.as_administrator() as ssh:
            await ssh.write_file("/usr/local/sbin/flock", TELLING_FLOCK.encode(), mode=0o755)
        await old.ready()
        rack = await rack_of(dev_system, api, [dataclasses.replace(host, port=line.port)])
        line.hold_from(LONG)
        await rack.take(story.name, host, [COMMAND])
        async with asyncio.timeout(90):
            held = await line.held
        old.signal(signal.SIGSTOP)
        begun = await story.at_step("apply_user_data")
        assert (await record(host)).ran == ()
        assert await told_starts(host) == []

        async with operator(dev_system, tmp_path / "new.db", environment=environment) as new:
            await new.ready()
            await story.ready()
            async with asyncio.timeout(30):
                while await units_kept(host):  # noqa: ASYNC110 - the host forgets what is over, and tells nobody
                    await asyncio.sleep(0.1)
            done = await record(host)
            assert done.ran == ("did",)

            newer = await told_starts(host)
            line.release(held)
            async with asyncio.timeout(30):
                while (told := await told_starts(host)) == newer:  # noqa: ASYNC110 - the host writes it down
                    await asyncio.sleep(0.1)
                await held.answered.wait()
            (late,) = told[len(newer) :]
            assert int(late.split()[0]) < min(int(start.split()[0]) for start in newer)
            assert {start.split()[1] for start in told} == {f"{begun.metadata.name}-{len(begun.spec.steps)}-1001"}
            assert await record(host) == done

            old.signal(signal.SIGCONT)
            assert await old.ended() == LOST_LEADERSHIP
            assert await record(host) == done


async def test_a_leader_that_is_cut_off_begins_no_step_and_ends(
    dev_system: Dev, api: KubernetesClient, story: Story, tmp_path: Path, store_url: str
) -> None:
    """Nothing is refused and nothing answered, as behind a switch that died. Its hosts can be reached all the time."""
    environment = {**ENVIRONMENT, "AGENTMETAL_STORE_URL": store_url}
    await dev_system.system.operator.stop()
    kubeconfig = yaml.safe_load(dev_system.kubeconfig("operator").read_text())
    cluster = kubeconfig["clusters"][0]["cluster"]
    async with plain_hosts(tmp_path / "hosts", 1) as (host,), relay(int(cluster["server"].rpartition(":")[2])) as line:
        cluster["server"] = f"https://127.0.0.1:{line.port}"
        own = tmp_path / "cut.kubeconfig"
        own.write_text(yaml.safe_dump(kubeconfig))
        async with operator(dev_system, tmp_path / "cut.db", environment=environment, kubeconfig=own) as process:
            await process.ready()
            rack = await rack_of(dev_system, api, [host])
            slow = [("sh", "-c", f"echo {number} >>{RAN}; sleep 2") for number in (1, 2, 3, 4, 5)]
            await rack.take(story.name, host, slow)
            await story.at_step("apply_user_data")
            line.hang()
            cut = datetime.now(UTC)
            assert await process.ended() == LOST_LEADERSHIP
            lasted = (datetime.now(UTC) - cut).total_seconds()
            left_behind = await record(host)
        assert await holder(api) != ""  # it could not give it up
        await asyncio.sleep(5.0)
        assert await record(host) == left_behind
        assert lasted < ENDS_WITHIN
        async with operator(dev_system, tmp_path / "next.db", environment=environment) as following:
            await following.ready()
            await story.ready()
        assert (await record(host)).ran == ("1", "2", "3", "4", "5")
        (first,) = [op for op in await story.operations() if op.spec.number == 1]
        assert begun_between(first, cut, lasted) == []


def begun_between(operation: Operation, cut: datetime, seconds: float) -> list[str]:
    """Steps whose beginning falls into the time in which nobody could lead."""
    times = [
        (step.tool, moment(status.started_at))
        for step, status in zip(operation.spec.steps, operation.status.steps, strict=True)
    ]
    return [tool for tool, at in times if at and cut < at and (at - cut).total_seconds() < seconds]
