"""How a demonstration is told: chapters with an end, waits with a deadline, decisions with kubectl. Used by the demos.

It prints through a reporter only, and acts through the real kubectl, as anybody would.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agentmetal.agents.instance.api import Instance
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.audit import Broken, verify
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.operation import Operation
from agentmetal.core.resource import Annotation
from agentmetal.dev.machines import NAMESPACE
from agentmetal.dev.report import Reporter
from agentmetal.dev.system import DevSystem
from agentmetal.dev.watching import Body, holds, until
from agentmetal.engine.text import plan_lines
from agentmetal.store.reader import AuditFile

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


@dataclass(kw_only=True)
class Teller:
    """Tells chapters about a running development system."""

    system: DevSystem
    api: KubernetesClient
    reporter: Reporter
    told: list[Chapter]

    async def chapter(self, title: str, heading: str, play: Callable[[], Awaitable[str]]) -> None:
        """Tell one chapter. Raises DemoFailed with its title."""
        began = time.monotonic()
        self.reporter.say(f"\n== {len(self.told) + 1}. {heading}")
        try:
            outcome = await play()
        except AgentMetalError as error:
            raise DemoFailed(f"chapter {title!r} failed: {error.message}") from error
        self.told.append(Chapter(title=title, outcome=outcome, seconds=time.monotonic() - began))
        self.reporter.say(f"   -> {outcome} ({self.told[-1].seconds:.1f} s)")

    async def decide(self, name: str, annotation: str, reason: str = "") -> None:
        """Wait for a plan that waits, show it, and decide as the approver."""
        resource = await self.until(name, waiting, "waiting for a decision")
        for line in plan_lines(resource):
            self.reporter.say(f"   {line}")
        digest = resource.status.plan.digest if resource.status.plan else ""
        why = (f"{Annotation.REASON}={reason}",) if reason else ()
        words = ("annotate", "--overwrite", "instance", name, f"{annotation}={digest}", *why)
        await self.kubectl("approver", *words)

    async def audit(self) -> str:
        """The last chapter of every story: nothing of it is missing from the audit trail."""
        listing = await self.api.list(Operation.info.type)
        heads = {str(body["status"].get("auditHead")): str(body["metadata"]["name"]) for body in listing.items}
        verdict = await verify(AuditFile(self.system.directory / "audit.db").records(), heads)
        if isinstance(verdict, Broken):
            raise DemoFailed(f"record {verdict.sequence}: {verdict.what}")
        return f"{verdict.records} records, unbroken, and they hold the {len(heads)} hashes that Operations saw"

    async def until(self, name: str, answer: Callable[[Body | None], T | None], what: str) -> T:
        """Wait for an answer about an Instance. Raises TooLate."""
        return await until(self.api, Instance.info.type, NAMESPACE, name, answer, within=WITHIN, what=what)

    async def kubectl(self, user: str, *words: str, input: str = "") -> str:
        """Run the real kubectl, and print the very command line; what it said."""
        kubeconfig = self.system.kubeconfig(user)
        shown = kubeconfig.relative_to(Path.cwd()) if kubeconfig.is_relative_to(Path.cwd()) else kubeconfig
        spoken = " ".join(f"'{word}'" if set(word) & set('{}" ') else word for word in words)
        self.reporter.say(f"   $ kubectl --kubeconfig={shown} {spoken}")
        process = await asyncio.create_subprocess_exec(
            self.system.plane.binaries.kubectl,
            f"--kubeconfig={kubeconfig}",
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"HOME": str(self.system.directory)},  # its discovery cache stays with the cluster it describes
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(input.encode()), KUBECTL_WITHIN)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = output.decode(errors="replace").strip()
        for line in said.splitlines():
            self.reporter.say(f"   {line}")
        if process.returncode:
            raise DemoFailed(f"kubectl refused: {said}")
        return said


def waiting(body: Body | None) -> Instance | None:
    """The Instance, if a plan of it waits for a human."""
    if body is None or not holds(body, "AwaitingApproval"):
        return None
    instance = Instance.model_validate(body)
    return instance if instance.status.plan and instance.status.plan.digest else None
