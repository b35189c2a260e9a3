"""Which cluster, which namespace, which object: what people say on the command line. Used by all commands for people.

The user's current cluster is never touched by accident: `~/.kube/config` counts only for a plugin of kubectl.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from agentmetal.agents import AGENTS
from agentmetal.clients import kubeconfig as files
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.errors import Invalid, NotFound
from agentmetal.core.operation import Operation, read_operation
from agentmetal.core.resource import GROUP, AnyResource, Key
from agentmetal.dev.watching import client
from agentmetal.engine.agent import AnyAgent

LOCAL = Path(".agentmetal/admin.kubeconfig")

Kubeconfig = Annotated[Path | None, typer.Option("--kubeconfig", help="Else $KUBECONFIG, else .agentmetal here.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Else the kubeconfig's.")]
Kind = Annotated[str, typer.Argument(help="Kind, plural or short name; or kind/name.")]
Name = Annotated[str, typer.Argument(help="Name of the object.")]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A connection, and what it was asked for."""

    api: KubernetesClient
    kubeconfig: Path
    namespace: str
    warnings: list[str] = field(default_factory=list)
    """What the API server wanted people to know."""

    async def get(self, key: Key) -> AnyResource:
        """An object, read anew. Raises NotFound."""
        agent = agent_of(key.kind)
        body = await self.api.get(agent.kind.info.type, key.namespace, key.name)
        found: AnyResource = agent.kind.model_validate({"status": {}, **body})
        return found

    async def operations(self, namespace: str) -> tuple[Operation, ...]:
        """All operations of a namespace, by object and number."""
        listing = await self.api.list(Operation.info.type, namespace)
        found = map(read_operation, listing.items)
        parsed = []
        for operation in found:
            if isinstance(operation, Operation):
                parsed.append(operation)
            else:
                self.warnings.append(f"{operation}: it is not shown")
        return tuple(
            sorted(parsed, key=lambda op: (op.spec.resource_ref.kind, op.spec.resource_ref.name, op.spec.number))
        )


@asynccontextmanager
async def connected(kubeconfig: Path | None, namespace: str = "") -> AsyncIterator[Cluster]:
    """The cluster that is meant."""
    plugin = Path(sys.argv[0]).name.startswith("kubectl-")
    path = choose(kubeconfig, os.environ, Path.cwd(), Path.home() if plugin else None)
    warnings: list[str] = []
    async with client(path, on_warning=warnings.append) as api:
        where = namespace or files.from_file(path).namespace
        yield Cluster(api=api, kubeconfig=path, namespace=where, warnings=warnings)


def choose(explicit: Path | None, environment: Mapping[str, str], directory: Path, home: Path | None) -> Path:
    """The kubeconfig: named, else $KUBECONFIG, else the development system's here; `home` only for kubectl plugins."""
    if explicit is not None:
        return explicit
    if listed := [part for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]:
        if len(listed) > 1:
            raise Invalid(f"KUBECONFIG names {len(listed)} files: name the one that is meant by --kubeconfig")
        return Path(listed[0])
    if (directory / LOCAL).exists():
        return directory / LOCAL
    if home is not None and (home / ".kube/config").exists():
        return home / ".kube/config"
    raise NotFound(
        f"no cluster is named: pass --kubeconfig, set KUBECONFIG, or start a development system here ({str(LOCAL)!r})"
    )


def agent_of(text: str) -> type[AnyAgent]:
    """The agent of a kind, plural, short name, or `plural.agentmetal.io`, in any case. Raises Invalid."""
    wanted = text.lower().removesuffix(f".{GROUP}")
    for agent in AGENTS:
        info = agent.kind.info
        if wanted in (info.kind.lower(), info.plural, *info.short):
            return agent
    known = ", ".join(agent.kind.info.kind for agent in AGENTS)
    raise Invalid(f"kind {text!r} is none of AgentMetal's managed kinds: use one of {known}")


def named(kind: str, name: str, namespace: str) -> Key:
    """An object named as `KIND NAME` or `KIND/NAME`. Raises Invalid."""
    before, slash, after = kind.partition("/")
    if bool(slash) == bool(name) or (slash and not after):
        raise Invalid("name one object, as KIND NAME or KIND/NAME")
    return Key(agent_of(before).kind.info.kind, namespace, name or after)


def warned(cluster: Cluster, say: Callable[[str], None]) -> bool:
    """Say what the API server warned of. Whether there was anything."""
    for text in cluster.warnings:
        say(f"Warning: {text}")
    return bool(cluster.warnings)
