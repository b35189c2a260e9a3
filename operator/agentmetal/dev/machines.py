"""The first objects of a development system: a Provider and so many Instances, ready when it returns. Used by `system`.

It creates what is missing, changes nothing that is there, and waits by watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.errors import AgentMetalError, AlreadyExists, NotFound
from agentmetal.core.operation import Operation, OperationPhase
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import Ref
from agentmetal.dev.report import Reporter, Row
from agentmetal.dev.watching import Body, Objects, TooLate, condition, follow, holds, state_of, until
from agentmetal.engine.explain import all_done, explain, step_line

NAMESPACE = "default"
PROVIDER = "local"
IMAGE = "bookworm"
PROVIDER_WITHIN = 60.0
INSTANCES_WITHIN = 240.0


class NotReady(AgentMetalError):
    """An object needs a human. The message explains it."""

    reason = "NotReady"


def names(count: int) -> tuple[str, ...]:
    """What the Instances are called."""
    return tuple(f"machine-{number}" for number in range(1, count + 1))


async def provide(api: KubeApi, reporter: Reporter) -> None:
    """The Provider of local machines."""
    spec = {"type": "Nspawn", "nspawn": {}}
    if await _create(api, Provider, PROVIDER, spec):
        reporter.say(f"created Provider {PROVIDER} (type Nspawn) in namespace {NAMESPACE}")
    await until(
        api,
        Provider.info.type,
        NAMESPACE,
        PROVIDER,
        lambda body: True if body and holds(body, "Ready") else None,
        within=PROVIDER_WITHIN,
        what="ready",
    )


async def order(api: KubeApi, wanted: Sequence[str], reporter: Reporter) -> None:
    """Create the Instances that are missing and wait until all are ready. Raises TooLate, NotReady."""
    if not wanted:
        return
    for name in wanted:
        spec = {"providerRef": Ref(name=PROVIDER).wire(), "type": "small", "image": IMAGE}
        if await _create(api, Instance, name, spec):
            reporter.say(f"created Instance {name} (type small, image {IMAGE})")
    await all_ready(api, wanted, reporter)


async def all_ready(api: KubeApi, wanted: Sequence[str], reporter: Reporter, within: float = INSTANCES_WITHIN) -> None:
    """Wait until these Instances are ready, showing how they go."""
    began, body = asyncio.get_running_loop().time(), dict[str, Body]()
    try:
        async with asyncio.timeout(within), aclosing(_both(api)) as changes:
            async for instances, operations in changes:
                body = {name: instances[name] for name in wanted if name in instances}
                reporter.show(_rows(wanted, instances, operations, asyncio.get_running_loop().time() - began))
                if len(body) == len(wanted) and all(holds(found, "Ready") for found in body.values()):
                    return
                _check(body, operations)
    except TimeoutError:
        missing = [name for name in wanted if name not in body or not holds(body[name], "Ready")]
        told = "; ".join(f"{name}: {state_of(body.get(name))}" for name in missing)
        raise TooLate(f"not ready within {within:g} s: {told}") from None
    finally:
        reporter.show(())


async def _both(api: KubeApi) -> AsyncGenerator[tuple[Objects, Objects], None]:
    """Instances and Operations, again whenever one of them changes."""
    news: asyncio.Queue[tuple[str, Objects] | AgentMetalError] = asyncio.Queue()

    async def listen(kind: type[Instance] | type[Operation]) -> None:
        try:
            async with aclosing(follow(api, kind.info.type, NAMESPACE)) as changes:
                async for objects in changes:
                    news.put_nowait((kind.info.kind, objects))
        except AgentMetalError as error:
            news.put_nowait(error)

    listening = [asyncio.create_task(listen(kind)) for kind in (Instance, Operation)]
    seen: dict[str, Objects] = {}
    try:
        while True:
            item = await news.get()
            if isinstance(item, AgentMetalError):
                raise item
            seen[item[0]] = item[1]
            if len(seen) == len(listening):
                yield seen[Instance.info.kind], seen[Operation.info.kind]
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


def _rows(wanted: Sequence[str], instances: Objects, operations: Objects, seconds: float) -> tuple[Row, ...]:
    rows = []
    for name in wanted:
        status: dict[str, Any] = (instances.get(name) or {}).get("status") or {}
        mine = _shown(name, status, operations)
        done = name in instances and holds(instances[name], "Ready")
        step = "ready" if done else step_line(mine, datetime.now(UTC)) if mine else _message(instances.get(name))
        rows.append(Row(name=name, phase=status.get("phase", "Pending"), step=step, seconds=seconds, done=done))
    return tuple(rows)


def _shown(name: str, status: dict[str, Any], operations: Objects) -> Operation | None:
    """The operation that runs, else the one that the status still shows although it is all done."""
    mine = [Operation.model_validate(o) for o in operations.values() if o["spec"]["resourceRef"]["name"] == name]
    plan = (status.get("plan") or {}).get("operation")
    return next(
        (op for op in mine if op.phase is OperationPhase.RUNNING),
        next((op for op in mine if op.metadata.name == plan and all_done(op)), None),
    )


def _message(body: Body | None) -> str:
    if body is None or not (body.get("status") or {}).get("phase"):
        return "waiting for the operator"
    found = condition(body, "Reconciling") if holds(body, "Reconciling") else condition(body, "Ready")
    return str((found or {}).get("message") or "waiting for the operator")


def _check(bodies: dict[str, Body], operations: Objects) -> None:
    """What needs a human does not become ready by waiting."""
    for name, body in bodies.items():
        if holds(body, "Stalled") or holds(body, "AwaitingApproval") or holds(body, "Blocked"):
            journal = [Operation.model_validate(operation) for operation in operations.values()]
            told = explain(Instance.model_validate(body), journal, datetime.now(UTC)).lines()
            raise NotReady(f"Instance {name!r} needs a human:\n  " + "\n  ".join(told))


async def _create(api: KubeApi, kind: type[Provider] | type[Instance], name: str, spec: dict[str, Any]) -> bool:
    """Whether it had to be created."""
    try:
        await api.get(kind.info.type, NAMESPACE, name)
    except NotFound:
        try:
            await api.create(kind.info.type, {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
        except AlreadyExists:
            return False
        return True
    return False
