"""`pause`, `resume`, `rotate`, `operations`, `explain`: what is going on with an object, and how to hold it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from agentmetal.agents.provider.api import Provider
from agentmetal.cli.connection import Cluster, Kind, Kubeconfig, Namespace, agent_of, connected, named, warned
from agentmetal.cli.output import Format, answers, news, print_json, table
from agentmetal.core.clock import rfc3339
from agentmetal.core.errors import Forbidden, NotFound
from agentmetal.core.kubetypes import LEASE
from agentmetal.core.operation import moment
from agentmetal.core.resource import Annotation, Key
from agentmetal.dev.operator import LEASE_NAME
from agentmetal.engine import explain as explaining
from agentmetal.engine.text import operation_facts
from agentmetal.kube.install import NAMESPACE

Output = Annotated[Format, typer.Option("--output", "-o", help="text or json")]
CLOCK_SKEW = timedelta(minutes=1)
"""So much may this computer's clock be ahead of the operator's."""
OptionalName = Annotated[str, typer.Argument(help="Name of the object.")]


def pause(kind: Kind, name: OptionalName = "", namespace: Namespace = "", kubeconfig: Kubeconfig = None) -> None:
    """Begin no further step until `resume`; a step that runs comes to its end."""
    asyncio.run(_set_paused(kind, name, namespace, kubeconfig, "true"))


def resume(kind: Kind, name: OptionalName = "", namespace: Namespace = "", kubeconfig: Kubeconfig = None) -> None:
    """Undo `pause`."""
    asyncio.run(_set_paused(kind, name, namespace, kubeconfig, None))


def rotate(
    provider: Annotated[str, typer.Argument(help="Name of the Provider.")],
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Ask for another SSH key of a Provider: all its hosts get it before the old one goes."""
    asyncio.run(_rotate(provider, namespace, kubeconfig))


def operations(
    kind: Annotated[str, typer.Argument(help="Only those of this kind; or of kind/name.")] = "",
    name: OptionalName = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """List plans that wait, run, or ran."""
    asyncio.run(_operations(kind, name, namespace, kubeconfig, output))


def explain(kind: Kind, name: OptionalName = "", namespace: Namespace = "", kubeconfig: Kubeconfig = None) -> None:
    """Why is it in this state, what happens next, and who must act?"""
    asyncio.run(_explain(kind, name, namespace, kubeconfig))


async def _set_paused(kind: str, name: str, namespace: str, kubeconfig: Path | None, value: str | None) -> None:
    async with connected(kubeconfig, namespace) as cluster:
        key = named(kind, name, cluster.namespace)
        patch = {"metadata": {"annotations": {Annotation.PAUSED: value}}}
        await cluster.api.patch(agent_of(key.kind).kind.info.type, key.namespace, key.name, patch)
        warned(cluster, lambda text: news().print(text, markup=False))
        done = "paused: no further step begins" if value else "resumed"
        answers().print(f"{key}: {done}", markup=False)


async def _rotate(provider: str, namespace: str, kubeconfig: Path | None) -> None:
    async with connected(kubeconfig, namespace) as cluster:
        key, value = Key(Provider.info.kind, cluster.namespace, provider), rfc3339(datetime.now(UTC))
        patch = {"metadata": {"annotations": {Annotation.ROTATE: value}}}
        await cluster.api.patch(Provider.info.type, key.namespace, key.name, patch)
        warned(cluster, lambda text: news().print(text, markup=False))
        follow = f"agentmetal explain provider {provider} -n {key.namespace}"
        answers().print(f"{key}: rotation {value} is asked for; how far it is: {follow}", markup=False)


async def _operations(kind: str, name: str, namespace: str, kubeconfig: Path | None, output: Format) -> None:
    async with connected(kubeconfig, namespace) as cluster:
        found = await cluster.operations(cluster.namespace)
    if kind:
        before, _, after = kind.partition("/")
        wanted = agent_of(before).kind.info.kind
        only = name or after
        found = tuple(
            op
            for op in found
            if op.spec.resource_ref.kind == wanted and (not only or op.spec.resource_ref.name == only)
        )
    rows = [operation_facts(operation, datetime.now(UTC)) for operation in found]
    if output is Format.JSON:
        print_json(rows)
        return
    shown = table("NAME", "RESOURCE", "PHASE", "RISK", "PROGRESS", "DECISION", "AGE", "MESSAGE")
    for row in rows:
        shown.add_row(*row.values())
    answers().print(shown)
    news().print("older ones: agentmetal audit list", markup=False)


async def _explain(kind: str, name: str, namespace: str, kubeconfig: Path | None) -> None:
    async with connected(kubeconfig, namespace) as cluster:
        resource = await cluster.get(named(kind, name, cluster.namespace))
        journal = await cluster.operations(resource.metadata.namespace)
        now = datetime.now(UTC)
        since = await _leaderless_since(cluster, now)
    answers().print(f"{resource.key} is {resource.status.phase or 'not looked at yet'}", markup=False)
    for line in explaining.explain(resource, journal, now, leaderless_since=since).lines():
        answers().print(line, markup=False)


async def _leaderless_since(cluster: Cluster, now: datetime) -> datetime | None:
    """When the last operator was heard of, if none leads now. None also where the Lease may not be read."""
    try:
        spec = (await cluster.api.get(LEASE, NAMESPACE, LEASE_NAME))["spec"]
    except (NotFound, Forbidden):
        return None
    renewed = moment(spec.get("renewTime"))
    promised = timedelta(seconds=float(spec.get("leaseDurationSeconds") or 0))
    return renewed if renewed and now > renewed + promised + CLOCK_SKEW else None
