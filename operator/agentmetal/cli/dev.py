"""`agentmetal dev …`: the development system and its machines, with the faults that real machines have."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from agentmetal.cli.output import ConsoleReporter, Format, answers, news, print_json, table
from agentmetal.core.errors import Invalid, NotFound
from agentmetal.dev import requirements
from agentmetal.dev.controlplane.build import ensure
from agentmetal.dev.hosts import PlainHosts, provider_of
from agentmetal.dev.report import Reporter
from agentmetal.dev.system import USERS, DevSystem
from agentmetal.providers.nspawn.files import write_atomically
from agentmetal.providers.nspawn.fleet import Fleet, Machine

State = Annotated[
    Path, typer.Option("--state", help="Directory of the development system.", envvar="AGENTMETAL_DEV_STATE")
]
Output = Annotated[Format, typer.Option("--output", "-o", help="text or json")]
STATE = Path(".agentmetal")

dev = typer.Typer(no_args_is_help=True, help="A control plane, the operator and machines on this computer.")
machine = typer.Typer(no_args_is_help=True, help="The machines, their power and their cables.")
dev.add_typer(machine, name="machine")


@dev.command()
def up(
    machines: Annotated[int, typer.Option(min=0, max=64, help="Machines that are ready when it returns.")] = 0,
    state: State = STATE,
) -> None:
    """Start whatever is not running: control plane, operator, machines."""
    reporter = ConsoleReporter(news())
    system = DevSystem(state, ensure(progress=reporter.say))
    asyncio.run(system.up(machines, reporter))
    reporter.say("")
    reporter.say(f"export KUBECONFIG={system.kubeconfig('editor')}   # or approver, admin")
    reporter.say(f"export PATH=$PATH:{system.plane.binaries.directory}   # kubectl of that version")


@dev.command()
def down(state: State = STATE) -> None:
    """Stop all of it and remove machines and data; only logs stay."""
    asyncio.run(DevSystem(state).down(ConsoleReporter(news())))


@dev.command()
def status(state: State = STATE, output: Output = Format.TEXT) -> None:
    """What runs."""
    system = DevSystem(state)
    now = asyncio.run(system.status())
    facts: dict[str, Any] = {
        "operator": {
            "pid": now.operator_pid,
            "ready": now.operator_ready,
            "metricsPort": now.metrics_port,
            "log": str(system.operator.log),
        },
        "controlPlane": {"url": now.url, "pids": dict(now.control_plane_pids)},
        "kubeconfigs": {user: str(system.kubeconfig(user)) for user in USERS if system.kubeconfig(user).exists()},
        "machines": now.machines,
    }
    if output is Format.JSON:
        print_json(facts)
        return
    shown = table("WHAT", "STATE")
    shown.add_row("operator", _running(now.operator_pid, ready=now.operator_ready))
    for name, pid in now.control_plane_pids.items():
        shown.add_row(name, _running(pid, ready=True))
    shown.add_row("API server", now.url or "never started")
    if now.metrics_port:
        shown.add_row("metrics", f"http://127.0.0.1:{now.metrics_port}/metrics")
    shown.add_row("machines", str(now.machines))
    for user, path in facts["kubeconfigs"].items():
        shown.add_row(f"kubeconfig {user}", path)
    answers().print(shown)


@dev.command()
def hosts(
    count: Annotated[int, typer.Option(min=1, max=16, help="How many.")] = 3,
    state: State = STATE,
) -> None:
    """Run machines that are not ours, to try an inventory on: until Ctrl-C, then they are gone."""
    requirements.check()
    system, reporter = DevSystem(state), ConsoleReporter(news())
    names = tuple(f"host-{number}" for number in range(1, count + 1))
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_run_hosts(PlainHosts(directory=system.hosts), names, reporter))


async def _run_hosts(plain: PlainHosts, names: Sequence[str], reporter: Reporter) -> None:
    state = plain.directory.parent
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    key, known, inventory = (state / name for name in ("hosts-administrator", "hosts-known", "hosts.yaml"))
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in a coroutine
    for number in (signal.SIGTERM, signal.SIGHUP):  # a shell's background job does not hear Ctrl-C
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with plain.running(names, reporter) as running:
            write_atomically(key, plain.administrator.private_openssh, mode=0o600)
            write_atomically(known, "".join(f"{host.known_hosts_line}\n" for host in running))
            write_atomically(inventory, yaml.safe_dump(provider_of("rack", running), sort_keys=False, width=1000))
            for host in running:
                login = f"ssh -F none -i {key} -o UserKnownHostsFile={known} -p {host.port} {host.user}@{host.address}"
                answers().print(f"{host.name}: {login}", markup=False, soft_wrap=True)
            answers().print(f"inventory: kubectl apply -f {inventory}", markup=False, soft_wrap=True)
            reporter.say(f"They run until Ctrl-C (in the background: kill {os.getpid()})")
            await asyncio.Event().wait()
    finally:
        for path in (key, known, inventory):
            path.unlink(missing_ok=True)


@machine.command("list")
def list_machines(state: State = STATE, output: Output = Format.TEXT) -> None:
    """The machines of the development system."""
    found = asyncio.run(DevSystem(state).fleet.machines())
    if output is Format.JSON:
        print_json([{**_facts(each), "faults": each.faults} for each in found])
        return
    shown = table("NAME", "NAMESPACE", "SERVER", "ADDRESS", "STATE", "IMAGE")
    for each in found:
        faults = f" ({', '.join(each.faults)})" if each.faults else ""
        shown.add_row(*{**_facts(each), "state": each.state.value + faults}.values())
    answers().print(shown)


Name = Annotated[str, typer.Argument(help="Instance name, namespace/name, or server name.")]


def _command(name: str, help: str, act: Callable[[Fleet, str], Awaitable[None]], done: str) -> None:
    def command(instance: Name, state: State = STATE) -> None:
        async def work() -> str:
            fleet = DevSystem(state).fleet
            server = chosen(instance, await fleet.machines())
            await act(fleet, server)
            return server

        server = asyncio.run(work())
        answers().print(f"{server}: {done}", markup=False)

    machine.command(name, help=help)(command)


_command("kill", "Cut the power.", Fleet.kill, "powered off by force")
_command("start", "Switch on.", Fleet.start, "switched on")
_command("freeze", "Hang: nothing runs inside, connections stay open.", Fleet.freeze, "frozen")
_command("thaw", "Undo freeze.", Fleet.thaw, "runs again")
_command("cut", "Pull the network cable; it stays pulled over reboots.", Fleet.cut, "cable pulled")
_command("heal", "Plug the cable in again.", Fleet.heal, "cable plugged in")
_command("reboot", "Ask it to restart.", Fleet.reboot, "asked to restart")


def chosen(name: str, machines: Sequence[Machine]) -> str:
    """The server that is meant. Raises NotFound, and Invalid when several are."""
    found = [m for m in machines if name in (m.record.name, m.record.hostname, f"{m.namespace}/{m.record.hostname}")]
    if not found:
        known = ", ".join(sorted(f"{m.namespace}/{m.record.hostname}" for m in machines)) or "none"
        raise NotFound(f"machine {name!r} does not exist: there are {known}")
    if len(found) > 1:
        several = ", ".join(f"{m.namespace}/{m.record.hostname} ({m.record.name})" for m in found)
        raise Invalid(f"machine {name!r} is one of several: {several}; say namespace/name or the server's name")
    return found[0].record.name


def _facts(each: Machine) -> dict[str, str]:
    """The hostname is the Instance's name: the Instance agent sees to that."""
    record = each.record
    return {
        "name": record.hostname,
        "namespace": each.namespace,
        "server": record.name,
        "address": record.address,
        "state": each.state.value,
        "image": record.image,
    }


def _running(pid: int | None, *, ready: bool) -> str:
    if pid is None:
        return "not running"
    return f"running, process {pid}" + ("" if ready else ", not ready")
