"""A whole operator, two Providers, two Instances and a policy, in virtual time: what the mutations are done to.

People here approve whatever waits. `settle` returns when nobody has written anything for a while; `judge` then says
what is not as it must be, out of the schema and the world alone, whatever was changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.inventories import Inventory
from tests.support.system import NAMESPACE, System, story

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.condition import Reason
from agentmetal.core.errors import AgentMetalError, Conflict, Invalid, NotFound
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.core.resource import FINALIZER, Annotation
from agentmetal.engine import fit
from agentmetal.providers.fake_host import Effect
from agentmetal_tools.wiping import NO_SUCH_USER

POLL = 5.0
QUIET = 660.0
"""Seconds without a write: two routine looks at the world."""
PATIENCE = 12 * 3600.0
"""Seconds within which everything must be quiet."""
MAX_WRITES = 60
"""API writes that one change may cost, decisions included."""
TELLING = ("Stalled", "AwaitingApproval", "Drifted", "Paused", "Reconciling", "Blocked", "Degraded", "HostKeyMismatch")
"""Conditions that say why something is not as the spec wants it."""

MODELS: dict[str, Any] = {"Instance": Instance, "Provider": Provider, "ApprovalPolicy": ApprovalPolicy}


@dataclass(frozen=True)
class Subject:
    """An object that is well, and whose spec is changed."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


SUBJECTS = (
    Subject("Instance", "web-1"),
    Subject("Instance", "inv-1"),
    Subject("Provider", "cloud"),
    Subject("Provider", "lab"),
    Subject("ApprovalPolicy", "careful"),
)
POLICY = {"resources": ["instances"], "maxRisk": "Moderate", "tools": ["power_off_instance"]}


