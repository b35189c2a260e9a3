"""A real development system for tests: control plane, operator and machines, started through `agentmetal dev up`.

Import the fixture into a conftest: `from tests.support.devsystem import dev_system`. One serves the whole run; it
belongs to no event loop. Name objects uniquely and leave them: they go with the system. Who breaks the operator or a
machine mends it before the test ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.controlplane import binaries

from agentmetal.dev import requirements
from agentmetal.dev.controlplane.plane import AUDIT_POLICY
from agentmetal.dev.system import DevSystem
from agentmetal.kube.install import OPERATOR
from agentmetal.providers.nspawn.fleet import Fleet

UP_WITHIN = 180.0
DOWN_WITHIN = 90.0
COMMAND_WITHIN = 60.0
KEPT = ("PATH", "HOME", "LANG", "XDG_CACHE_HOME", "KUBEBUILDER_ASSETS")
"""What a command sees of our environment: the caches of programs and images are the developer's."""


@dataclass(frozen=True)
class Answer:
    """What a command line answered."""

    code: int
    output: str
    complaint: str


@dataclass(frozen=True)
class Dev:
    """The system, and how people use it."""

    system: DevSystem

    @property
    def fleet(self) -> Fleet:
        """The machines, and what can go wrong with them: kill, freeze, cut, …"""
        return self.system.fleet

    def kubeconfig(self, user: str) -> Path:
        """Of admin, editor, approver or operator."""
        return self.system.kubeconfig(user)

    async def kubectl(self, *arguments: str, as_: str = "editor", input: str = "") -> str:
        """What kubectl answers to that user. Raises AssertionError with its complaint."""
        answer = await self.ask_kubectl(*arguments, as_=as_, input=input)
        assert answer.code == 0, f"kubectl {' '.join(arguments)} as {as_!r}: {answer.complaint}"
        return answer.output

    async def ask_kubectl(self, *arguments: str, as_: str = "editor", input: str = "") -> Answer:
        """The same, also when it is refused."""
        program = str(self.system.plane.binaries.kubectl)
        home = str(self.system.directory)  # its discovery cache stays with the cluster it describes
        return await self._run(program, f"--kubeconfig={self.kubeconfig(as_)}", *arguments, input=input, HOME=home)

    async def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """An object as it is stored."""
        found: dict[str, Any] = json.loads(await self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    async def agentmetal(self, *arguments: str, as_: str = "editor", input: str = "") -> Answer:
        """What our command line answers, in the directory above the state."""
        return await self._run(
            *(sys.executable, "-m", "agentmetal", *arguments), input=input, KUBECONFIG=str(self.kubeconfig(as_))
        )

    async def server(self, instance: str, namespace: str = "default") -> str:
        """The machine of an Instance, for the fleet's faults."""
        for machine in await self.fleet.machines():
            if (machine.record.hostname, machine.namespace) == (instance, namespace):
                return machine.record.name
        raise AssertionError(f"there is no machine of {namespace}/{instance}")

    async def kill_operator(self) -> None:
        """kill -9; returns when it is dead."""
        await self.system.operator.kill()

    async def start_operator(self) -> None:
        """Start it again unless it runs; returns when it leads."""
        await self.system.operator.start(self.kubeconfig("admin"))

    async def restart_operator(self) -> None:
        """An orderly end, and a new one."""
        await self.system.operator.stop()
        await self.start_operator()

    async def _run(self, *command: str, input: str, **environment: str) -> Answer:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.system.directory.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**{name: os.environ[name] for name in KEPT if name in os.environ}, **environment},
        )
        async with asyncio.timeout(COMMAND_WITHIN):
            output, complaint = await process.communicate(input.encode())
        return Answer(process.returncode or 0, output.decode(), complaint.decode())


def new_name() -> str:
    """An object's name that nobody else has."""
    return f"t-{uuid.uuid4().hex[:10]}"


def instance(name: str, **spec: Any) -> str:
    """The manifest of an Instance, as JSON."""
    full = {"providerRef": {"name": "local"}, "type": "small", "image": "bookworm", **spec}
    body = {"apiVersion": "agentmetal.io/v1alpha1", "kind": "Instance", "metadata": {"name": name}, "spec": full}
    return json.dumps(body)


@pytest.fixture(scope="session")
def dev_system() -> Iterator[Dev]:
    """Up with one machine, `machine-1`."""
    with running(machines=1) as dev:
        yield dev


@contextmanager
def running(*, machines: int) -> Iterator[Dev]:
    """A system that is up with so many machines. Without what it needs a test fails and says so; it never skips."""
    if why := requirements.missing():
        pytest.fail(why, pytrace=False)
    found = binaries()
    directory = Path(tempfile.mkdtemp(prefix="agentmetal-dev-"))  # kept when `down` fails: it is needed to try again
    state = directory / ".agentmetal"
    record_requests(state)
    try:
        _dev("up", f"--machines={machines}", f"--state={state}", within=UP_WITHIN)
        yield Dev(system=DevSystem(state, found))
    finally:
        _dev("down", f"--state={state}", within=DOWN_WITHIN)
        assert leftovers(state) == []
        shutil.rmtree(directory)


def record_requests(state: Path) -> None:
    """Have the API server write down what the operator's account asks for: `tests.support.rights` reads it."""
    state.mkdir(mode=0o700)
    rules = [{"level": "Metadata", "users": [OPERATOR], "omitStages": ["RequestReceived"]}, {"level": "None"}]
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}
    (state / AUDIT_POLICY).write_text(json.dumps(policy))


def leftovers(state: Path) -> list[str]:
    """Every process whose command line names the state directory, and every mount in it."""
    commands = [_text(path).replace("\0", " ") for path in Path("/proc").glob("[0-9]*/cmdline")]
    mounts = _text(Path("/proc/self/mounts")).splitlines()
    return [line for line in (*commands, *mounts) if f"{state}/" in line]


def _dev(*arguments: str, within: float) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentmetal", "dev", *arguments], capture_output=True, text=True, timeout=within
    )
    if done.returncode:
        pytest.fail(f"agentmetal dev {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}", pytrace=False)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # the process ended while we looked
