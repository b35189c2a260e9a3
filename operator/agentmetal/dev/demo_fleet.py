"""The demonstration of machines that exist: an inventory, looked at, taken over, rebooted, replaced, let go. By `demo`.

The machines are made outside of any Provider (`dev/hosts.py`) and have an administrator and data of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.resource import GROUP, VERSION, Annotation
from agentmetal.dev.hosts import PlainHost, PlainHosts, provider_of
from agentmetal.dev.machines import NAMESPACE
from agentmetal.dev.report import Reporter
from agentmetal.dev.story import WITHIN, Chapter, DemoFailed, Teller
from agentmetal.dev.system import DevSystem
from agentmetal.dev.watching import Body, condition, holds, until
from agentmetal.engine.text import plan_lines

HOSTS = ("db-1", "db-2", "web-1")
PROVIDER = "rack"
DATA = "/srv/orders.txt"
IMAGE_FILES = frozenset(
    {
        "/etc/agentmetal-image",
        "/etc/apt/apt.conf.d/90agentmetal",
        "/etc/ssh/sshd_config.d/agentmetal.conf",
        "/etc/systemd/journald.conf.d/agentmetal.conf",
    }
)
"""Of the image of development machines."""
OURS = ("find", "/etc", "/usr/local", "/var/lib", "/root", "-iname", "*agentmetal*")
"""Finds what there is of us on a host."""


async def tell_fleet(system: DevSystem, api: KubernetesClient, reporter: Reporter, told: list[Chapter]) -> None:
    """Machines that people have: an inventory, from the first look to the last."""
    plain = PlainHosts(directory=system.hosts)
    async with plain.running(HOSTS, reporter) as hosts:
        story = _Fleet(system=system, api=api, reporter=reporter, told=told, plain=plain, hosts=list(hosts))
        await story.chapter("inventory", "Three machines that run already, in an inventory", story.inventory)
        await story.chapter("observed", "Looked at, without touching anything", story.observed)
        await story.chapter("managed", "From Observe to Manage: what was shown is done", story.managed)
        await story.chapter("reboot", "A reboot that is asked for happens once", story.rebooted)
        await story.chapter("replaced", "Another machine answers at a known address", story.replaced)
        await story.chapter("released", "Let go: the machines and their data stay", story.released)
        await story.chapter("audit", "The audit trail proves what happened", story.audit)


@dataclass(kw_only=True)
class _Fleet(Teller):
    plain: PlainHosts
    hosts: list[PlainHost]

    async def inventory(self) -> str:
        for host in self.hosts:
            async with host.as_administrator() as ssh:
                await ssh.write_file(DATA, f"orders of {host.name}\n".encode())
        await self._apply_inventory()
        key = await self._key()
        self.reporter.say("   their administrator lets the Provider's public key in (status.publicKey)")
        for host in self.hosts:
            async with host.as_administrator() as ssh:
                await ssh.authorize(key)
        await self._look_again()
        await self._provider(lambda body: _usable(body) or None, "ready, with all of its hosts usable")
        return f"{len(self.hosts)} machines, reached with pinned host keys; nothing is installed on them"

    async def observed(self) -> str:
        await self._apply(*(_instance(host.name) for host in self.hosts))
        for host in self.hosts:
            body = await self.until(host.name, _previewed, "previewed")
            facts = body["status"]["facts"]
            self.reporter.say(f"   {host.name}: {facts['os']}, {facts['cpus']} processors, {facts['memoryMB']} MiB")
        for line in plan_lines(Instance.model_validate(body)):
            self.reporter.say(f"   {line}")
        if found := await self._traces():
            raise DemoFailed(f"looking left something behind: {found}")
        return "facts and the plan are shown; nothing on any of them was touched"

    async def managed(self) -> str:
        names = [host.name for host in self.hosts]
        patch = '{"spec":{"management":{"mode":"Manage"}}}'
        await self.kubectl("editor", "patch", "instances", *names, "--type=merge", f"--patch={patch}")
        for name in names:
            await self.until(name, lambda body: True if body and holds(body, "Ready") else None, "ready")
        return f"{len(names)} machines carry our claim and the command wrapper, and are Ready"

    async def rebooted(self) -> str:
        host = self.hosts[1]
        before = await _boot(host)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        await self.kubectl("editor", "annotate", "instance", host.name, f"{Annotation.REBOOT_AT}={at}")
        await self.until(host.name, _rebooted, "rebooted and ready")
        if await _boot(host) == before:
            raise DemoFailed(f"{host.name!r} was not rebooted")
        return f"{host.name} came back with another boot; the annotation may stay, it is older than that boot"

    async def replaced(self) -> str:
        host = self.hosts[2]
        self.reporter.say(f"   somebody puts another machine in the place of {host.name}")
        self.hosts[2] = new = await self.plain.replace(host)
        found = await self.until(host.name, _mismatch, "seen to be another machine")
        self.reporter.say(f"   {found}")
        self.reporter.say("   its owner knows the new machine: inventory, login and pin are renewed")
        async with new.as_administrator() as ssh:
            await ssh.write_file(DATA, f"orders of the new {host.name}\n".encode())
            await ssh.authorize(await self._key())
        await self._apply_inventory()
        repin = f"{Annotation.REPIN}={new.host_key.fingerprint}"
        await self.kubectl("editor", "annotate", "instance", host.name, repin)
        await self.decide(host.name, Annotation.APPROVE)
        await self.until(host.name, lambda body: True if body and holds(body, "Ready") else None, "ready")
        return "nothing was done on it before a human approved the new host key"

    async def released(self) -> str:
        names = [host.name for host in self.hosts]
        await self.kubectl("editor", "delete", "instances", *names, "--wait=false")
        for name in names:
            await self.until(name, lambda body: True if body is None else None, "gone")
        if found := await self._traces():
            raise DemoFailed(f"something of ours is left: {found}")
        for host in self.hosts:
            async with host.as_administrator() as ssh:
                if (await ssh.run(["cat", DATA])).exit_code:
                    raise DemoFailed(f"{DATA!r} on {host.name!r} is gone")
        return f"nothing of ours is left on {len(names)} machines, their data is untouched"

    async def _apply_inventory(self) -> None:
        await self._apply(provider_of(PROVIDER, self.hosts))

    async def _look_again(self) -> None:
        now = datetime.now(UTC).isoformat()
        look = f"{Annotation.RECONCILE_AT}={now}"
        await self.kubectl("editor", "annotate", "--overwrite", "provider", PROVIDER, look)

    async def _key(self) -> str:
        """The public key that logs in to the hosts of the inventory."""
        found = await self._provider(lambda body: (body.get("status") or {}).get("publicKey"), "shown with its key")
        return str(found)

    async def _apply(self, *objects: Mapping[str, Any]) -> None:
        listing = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        await self.kubectl("editor", "apply", "-f", "-", input=json.dumps(listing))

    async def _provider(self, answer: Any, what: str) -> Any:
        return await until(
            self.api,
            Provider.info.type,
            NAMESPACE,
            PROVIDER,
            lambda body: answer(body) if body else None,
            within=WITHIN,
            what=what,
        )

    async def _traces(self) -> Sequence[str]:
        """What there is of ours on the hosts."""
        found = await asyncio.gather(*(_ours_on(host) for host in self.hosts))
        return [f"{host.name}: {path}" for host, paths in zip(self.hosts, found, strict=True) for path in paths]


async def _ours_on(host: PlainHost) -> Sequence[str]:
    async with host.as_administrator() as ssh:
        shown = await ssh.run(OURS)
    return [path for path in shown.stdout.split() if path not in IMAGE_FILES]


async def _boot(host: PlainHost) -> str:
    """What differs between two boots, also of a container."""
    async with host.as_administrator() as ssh:
        return (await ssh.run(["systemctl", "show", "-P", "UserspaceTimestampMonotonic"])).stdout.strip()


def _instance(name: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": Instance.info.kind,
        "metadata": {"name": name},
        "spec": {
            "providerRef": {"name": PROVIDER},
            "type": "server",
            "image": "existing",
            "adopt": name,
            "management": {"mode": "Observe"},
        },
    }


def _usable(body: Body) -> bool:
    return holds(body, "Ready") and not body["status"].get("unusable")


def _previewed(body: Body | None) -> Body | None:
    """It is known what it is and what Manage would do."""
    status = (body or {}).get("status") or {}
    return body if status.get("facts") and status.get("plan") else None


def _rebooted(body: Body | None) -> bool | None:
    if body is None or not holds(body, "Ready"):
        return None
    last = body["status"].get("lastOperation") or {}
    return True if last.get("result") == "Succeeded" and "reboot" in last.get("message", "") else None


def _mismatch(body: Body | None) -> str | None:
    found = condition(body, "HostKeyMismatch") if body else None
    return str(found["message"]) if found and found["status"] == "True" else None
