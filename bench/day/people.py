"""What people and machines do all day: order, edit, approve, reject, pause, delete; die, hang, vanish. Used by `story`.

Everything comes out of one dice. People look at what waits every few minutes and decide about most of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.support.system import NAMESPACE

from agentmetal.agents.instance.api import Instance
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.resource import Annotation
from agentmetal.providers.fake import TYPES
from bench.day.world import DayWorld

IMAGES = ("bookworm", "bookworm-20")
ROUND = 300.0
"""Seconds between two rounds of the people who decide."""
Body = dict[str, Any]


@dataclass(kw_only=True)
class People:
    """Editors, approvers, and whoever pulls plugs."""

    world: DayWorld
    dice: Random
    population: int
    resync: str
    every: float
    """Mean seconds between two things that somebody does."""
    made: int = 0
    names: dict[str, None] = field(default_factory=dict)
    """Of all that were ordered and may still be there: the world holds many other things, and is asked very often."""
    did: Counter[str] = field(default_factory=Counter)
    mending: set[asyncio.Task[None]] = field(default_factory=set)

    async def settle(self) -> None:
        """Order what there is at first."""
        for _ in range(self.population):
            await self.order()

    async def live(self) -> None:
        """Until cancelled."""
        acts: dict[Callable[[], Awaitable[None]], int] = {
            self.rebuild: 3,
            self.resize: 3,
            self.switch: 3,
            self.pause: 4,
            self.remove: 3,
            self.reboot: 1,
            self.lose_power: 3,
            self.cut: 3,
            self.hang: 1,
            self.vanish: 1,
            self.close_watches: 1,
            self.miss_events: 1,
        }
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / self.every))
            (act,) = self.dice.choices(list(acts), list(acts.values()))
            self.did[act.__name__] += 1
            with contextlib.suppress(AgentMetalError):  # refused, or gone meanwhile
                await act()
            while self.population > sum(1 for _ in self.living()):
                await self.order()

    async def decide(self) -> None:
        """Until cancelled: rounds."""
        while True:
            await asyncio.sleep(self.dice.uniform(ROUND / 2, ROUND * 3 / 2))
            for body in list(self.bodies()):
                await self.look_at(body)

    async def look_at(self, body: Body, *, finally_: bool = False) -> None:
        """Approve most of what waits, reject some, leave some for later; let what was paused go on."""
        name, annotations = body["metadata"]["name"], body["metadata"].get("annotations", {})
        if annotations.get(Annotation.PAUSED) == "true" and (finally_ or self.dice.random() < 0.3):
            await self._annotate(name, Annotation.PAUSED, None)
        digest = _awaits(body)
        if digest and digest not in annotations.get(Annotation.DECISION, ""):
            chance = 0.0 if finally_ else self.dice.random()
            verb = Annotation.APPROVE if chance < 0.7 else Annotation.REJECT if chance < 0.8 else ""
            if verb:
                self.did[verb] += 1
                await self._annotate(name, verb, digest)
        if place := _in_doubt(body):
            self.did["resolve"] += 1
            await self._annotate(name, Annotation.RESOLVE, f"{place}=done")
        if finally_ and (body["status"].get("rejected") or {}).get("planHash"):
            await self._annotate(name, Annotation.REPLAN, f"{asyncio.get_running_loop().time()}")

    # ---- objects

    def bodies(self) -> Iterator[Body]:
        """All Instances, the oldest first."""
        for name in list(self.names):
            if body := self.world.cluster.peek(Instance.info.type, NAMESPACE, name):
                yield body
            else:
                self.names.pop(name, None)

    def living(self) -> Iterator[Body]:
        """Those that are not being deleted."""
        return (body for body in self.bodies() if "deletionTimestamp" not in body["metadata"])

    async def order(self) -> None:
        self.made += 1
        name, management = f"web-{self.made}", {"resyncInterval": self.resync}
        await self.world.instance(name, image=self.dice.choice(IMAGES), management=management)
        self.names[name] = None

    async def rebuild(self) -> None:
        name, spec = self._anyone()
        await self.world.edit(name, image=next(image for image in IMAGES if image != spec["image"]))

    async def resize(self) -> None:
        name, spec = self._anyone()
        await self.world.edit(name, type=self.dice.choice([t.name for t in TYPES if t.name != spec["type"]]))

    async def switch(self) -> None:
        name, spec = self._anyone()
        await self.world.edit(name, powerState="On" if spec.get("powerState", "On") == "Off" else "Off")

    async def pause(self) -> None:
        await self._annotate(self._anyone()[0], Annotation.PAUSED, "true")

    async def remove(self) -> None:
        await self.world.delete(self._anyone()[0])

    async def reboot(self) -> None:
        now = self.world.clock.now().isoformat(timespec="seconds")
        await self._annotate(self._anyone()[0], Annotation.REBOOT_AT, now)

    # ---- machines

    async def lose_power(self) -> None:
        self.world.cloud.lose_power(self._server())

    async def vanish(self) -> None:
        self.world.cloud.vanish(self._server())

    async def cut(self) -> None:
        self._ill("cut")

    async def hang(self) -> None:
        self._ill("frozen")

    # ---- the watch

    async def close_watches(self) -> None:
        if self.dice.random() < 0.5:
            self.world.cluster.compact()
        self.world.cluster.end_watches()

    async def miss_events(self) -> None:
        self.world.cluster.faults.drop_events = self.dice.randint(1, 20)

    def _ill(self, what: str) -> None:
        host = self.world.hosts.host(self._server())
        setattr(host, what, True)

        async def mend() -> None:
            await asyncio.sleep(self.dice.uniform(5, 900))
            setattr(host, what, False)

        task = asyncio.create_task(mend())
        self.mending.add(task)
        task.add_done_callback(self.mending.discard)

    def _server(self) -> str:
        return self.dice.choice(list(self.world.cloud._servers))

    def _anyone(self) -> tuple[str, Body]:
        body = self.dice.choice(list(self.living()))
        return body["metadata"]["name"], body["spec"]

    async def _annotate(self, name: str, what: str, value: str | None) -> None:
        patch = {"metadata": {"annotations": {what: value}}}
        with contextlib.suppress(AgentMetalError):  # it changed or went meanwhile: the next round looks again
            await self.world.ann.patch(Instance.info.type, NAMESPACE, name, patch)


def settled(body: Body) -> bool:
    """Ready (or off, as it should be) at its newest spec, with no plan left."""
    status = body.get("status") or {}
    fresh = status.get("observedGeneration") == body["metadata"]["generation"]
    conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
    ready = conditions.get("Ready") == "True" and conditions.get("Reconciling") != "True"
    return bool(fresh and ready and not status.get("plan"))


def _awaits(body: Body) -> str:
    status = body.get("status") or {}
    if status.get("observedGeneration") != body["metadata"]["generation"] or not status.get("plan"):
        return ""
    waits = any(c["type"] == "AwaitingApproval" and c["status"] == "True" for c in status.get("conditions", ()))
    return str(status["plan"].get("digest") or "") if waits else ""


def _in_doubt(body: Body) -> str:
    """What the condition asks to be resolved: `<operation>/<step>`."""
    for condition in (body.get("status") or {}).get("conditions", ()):
        if condition["reason"] == "StepInDoubt" and f"{Annotation.RESOLVE}=" in condition.get("message", ""):
            return str(condition["message"].partition(f"{Annotation.RESOLVE}=")[2].partition("=done")[0])
    return ""
