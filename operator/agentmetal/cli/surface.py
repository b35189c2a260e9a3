"""`tools` and `crds`: what the system can do, and what the cluster is told about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentmetal.agents import AGENTS
from agentmetal.cli.output import Format, answers, news, print_json, table
from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.operation import ApprovalPolicy, Operation
from agentmetal.kube.crds import AnyKind, fresh, write
from agentmetal.kube.install import shipped
from agentmetal_tools.risks import rows_of

KINDS: tuple[AnyKind, ...] = (*(agent.kind for agent in AGENTS), Operation, ApprovalPolicy, AuditCheckpoint)


def tools(output: Annotated[Format, typer.Option("--output", "-o", help="text or json")] = Format.TEXT) -> None:
    """List everything the system can do, with the risk of it and the reason."""
    found = [
        {
            "name": tool.name,
            "agent": agent.name,
            "summary": tool.summary,
            "risks": [{"risk": row.risk.value, "when": row.when, "reason": row.reason} for row in rows_of(tool.name)],
            "idempotent": tool.idempotent,
        }
        for agent in AGENTS
        for tool in agent.tools()
    ]
    if output is Format.JSON:
        print_json(found)
        return
    shown = table("TOOL", "RISK", "WHY", "WHAT IT DOES", "REPEATABLE")
    for agent in AGENTS:
        for tool in agent.tools():
            risks = rows_of(tool.name)
            shown.add_row(
                tool.name,
                "\n".join(row.risk.value for row in risks) or "Dangerous",
                "\n".join(row.reason + (f" ({row.when})" if row.when != "always" else "") for row in risks),
                tool.summary,
                "yes" if tool.idempotent else "no",
            )
    answers().print(shown)


def crds(
    write_them: Annotated[bool, typer.Option("--write", help="Write what is stale.")] = False,
    directory: Annotated[
        Path | None, typer.Option(help="Holds crds/ and manifests/. Unset: the installed ones.")
    ] = None,
) -> None:
    """Are the CRDs and roles as the models say? Exit code 1 when not."""
    place = directory or shipped()
    stale = fresh(place, KINDS)
    if not stale:
        answers().print(f"CRDs and roles in {place} are fresh", markup=False)
        return
    if not write_them:
        news().print(f"stale: {', '.join(stale)}; run agentmetal crds --write", markup=False)
        raise typer.Exit(1)
    write(place, KINDS)
    for name in stale:
        answers().print(f"written: {name}", markup=False)
