"""The demonstration: what AgentMetal does, on real machines, in about a minute. Run by `agentmetal demo`.

Here is the story of machines that we make; `demo_fleet.py` tells of machines that exist already.
It has a directory, a control plane, an operator and machines of its own, removes them at the end in any case, and
sweeps what a killed earlier one left. Every wait is on a watch with a deadline. It prints through a reporter only.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.errors import Unavailable
from agentmetal.core.resource import Annotation
from agentmetal.dev import machines, requirements
from agentmetal.dev.report import Reporter
from agentmetal.dev.story import Chapter, DemoFailed, Teller
from agentmetal.dev.system import DevSystem
from agentmetal.dev.watching import Body, client, condition, holds

MACHINES = 3
OTHER_IMAGE = "bookworm-tools"
Tell = Callable[[DevSystem, KubernetesClient, Reporter, list[Chapter]], Awaitable[None]]
"""Tells a story, adding its chapters to those told."""


async def play(
    system: DevSystem, reporter: Reporter, tell: Tell, *, on_cleaning: Callable[[], None] = lambda: None
) -> tuple[Chapter, ...]:
    """The whole story; when this returns, also by an exception, nothing of it is left but logs.

    `on_cleaning` is called before the clean-up begins: only who cancels that, too, leaves something.
    """
    requirements.check()
    with _alone(system.directory):
        try:
            await system.down(reporter)
            return await _told(system, reporter, tell)
        finally:
            on_cleaning()
            reporter.say("\nCleaning up")
            await system.down(reporter)


async def _told(system: DevSystem, reporter: Reporter, tell: Tell) -> tuple[Chapter, ...]:
    began = time.monotonic()
    reporter.say("== 1. A control plane, the operator, and the image of a machine")
    await system.up(0, reporter)
    told = [Chapter(title="set-up", outcome="etcd, API server, operator", seconds=time.monotonic() - began)]
    async with client(system.kubeconfig("admin")) as api:
        await tell(system, api, reporter, told)
    return tuple(told)


async def tell_machines(system: DevSystem, api: KubernetesClient, reporter: Reporter, told: list[Chapter]) -> None:
    """Machines that we make: ordered, lost, changed, deleted."""
    await system.fleet.ensure_image(OTHER_IMAGE, reporter.say)
    story = _Machines(system=system, api=api, reporter=reporter, told=told)
    await story.chapter("three machines", "Three Instances become three machines", story.order)
    await story.chapter("power loss", "A machine is powered off by force, and repaired by itself", story.power_loss)
    await story.chapter("new image", "Another image deletes a disk: planned, shown, approved, done", story.image)
    await story.chapter("deletion refused", "A deletion is asked for, and rejected", story.refused)
    await story.chapter("deletion", "The same deletion is proposed again, and approved", story.deletion)
    await story.chapter("audit", "The audit trail proves what happened", story.audit)


class _Machines(Teller):
    async def order(self) -> str:
        await machines.provide(self.api, self.reporter)
        await machines.order(self.api, machines.names(MACHINES), self.reporter)
        return f"{MACHINES} real systemd machines answer SSH with the host keys we made"

    async def power_loss(self) -> str:
        server = await self._server("machine-2")
        self.reporter.say(f"   cutting the power of {server}; nobody tells the operator")
        await self.system.fleet.kill(server)
        cut = time.monotonic()
        await self.until("machine-2", lambda body: True if _differs(body) else None, "seen to be off")
        noticed = time.monotonic() - cut
        self.reporter.say(f"   noticed after {noticed:.1f} s: the connection to the host fell silent")
        await machines.all_ready(self.api, ("machine-2",), self.reporter)
        return f"noticed after {noticed:.0f} s, running again {time.monotonic() - cut:.0f} s after the power loss"

    async def image(self) -> str:
        await self.kubectl(
            "editor",
            *("patch", "instance", "machine-3", "--type=merge", f'--patch={{"spec":{{"image":"{OTHER_IMAGE}"}}}}'),
        )
        await self.decide("machine-3", Annotation.APPROVE)
        began = time.monotonic()
        await self.until(
            "machine-3", lambda body: True if _runs(body, OTHER_IMAGE) else None, f"running image {OTHER_IMAGE}"
        )
        return (
            f"image {OTHER_IMAGE} runs {time.monotonic() - began:.0f} s after the approval; nothing was touched before"
        )

    async def refused(self) -> str:
        await self.kubectl("editor", "delete", "instance", "machine-1", "--wait=false")
        await self.decide("machine-1", Annotation.REJECT, reason="still in use")
        found = await self.until("machine-1", _rejection, "shown as rejected")
        self.reporter.say(f"   {found}")
        server = await self._server("machine-1")
        return f"{server} runs on, untouched"

    async def deletion(self) -> str:
        server = await self._server("machine-1")
        await self.kubectl("editor", "annotate", "instance", "machine-1", f"{Annotation.REPLAN}=not-in-use-any-more")
        await self.decide("machine-1", Annotation.APPROVE)
        await self.until("machine-1", lambda body: True if body is None else None, "gone")
        left = [machine.record.name for machine in await self.system.fleet.machines()]
        if server in left:
            raise DemoFailed(f"Instance 'machine-1' is gone and its server {server!r} still exists")
        return f"the Instance and its server are gone, {len(left)} machines are left"

    async def _server(self, name: str) -> str:
        found = [m.record.name for m in await self.system.fleet.machines() if m.record.hostname == name]
        if not found:
            raise DemoFailed(f"there is no machine of Instance {name!r}")
        return found[0]


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
