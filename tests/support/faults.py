"""What fault tests share: one Instance followed from outside, operator processes of the test's own, metrics.

On `tests.support.devsystem`. Every wait is on a watch with a deadline, and says what it saw instead.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import aiohttp
from tests.support.devsystem import Dev, instance
from tests.support.trail import forget_heads

from agentmetal.agents.instance.api import Instance
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.errors import NotFound, OutcomeUnknown, Transient
from agentmetal.core.kubetypes import LEASE
from agentmetal.core.operation import Operation, OperationPhase, StepState
from agentmetal.dev.operator import KEPT_ENVIRONMENT, LEASE_NAME
from agentmetal.dev.watching import Body, client, condition, follow, holds, state_of
from agentmetal.kube.install import NAMESPACE as OPERATORS_NAMESPACE
from agentmetal.providers.nspawn.fleet import Machine

NAMESPACE = "default"
T = TypeVar("T")
SOON = 90.0
"""Seconds for anything that takes a boot, on a busy computer."""
ENDS_WITHIN = 30.0
QUICK_LEASE = {"AGENTMETAL_LEASE_SECONDS": "4", "AGENTMETAL_RENEW_SECONDS": "3", "AGENTMETAL_RETRY_SECONDS": "0.5"}
"""So that nobody waits 15 s for a process that is known to be stopped."""
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


@dataclass(frozen=True)
class Story:
    """One Instance, its Operations and its machines, as somebody outside sees them."""

    dev: Dev
    api: KubernetesClient
    name: str

    async def order(self, **spec: Any) -> None:
        """Create it, as the editor."""
        await self.dev.kubectl("apply", "-f", "-", input=instance(self.name, **spec))

    async def see(self) -> Body:
        """The object as it is."""
        return await self.api.get(Instance.info.type, NAMESPACE, self.name)

    async def until(self, answer: Callable[[Body], bool], what: str, within: float = SOON) -> Body:
        """Wait until the object is so."""
        body: Body | None = None
        try:
            async with asyncio.timeout(within), aclosing(follow(self.api, Instance.info.type, NAMESPACE)) as changes:
                async for objects in changes:
                    body = objects.get(self.name)
                    if body is not None and answer(body):
                        return body
        except TimeoutError:
            pass
        raise AssertionError(f"{self.name} was not {what} within {within:g} s: {state_of(body)}; {await self.told()}")

    async def ready(self, within: float = SOON) -> Body:
        """Wait until it is Ready and nothing is under way."""
        return await self.until(lambda body: holds(body, "Ready") and not holds(body, "Reconciling"), "ready", within)

    async def operations(self) -> list[Operation]:
        """Its operations, oldest first."""
        listing = await self.api.list(Operation.info.type, NAMESPACE)
        return self._mine(listing.items)

    async def operation(self, answer: Callable[[Operation], bool], what: str, within: float = SOON) -> Operation:
        """Wait until one of its operations is so."""
        try:
            async with asyncio.timeout(within), aclosing(follow(self.api, Operation.info.type, NAMESPACE)) as changes:
                async for objects in changes:
                    if found := [op for op in self._mine(list(objects.values())) if answer(op)]:
                        return found[-1]
        except TimeoutError:
            pass
        raise AssertionError(f"no operation of {self.name} was {what} within {within:g} s: {await self.told()}")

    async def at_step(self, tool: str, within: float = SOON) -> Operation:
        """Wait until a step of that tool has its intent written and no end."""
        return await self.operation(lambda op: step_state(op, tool) is StepState.RUNNING, f"at {tool}", within)

    async def machines(self) -> list[Machine]:
        """Everything that was ever switched on for it and still exists."""
        return [found for found in await self.dev.fleet.machines() if found.record.hostname == self.name]

    async def machine(self) -> Machine:
        """Its machine; there must be exactly one."""
        (found,) = await self.machines()
        return found

    async def until_machine(self, answer: Callable[[Machine], bool], what: str, within: float = SOON) -> Machine:
        """Wait until its machine is so."""
        try:
            async with asyncio.timeout(within):
                while not answer(found := await self.machine()):  # noqa: ASYNC110 - a fleet tells nobody
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"the machine of {self.name} was not {what} within {within:g} s") from None
        return found

    async def leave(self) -> None:
        """Delete it, and remove its machine, which it lets go of: a computer carries only so many."""
        machines = await self.machines()
        with suppress(NotFound):  # it was deleted, or a restored etcd lacks the object and not the machine
            retained = {"spec": {"management": {"deletionPolicy": "Retain"}}}
            await patiently(lambda: self.api.patch(Instance.info.type, NAMESPACE, self.name, retained))
            gone = await self.dev.ask_kubectl("delete", "instance", self.name, f"--timeout={SOON:g}s")
            assert gone.code == 0 or not machines, gone.complaint
        await asyncio.gather(*(self.dev.fleet.remove(machine.record.name) for machine in machines))

    async def told(self) -> str:
        """What `agentmetal explain` says."""
        answer = await self.dev.agentmetal("explain", "instance", self.name)
        return answer.output + answer.complaint

    def _mine(self, bodies: Sequence[Body]) -> list[Operation]:
        mine = [body for body in bodies if body["spec"]["resourceRef"]["name"] == self.name]
        return sorted(map(Operation.model_validate, mine), key=lambda op: op.spec.number)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again until there is an answer: an API server that has just come back does not know all its kinds yet."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                return await ask()
            except (Transient, OutcomeUnknown):
                await asyncio.sleep(0.2)


def step_state(operation: Operation, tool: str) -> StepState | None:
    """How the step of that tool stands, in an operation that is open."""
    if operation.phase.closed:
        return None
    pairs = zip(operation.spec.steps, operation.status.steps, strict=True)
    return next((status.state for step, status in pairs if step.tool == tool), None)


def succeeded(operation: Operation) -> bool:
    """Did it come to its good end?"""
    return operation.phase is OperationPhase.SUCCEEDED


def reasons(body: Body) -> set[str]:
    """Why it is as it is: the reasons of Ready and Reconciling."""
    found = (condition(body, type) for type in ("Ready", "Reconciling"))
    return {str(c["reason"]) for c in found if c}


def condition_of(body: Body, type: str) -> str:
    """Reason and message of a condition about the newest spec; empty when there is none."""
    found = condition(body, type)
    return f"{found['reason']}: {found.get('message', '')}" if found else ""


# ---- operator processes


@dataclass(frozen=True)
class Process:
    """An operator process that the test started itself, so that it learns its exit code."""

    child: asyncio.subprocess.Process
    port: int
    log: Path

    async def ready(self, within: float = SOON) -> None:
        """Wait until it leads."""
        try:
            async with asyncio.timeout(within), aiohttp.ClientSession() as session:
                while not await _answers(session, self._page("/leading")):
                    assert self.child.returncode is None, f"the operator ended: {self.log.read_text()[-2000:]}"
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(
                f"the operator did not lead within {within:g} s: {self.log.read_text()[-2000:]}"
            ) from None

    async def says(self, page: str) -> bool:
        """Does it answer 200 there: to /readyz, to /leading?"""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            return await _answers(session, self._page(page))

    async def ended(self, within: float = ENDS_WITHIN) -> int:
        """Its exit code."""
        async with asyncio.timeout(within):
            return await self.child.wait()

    def _page(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.child.send_signal(number)


@asynccontextmanager
async def operator(
    dev: Dev,
    store: Path,
    *,
    log: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    kubeconfig: Path | None = None,
) -> AsyncIterator[Process]:
    """One more operator process on the system, with an audit store of its own; ended when this ends."""
    port = free_port()
    log = log or store.with_suffix(".log")
    arguments = (
        *(sys.executable, "-P", "-m", "agentmetal", "run", "--development"),
        f"--kubeconfig={kubeconfig or dev.kubeconfig('operator')}",
        f"--state-directory={dev.system.directory}",
        f"--store-path={store}",
        "--provider-types=Nspawn,SSH,Fake",
        f"--metrics-port={port}",
        "--log-format=text",
    )
    if "AGENTMETAL_STORE_URL" not in environment:  # a store of its own, and an empty one
        async with client(dev.kubeconfig("admin")) as api:
            await forget_heads(api)
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(
            *arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**kept, **environment}
        )
    try:
        yield Process(child=child, port=port, log=log)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def holder(api: KubernetesClient) -> str:
    """Who leads."""
    lease = await api.get(LEASE, OPERATORS_NAMESPACE, LEASE_NAME)
    return str(lease["spec"].get("holderIdentity") or "")


async def metrics(port: int | None) -> dict[tuple[str, str], float]:
    """What /metrics says: (name, labels) -> value."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    found = (_SAMPLE.fullmatch(line) for line in text.splitlines() if not line.startswith("#"))
    return {(match[1], match[2] or ""): float(match[3]) for match in found if match}


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


# ---- inside a machine


def inside(machine: Machine, *command: str) -> str:
    """What a command says in a machine that runs."""
    assert machine.pid is not None, f"machine {machine.record.name} is off"
    entered = ("nsenter", f"--target={machine.pid}", "--mount", "--pid", "--uts", "--ipc", "--root", "--wd", "--")
    return subprocess.run((*entered, *command), check=True, capture_output=True, text=True, timeout=20).stdout


def disk(dev: Dev, machine: Machine) -> Path:
    """A machine's own layer of files: what it changed, over its image."""
    return dev.fleet.directory / machine.record.name / "upper"
