"""The demonstration: what AgentMetal does, on real machines, in about a minute. Run by `agentmetal demo`.

It has a directory, a control plane, an operator and machines of its own, removes them at the end in any case, and
sweeps what a killed earlier one left. Every wait is on a watch with a deadline. It prints through a reporter only.
"""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agentmetal.agents.instance.api import Instance
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.audit import Broken, verify
from agentmetal.core.errors import AgentMetalError, Unavailable
from agentmetal.core.operation import Operation
from agentmetal.core.resource import Annotation
from agentmetal.dev import machines, requirements
from agentmetal.dev.machines import NAMESPACE
from agentmetal.dev.report import Reporter
from agentmetal.dev.system import DevSystem
from agentmetal.dev.watching import Body, client, condition, holds, until
from agentmetal.engine.text import plan_lines
from agentmetal.store.reader import AuditFile

MACHINES = 3
OTHER_IMAGE = "bookworm-tools"
WITHIN = 120.0
KUBECTL_WITHIN = 30.0
T = TypeVar("T")


class DemoFailed(AgentMetalError):
    """A chapter did not come to its good end. The message says which and why."""

    reason = "DemoFailed"


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A part of the story, told."""

    title: str
    outcome: str
    seconds: float


async def play(
    system: DevSystem, reporter: Reporter, *, on_cleaning: Callable[[], None] = lambda: None
) -> tuple[Chapter, ...]:
    """The whole story; when this returns, also by an exception, nothing of it is left but logs.

    `on_cleaning` is called before the clean-up begins: only who cancels that, too, leaves something.
    """
    requirements.check()
    with _alone(system.directory):
        try:
            await system.down(reporter)
            async with _story(system, reporter) as story:
                return await story.tell()
        finally:
            on_cleaning()
            reporter.say("\nCleaning up")
            await system.down(reporter)


@asynccontextmanager
async def _story(system: DevSystem, reporter: Reporter) -> AsyncIterator[_Story]:
    began = time.monotonic()
    reporter.say("== 1. A control plane, the operator, and the image of a machine")
    await system.up(0, reporter)
    await system.fleet.ensure_image(OTHER_IMAGE, reporter.say)
    first = Chapter(title="set-up", outcome="etcd, API server, operator", seconds=time.monotonic() - began)
    async with client(system.kubeconfig("admin")) as api:
        yield _Story(system=system, api=api, reporter=reporter, told=[first])


@dataclass(kw_only=True)
class _Story:
    system: DevSystem
    api: KubernetesClient
    reporter: Reporter
    told: list[Chapter]

    async def tell(self) -> tuple[Chapter, ...]:
        await self._chapter("three machines", "Three Instances become three machines", self._order)
        await self._chapter("power loss", "A machine is powered off by force, and repaired by itself", self._power_loss)
        await self._chapter("new image", "Another image deletes a disk: planned, shown, approved, done", self._image)
        await self._chapter("deletion refused", "A deletion is asked for, and rejected", self._refused)
        await self._chapter("deletion", "The same deletion is proposed again, and approved", self._deletion)
        await self._chapter("audit", "The audit trail proves what happened", self._audit)
        return tuple(self.told)

    async def _chapter(self, title: str, heading: str, play: Callable[[], Awaitable[str]]) -> None:
        began = time.monotonic()
        self.reporter.say(f"\n== {len(self.told) + 1}. {heading}")
        try:
            outcome = await play()
        except AgentMetalError as error:
            raise DemoFailed(f"chapter {title!r} failed: {error.message}") from error
        self.told.append(Chapter(title=title, outcome=outcome, seconds=time.monotonic() - began))
        self.reporter.say(f"   -> {outcome} ({self.told[-1].seconds:.1f} s)")

    async def _order(self) -> str:
        await machines.provide(self.api, self.reporter)
        await machines.order(self.api, machines.names(MACHINES), self.reporter)
        return f"{MACHINES} real systemd machines answer SSH with the host keys we made"

    async def _power_loss(self) -> str:
        server = await self._server("machine-2")
        self.reporter.say(f"   cutting the power of {server}; nobody tells the operator")
        await self.system.fleet.kill(server)
        cut = time.monotonic()
        await self._until("machine-2", lambda body: True if _differs(body) else None, "seen to be off")
        noticed = time.monotonic() - cut
        self.reporter.say(f"   noticed after {noticed:.1f} s: the connection to the host fell silent")
        await machines.all_ready(self.api, ("machine-2",), self.reporter)
        return f"noticed after {noticed:.0f} s, running again {time.monotonic() - cut:.0f} s after the power loss"

    async def _image(self) -> str:
        await self._kubectl(
            "editor",
            *("patch", "instance", "machine-3", "--type=merge", f'--patch={{"spec":{{"image":"{OTHER_IMAGE}"}}}}'),
        )
        await self._decide("machine-3", Annotation.APPROVE)
        began = time.monotonic()
        await self._until(
            "machine-3", lambda body: True if _runs(body, OTHER_IMAGE) else None, f"running image {OTHER_IMAGE}"
        )
        return (
            f"image {OTHER_IMAGE} runs {time.monotonic() - began:.0f} s after the approval; nothing was touched before"
        )

    async def _refused(self) -> str:
        await self._kubectl("editor", "delete", "instance", "machine-1", "--wait=false")
        await self._decide("machine-1", Annotation.REJECT, reason="still in use")
        found = await self._until("machine-1", _rejection, "shown as rejected")
        self.reporter.say(f"   {found}")
        server = await self._server("machine-1")
        return f"{server} runs on, untouched"

    async def _deletion(self) -> str:
        server = await self._server("machine-1")
        await self._kubectl("editor", "annotate", "instance", "machine-1", f"{Annotation.REPLAN}=not-in-use-any-more")
        await self._decide("machine-1", Annotation.APPROVE)
        await self._until("machine-1", lambda body: True if body is None else None, "gone")
        left = [machine.record.name for machine in await self.system.fleet.machines()]
        if server in left:
            raise DemoFailed(f"Instance 'machine-1' is gone and its server {server!r} still exists")
        return f"the Instance and its server are gone, {len(left)} machines are left"

    async def _audit(self) -> str:
        listing = await self.api.list(Operation.info.type)
        heads = {str(body["status"].get("auditHead")): str(body["metadata"]["name"]) for body in listing.items}
        verdict = await verify(AuditFile(self.system.directory / "audit.db").records(), heads)
        if isinstance(verdict, Broken):
            raise DemoFailed(f"record {verdict.sequence}: {verdict.what}")
        return f"{verdict.records} records, unbroken, and they hold the {len(heads)} hashes that Operations saw"

    async def _decide(self, name: str, annotation: str, reason: str = "") -> None:
        """Wait for a plan that waits, show it, and decide as the approver, with kubectl, as anybody would."""
        resource = await self._until(name, _waiting, "waiting for a decision")
        for line in plan_lines(resource):
            self.reporter.say(f"   {line}")
        digest = resource.status.plan.digest if resource.status.plan else ""
        why = (f"{Annotation.REASON}={reason}",) if reason else ()
        words = ("annotate", "--overwrite", "instance", name, f"{annotation}={digest}", *why)
        await self._kubectl("approver", *words)

    async def _server(self, name: str) -> str:
        found = [m.record.name for m in await self.system.fleet.machines() if m.record.hostname == name]
        if not found:
            raise DemoFailed(f"there is no machine of Instance {name!r}")
        return found[0]

    async def _until(self, name: str, answer: Callable[[Body | None], T | None], what: str) -> T:
        return await until(self.api, Instance.info.type, NAMESPACE, name, answer, within=WITHIN, what=what)

    async def _kubectl(self, user: str, *words: str) -> None:
        """Run the real kubectl, and print the very command line."""
        kubeconfig = self.system.kubeconfig(user)
        shown = kubeconfig.relative_to(Path.cwd()) if kubeconfig.is_relative_to(Path.cwd()) else kubeconfig
        spoken = " ".join(f"'{word}'" if set(word) & set('{}" ') else word for word in words)
        self.reporter.say(f"   $ kubectl --kubeconfig={shown} {spoken}")
        process = await asyncio.create_subprocess_exec(
            self.system.plane.binaries.kubectl,
            f"--kubeconfig={kubeconfig}",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"HOME": str(self.system.directory)},  # its discovery cache stays with the cluster it describes
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), KUBECTL_WITHIN)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = output.decode(errors="replace").strip()
        self.reporter.say(f"   {said}")
        if process.returncode:
            raise DemoFailed(f"kubectl refused: {said}")


def _waiting(body: Body | None) -> Instance | None:
    if body is None or not holds(body, "AwaitingApproval"):
        return None
    instance = Instance.model_validate(body)
    return instance if instance.status.plan and instance.status.plan.digest else None


def _rejection(body: Body | None) -> str | None:
    found = condition(body, "Drifted") if body else None
    rejected = found is not None and found["status"] == "True" and found["reason"] == "PlanRejected"
    return str(found["message"]) if found and rejected else None


def _differs(body: Body | None) -> bool:
    return body is not None and not holds(body, "Ready")


def _runs(body: Body | None, image: str) -> bool:
    return body is not None and holds(body, "Ready") and body["status"].get("image") == image


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One demonstration in a directory at a time. The kernel frees the lock when we die."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "demo.lock").open("w") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                f"another demo runs in {str(directory)!r}: wait for it, or name another by --state"
            ) from None
        yield
