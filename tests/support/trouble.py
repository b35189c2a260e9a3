"""What tests of bad input and trouble share: wait for a sentence, count what was done. On `tests.support.system`."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.system import NAMESPACE, System, story

from agentmetal.agents.instance.api import Instance
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import Operation
from agentmetal.core.resource import ConditionModel


def condition(resource: Any, type: str = "Ready") -> ConditionModel:
    """The condition of that type; it must be there."""
    found: list[ConditionModel] = [c for c in resource.status.conditions if c.type == type]
    assert found, f"no condition {type}: {story(resource)}"
    return found[0]


async def says(
    system: System,
    text: str,
    *,
    type: str = "Ready",
    name: str = "web-1",
    kind: Any = Instance,
    status: str = "",
    timeout: float = 600.0,
) -> ConditionModel:
    """Wait until a condition says something; the condition."""

    def found() -> ConditionModel | None:
        resource = system.see(name, kind=kind)
        said = [c for c in resource.status.conditions if c.type == type] if resource else []
        fits = said and text in said[0].message and status in ("", said[0].status.value)
        return said[0] if fits else None

    try:
        answer: ConditionModel = await system.until(found, timeout=timeout)
    except TimeoutError:
        raise AssertionError(f"{type} never says {text!r}: {story(system.see(name, kind=kind))}") from None
    return answer


async def running_step(system: System, tool: str, *, timeout: float = 600.0) -> Operation:
    """Wait until a step of that tool is under way; its operation."""

    def found() -> Operation | None:
        for operation in system.plans():
            for step, status in zip(operation.spec.steps, operation.status.steps, strict=True):
                if step.tool == tool and status.state == "Running" and not operation.phase.closed:
                    return operation
        return None

    answer: Operation = await system.until(found, timeout=timeout)
    return answer


async def quiet(seconds: float = 600.0) -> None:
    """Let virtual time pass: what was to happen has happened."""
    await asyncio.sleep(seconds)


async def only_server(system: System) -> Any:
    """The one server there is."""
    servers = list(system.cloud._servers.values())
    assert len(servers) == 1, f"{len(servers)} servers instead of one"
    return servers[0]


def created(system: System) -> int:
    """How many servers were ever made."""
    return system.cloud._made


def phases(system: System) -> list[str]:
    """How the Instance's operations stand, oldest first."""
    return [operation.phase.value for operation in system.plans()]


def tools(operation: Operation) -> list[str]:
    """What its steps call."""
    return [step.tool for step in operation.spec.steps]


async def secret(system: System, name: str, **labels: str) -> None:
    """A Secret that a user made."""
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "data": {"token": "eA=="},
    }
    await system.admin.create(SECRET, body)


async def look_again(system: System, name: str = "web-1") -> None:
    """Do not wait for the next routine look."""
    await system.annotate(name, as_=system.erin, reconcile_at=f"{asyncio.get_running_loop().time()}")