class Complaints(logging.Handler):
    """What was logged that nobody should ever read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR or "bug" in text.lower():
            self.found.append(text)


class Living:
    """The system, and what people do to it."""

    def __init__(self, system: System, lab: Inventory, complaints: Complaints) -> None:
        self.system, self.lab, self._complaints = system, lab, complaints
        self._passes_before = self._writes_before = 0
        self._began = 0.0
        self._released: set[str] = set()
        """Owners of servers that were let go of on purpose."""

    # ---- what people do

    def spec(self, subject: Subject) -> dict[str, Any]:
        """As it is stored."""
        body = self.system.cluster.peek(MODELS[subject.kind].info.type, NAMESPACE, subject.name)
        assert body is not None, f"{subject} is gone"
        found: dict[str, Any] = body["spec"]
        return found

    async def write(self, subject: Subject, spec: dict[str, Any]) -> None:
        """Replace the spec, as the administrator. Raises what the API answers."""
        self._begin()
        steps = [{"op": "replace", "path": "/spec", "value": spec}]
        await self.system.admin.patch(MODELS[subject.kind].info.type, NAMESPACE, subject.name, steps)

    async def create(self, subject: Subject, spec: dict[str, Any]) -> None:
        """Make the object. Raises what the API answers."""
        self._begin()
        await self.system.apply(subject.kind, subject.name, spec, api=self.system.admin)
        if subject.kind == "Provider":
            await asyncio.sleep(10)
            await self._let_in(subject.name)

    async def pause(self, subject: Subject, *, paused: bool) -> None:
        """Ask it to stop between two steps, or to go on."""
        if self.exists(subject):
            value = "true" if paused else None
            await self.system.annotate(subject.name, as_=self.system.admin, kind=MODELS[subject.kind], paused=value)

    async def restore(self, subject: Subject, spec: dict[str, Any]) -> None:
        """Make it what it was, whatever it is now: by a change, or by a new object where that is refused."""
        if self.exists(subject):
            try:
                await self.write(subject, spec)
            except Invalid:
                await self.remove(subject)
        await self.settle(f"restoring {subject}")
        if not self.exists(subject):
            await self.create(subject, spec)

    async def remove(self, subject: Subject) -> None:
        """Delete the object, lifting its protection first, and wait until it is gone."""
        type = MODELS[subject.kind].info.type
        body = self.system.cluster.peek(type, NAMESPACE, subject.name)
        if body is None:
            return
        if (body["spec"].get("management") or {}).get("deletionProtection"):
            lifted = {"spec": {"management": {"deletionProtection": False}}}
            await self.system.admin.patch(type, NAMESPACE, subject.name, lifted)
        if self.releases(subject):
            self._released.add(body["metadata"]["uid"])
        await self.system.admin.delete(type, NAMESPACE, subject.name)

    async def decide(self) -> None:
        """Approve whatever waits."""
        for body in self._objects():
            resource = self._see(body)
            plan, current = resource.status.plan, resource.status.observed_generation == resource.metadata.generation
            waits = any(c.type == "AwaitingApproval" and c.status == "True" for c in resource.status.conditions)
            if not (plan and plan.digest and waits and current):
                continue
            if plan.digest not in resource.annotation(Annotation.DECISION):
                await self._approve(resource, plan.digest)

    async def _approve(self, resource: Any, digest: str) -> None:
        try:
            if resource.annotation(Annotation.APPROVE) == digest:  # came before status was current
                await self.system.annotate(resource.metadata.name, kind=type(resource), approve=None)
            await self.system.annotate(resource.metadata.name, kind=type(resource), approve=digest)
        except (NotFound, Conflict):
            return

    async def settle(self, what: object) -> None:
        """Wait until nothing is written any more, approving whatever waits."""
        loop = asyncio.get_running_loop()
        deadline, last, since = loop.time() + PATIENCE, -1, loop.time()
        while loop.time() - since < QUIET:
            await self.decide()
            if len(self.system.cluster.writes) != last:
                last, since = len(self.system.cluster.writes), loop.time()
            assert loop.time() < deadline, f"after {what} it never rests: {self.told()}; {self._last_writes()}"
            await asyncio.sleep(POLL)

    # ---- what must be true

    async def judge(self, what: object, *, deletes: bool = False, steps: int = 1) -> None:
        """Raises AssertionError with the first thing that is not as it must be."""
        assert not self._complaints.found, f"after {what} was logged: {self._complaints.found[0][:2000]}"
        writes = len(self.system.cluster.writes) - self._writes_before
        assert writes <= MAX_WRITES * (steps + deletes), f"{what} cost {writes} writes: {self._last_writes()}"
        self._count_passes(what, steps)
        for body in self._objects():
            await self._is_settled(self._see(body), what)
        await self._nothing_leaked(what)

    def exists(self, subject: Subject) -> bool:
        """Is it there?"""
        return self.system.cluster.peek(MODELS[subject.kind].info.type, NAMESPACE, subject.name) is not None

    def releases(self, subject: Subject) -> bool:
        """Does deleting it leave the infrastructure as it is?"""
        seen = self.system.see(subject.name, kind=MODELS[subject.kind])
        return bool(getattr(seen, "releases", False))

    def fingerprint(self) -> dict[str, Any]:
        """What is, as far as it depends on the specs alone."""
        objects = {}
        for body in self._objects():
            conditions = [(c.type.value, c.status.value, c.reason) for c in self._see(body).status.conditions]
            objects[f"{body['kind']}/{body['metadata']['name']}"] = (body["spec"], sorted(conditions))
        servers = sorted((s.name, s.type, s.image, s.state.value) for s in self.system.cloud._listing())
        hosts = {name: (self.lab.claimed_by(name), host.installed) for name, host in self.lab.hosts.items()}
        secrets = sorted(place.name for place in self.system.cluster.contents(NAMESPACE) if place.type == SECRET)
        return {"objects": objects, "servers": servers, "hosts": hosts, "secrets": secrets}

    def _begin(self) -> None:
        self._writes_before, self._passes_before = len(self.system.cluster.writes), self._passes()
        self._began = asyncio.get_running_loop().time()

    def _count_passes(self, what: object, steps: int) -> None:
        """A look at each resync, a few for the change, and no more."""
        passed, seconds = self._passes() - self._passes_before, asyncio.get_running_loop().time() - self._began
        routine = sum(seconds / max(1.0, min(15.0, self._see(body).resync_seconds)) + 1 for body in self._objects())
        assert passed <= 100 * steps + routine, f"{what} cost {passed} passes in {seconds:g} s: {self.told()}"

    def _passes(self) -> int:
        collected = self.system.processes[-1].core.metrics.registry.collect()
        samples = (sample for metric in collected for sample in metric.samples)
        return int(sum(s.value for s in samples if s.name == "controller_runtime_reconcile_total"))

    async def _is_settled(self, resource: Any, what: object) -> None:
        said = f"after {what}: {resource.key}: {story(resource)}"
        assert resource.status.observed_generation == resource.metadata.generation, said
        conditions = {c.type.value: c for c in resource.status.conditions}
        for condition in conditions.values():
            assert condition.reason != Reason.BUG, said
            assert condition.observed_generation == resource.metadata.generation, said
            if condition.status == "True" and condition.type != "Ready":
                assert len(condition.message) > 15, f"{condition.type} says nothing; {said}"
        told = [c for type, c in conditions.items() if type in TELLING and c.status == "True"]
        ready = conditions["Ready"]
        assert ready.status == "True" or told or len(ready.message) > 15, said
        agent = next(a for a in self.system.processes[-1].core.agents if a.kind is type(resource))
        if agent.waits_for(resource) is not None:
            assert ready.status != "True", said
            return
        try:
            observed = await agent.observe(resource)
        except AgentMetalError as error:
            assert told, f"it cannot be observed ({error}), and nobody is told; {said}"
            return
        need = fit.wanted(agent, resource, observed)
        assert not need.plan or told, f"{need.plan.steps} should be done, and nobody is told; {said}"
        if ready.status == "True" and not told:
            assert agent.diff(resource, observed) == (), said

    async def _nothing_leaked(self, what: object) -> None:
        bodies = list(self._bodies())
        living = {body["metadata"]["uid"] for body in bodies}
        for server in self.system.cloud._listing():
            owner = server.owner.uid if server.owner else ""
            assert not owner or owner in living | self._released, (
                f"after {what}: server {server.name} belongs to nobody that lives"
            )
        for body in bodies:
            held = FINALIZER in (body["metadata"].get("finalizers") or [])
            owners = {owner["uid"] for owner in body["metadata"].get("ownerReferences") or []}
            if body["kind"] == SECRET.kind and held:
                assert owners <= living, f"after {what}: Secret {body['metadata']['name']} outlives its owner"
        shown = {self._see(body).status.plan.operation for body in self._objects() if self._see(body).status.plan}
        for operation in self.system.operations():
            name = operation.metadata.name
            assert operation.phase.closed or name in shown, f"after {what}: {name} is {operation.phase} for ever"

    # ---- what is there

    def _bodies(self) -> Iterator[dict[str, Any]]:
        for place in self.system.cluster.contents(NAMESPACE):
            if (body := self.system.cluster.peek(*place)) is not None:
                yield body

    def _objects(self) -> list[dict[str, Any]]:
        kinds = (Instance.info.kind, Provider.info.kind)
        return [body for body in self._bodies() if body["kind"] in kinds]

    def _see(self, body: dict[str, Any]) -> Any:
        return self.system.see(body["metadata"]["name"], kind=MODELS[body["kind"]])

    async def _let_in(self, provider: str) -> None:
        if self.system.cluster.peek(SECRET, NAMESPACE, f"{provider}-ssh") is not None and provider == "lab":
            await self.lab.let_in(provider=provider)

    def told(self) -> str:
        """What the objects say."""
        return "; ".join(f"{body['metadata']['name']}: {story(self._see(body))}" for body in self._objects())

    def _last_writes(self) -> str:
        return ", ".join(f"{w.verb} {w.plural}/{w.name} {w.subresource}" for w in self.system.cluster.writes[-12:])


@asynccontextmanager
async def living() -> AsyncIterator[Living]:
    """Everything is well."""
    system, complaints = System(boot_seconds=1.0), Complaints()
    system.hosts.unit(["find", "-P"], Effect())
    system.hosts.unit(["userdel"], Effect(exit_code=NO_SUCH_USER))
    lab = Inventory(system)
    for name in ("h1", "h2"):
        lab.add(name)
    logging.getLogger().addHandler(complaints)
    try:
        await system.start()
        await system.provider()
        await lab.provide(wipe={"paths": ["/srv/data"], "users": ["bob"]})
        await system.instance("web-1")
        await lab.wants("inv-1")
        await system.apply("ApprovalPolicy", "careful", POLICY, api=system.admin)
        world = Living(system, lab, complaints)
        await world.settle("the beginning")
        for name in ("web-1", "inv-1"):
            await system.ready(name)
        yield world
    finally:
        logging.getLogger().removeHandler(complaints)
        await system.close()


__all__ = ["MODELS", "SUBJECTS", "Living", "Operation", "Subject", "living"]
