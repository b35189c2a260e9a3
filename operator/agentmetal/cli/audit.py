"""`audit list`, `show`, `verify`: the evidence. Reads the operator's store, also while it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from agentmetal.cli.connection import Kubeconfig, connected
from agentmetal.cli.output import Format, answers, news, print_json, table
from agentmetal.core.audit import AuditRecord, Broken, Verified, entry_json, verify
from agentmetal.core.errors import AgentMetalError, NotFound
from agentmetal.core.operation import Operation
from agentmetal.store.reader import AuditFile

STORE = Path(".agentmetal/audit.db")
Store = Annotated[Path, typer.Option("--store", help="The audit trail's file.", envvar="AGENTMETAL_STORE_PATH")]
Output = Annotated[Format, typer.Option("--output", "-o", help="text or json")]

audit = typer.Typer(no_args_is_help=True, help="The audit trail: who decided what, and what ran.")


@audit.command("list")
def list_records(
    resource: Annotated[str, typer.Option(help="Only records whose resource holds this text.")] = "",
    store: Store = STORE,
    output: Output = Format.TEXT,
) -> None:
    """All records, oldest first."""
    found = [record for record in asyncio.run(_read(store)) if resource in record.entry.resource]
    if output is Format.JSON:
        print_json([_facts(record) for record in found])
        return
    shown = table("SEQUENCE", "TIME", "ACTION", "RESOURCE", "ACTOR", "RISK", "WHAT")
    for record in found:
        entry = record.entry
        what = "; ".join(text for text in (entry.decision, entry.outcome) if text)
        place = entry.resource.partition(" (")[0]
        row = (str(record.sequence), entry.timestamp, entry.action.value, place, entry.actor, entry.risk, what)
        shown.add_row(*(Text(cell) for cell in row))  # what hosts said must not be taken for markup
    answers().print(shown)


@audit.command()
def show(sequence: Annotated[int, typer.Argument(help="Its number.")], store: Store = STORE) -> None:
    """One record in full, as JSON."""
    for record in asyncio.run(_read(store, after=sequence - 1)):
        if record.sequence == sequence:
            print_json(_facts(record))
            return
    raise NotFound(f"there is no record {sequence} in {str(store)!r}")


@audit.command("verify")
def verify_trail(store: Store = STORE, kubeconfig: Kubeconfig = None) -> None:
    """Prove that no record was changed, removed or added. Exit code 1 when one was."""
    match asyncio.run(_verify(store, kubeconfig)):
        case Verified(records=records, head=head), anchors, remark:
            seen = f", {anchors} hashes of it seen in Operations" if anchors else ""
            answers().print(f"whole: {records} records, head {head[:12]}{seen}{remark}", markup=False)
        case Broken(sequence=sequence, what=what), _, _:
            news().print(f"broken at record {sequence}: {what}", markup=False, style="red")
            raise typer.Exit(1)


async def _verify(store: Path, kubeconfig: Path | None) -> tuple[Verified | Broken, int, str]:
    """Anchors are read before the file: what they saw must be in it by then."""
    anchors: dict[str, str] = {}
    remark = ""
    try:
        beside = store.parent / "admin.kubeconfig"
        async with connected(kubeconfig or (beside if beside.exists() else None)) as cluster:
            listing = await cluster.api.list(Operation.info.type)
        for body in listing.items:
            if head := (body.get("status") or {}).get("auditHead"):
                anchors[head] = f"Operation {body['metadata']['namespace']}/{body['metadata']['name']}"
    except AgentMetalError as error:
        remark = f"; without anchors, so a cut-off end would not be seen: {error.message}"
    return await verify(AuditFile(store).records(), anchors), len(anchors), remark


async def _read(store: Path, after: int = 0) -> list[AuditRecord]:
    return [record async for record in AuditFile(store).records(after=after)]


def _facts(record: AuditRecord) -> dict[str, Any]:
    return {
        "sequence": record.sequence,
        "hash": record.hash,
        "previous": record.previous,
        "format": record.format,
        **entry_json(record.entry),
    }
