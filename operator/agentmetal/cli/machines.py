"""`reboot`, `repin`: what people want of a machine once, said by an annotation."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.power import reboot_time
from agentmetal.cli.connection import Kubeconfig, Name, Namespace, connected, named, warned
from agentmetal.cli.output import answers, news
from agentmetal.core.clock import rfc3339
from agentmetal.core.condition import ConditionStatus, ConditionType
from agentmetal.core.errors import Invalid
from agentmetal.core.resource import Annotation, AnyResource
from agentmetal_tools.repin import FINGERPRINT

At = Annotated[str, typer.Option(help="When, with its zone, like 2026-01-31T03:00:00Z; now by default.")]
Fingerprint = Annotated[str, typer.Argument(help="SHA256:... of the host key that shall be trusted.")]


def reboot(name: Name, at: At = "", namespace: Namespace = "", kubeconfig: Kubeconfig = None) -> None:
    """Reboot the host of an Instance once, through its own system."""
    when = reboot_time(at) if at else datetime.now(UTC)
    if when is None:
        raise Invalid(f"{at!r} is no time with a zone: write it like 2026-01-31T03:00:00Z")
    asyncio.run(_annotate(name, Annotation.REBOOT_AT, rfc3339(when), namespace, kubeconfig))


def repin(name: Name, fingerprint: Fingerprint, namespace: Namespace = "", kubeconfig: Kubeconfig = None) -> None:
    """Ask for a plan that trusts the host key which an Instance's host shows now; it then waits for approval."""
    if not re.match(FINGERPRINT, fingerprint):
        raise Invalid(f"{fingerprint!r} is no fingerprint: copy SHA256:... from the condition HostKeyMismatch")
    asyncio.run(_annotate(name, Annotation.REPIN, fingerprint, namespace, kubeconfig))


async def _annotate(name: str, annotation: str, value: str, namespace: str, kubeconfig: Path | None) -> None:
    async with connected(kubeconfig, namespace) as cluster:
        key = named(Instance.info.kind, name, cluster.namespace)
        if annotation == Annotation.REPIN:
            _check_doubted(await cluster.get(key), value)
        patch = {"metadata": {"annotations": {annotation: value}}}
        await cluster.api.patch(Instance.info.type, key.namespace, key.name, patch)
        warned(cluster, lambda text: news().print(text, markup=False))
        answers().print(f"{key}: {annotation}={value}; see: agentmetal explain instance {name}", markup=False)


def _check_doubted(resource: AnyResource, fingerprint: str) -> None:
    """Only what the host shows now may be asked for."""
    found = resource.condition(ConditionType.HOST_KEY_MISMATCH)
    if found is None or found.status is not ConditionStatus.TRUE:
        raise Invalid(f"{resource.key} shows the host key that is pinned: there is nothing to decide")
    if fingerprint not in found.message:
        raise Invalid(f"{fingerprint} is not what the host of {resource.key} shows: {found.message}")
