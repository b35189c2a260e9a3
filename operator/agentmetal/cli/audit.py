"""`audit list`, `show`, `verify`, `acknowledge`, `prune`: the evidence. Reads the store also while the operator runs.

The store is the operator's: a file, or the PostgreSQL database of AGENTMETAL_STORE_URL. A URL holds a password, so it
comes from the environment or from a file, never from the command line, which every process of the machine may read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from agentmetal.cli.connection import Kubeconfig, connected
from agentmetal.cli.output import Format, answers, news, print_json, table
from agentmetal.core.audit import (
    AuditRecord,
    AuditStore,
    Broken,
    Head,
    Verified,
    acknowledgement,
    entry_json,
    verify,
)
from agentmetal.core.checkpoint import AuditCheckpoint
from agentmetal.core.clock import SystemClock, rfc3339
from agentmetal.core.errors import AgentMetalError, Invalid, NotFound
from agentmetal.core.kubetypes import SELF_SUBJECT_REVIEW
from agentmetal.core.operation import Operation
from agentmetal.core.ports import KubeApi
from agentmetal.settings import PREFIX
from agentmetal.store.postgres import PostgresAuditStore, PostgresTrail
from agentmetal.store.reader import AuditFile
from agentmetal.store.sqlite import SqliteAuditStore

STORE = Path(".agentmetal/audit.db")
URL = f"{PREFIX}STORE_URL"
Store = Annotated[Path, typer.Option("--store", help="The audit trail's file.", envvar="AGENTMETAL_STORE_PATH")]
UrlFile = Annotated[
    Path | None, typer.Option("--store-url-file", help=f"Holds the URL of the database. Else ${URL}, else the file.")
]
Output = Annotated[Format, typer.Option("--output", "-o", help="text or json")]
Sequence = Annotated[int, typer.Argument(help="Its number.")]

audit = typer.Typer(no_args_is_help=True, help="The audit trail: who decided what, and what ran.")


@audit.command("list")
def list_records(
    resource: Annotated[str, typer.Option(help="Only records whose resource holds this text.")] = "",
    store: Store = STORE,
    url_file: UrlFile = None,
    output: Output = Format.TEXT,
) -> None:
    """All records, oldest first."""
    found = [record for record in asyncio.run(_read(store, url_file)) if resource in record.entry.resource]
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
def show(sequence: Sequence, store: Store = STORE, url_file: UrlFile = None) -> None:
    """One record in full, as JSON."""
    print_json(_facts(asyncio.run(_one(store, url_file, sequence))))


@audit.command("verify")
def verify_trail(store: Store = STORE, url_file: UrlFile = None, kubeconfig: Kubeconfig = None) -> None:
    """Prove that no record was changed, removed or added. Exit code 1 when one was, or a gap is open."""
    seen, verdict = asyncio.run(_verify(store, url_file, kubeconfig))
    match verdict:
        case Verified(records=records, head=head, start=start, gaps=gaps):
            since = f" since checkpoint {start}" if start else ""
            told = f", {gaps} acknowledged gaps" if gaps else ""
            where = f", {len(seen.anchors)} hashes of it seen in Operations and checkpoints" if seen.anchors else ""
            said = f"whole: {records} records{since}, head {head[:12]}{told}{where}{seen.remark}"
            answers().print(said, markup=False)
        case Broken(sequence=sequence, what=what):
            news().print(f"broken at record {sequence}: {what}", markup=False, style="red")
            raise typer.Exit(1)


@audit.command()
def acknowledge(
    sequence: Sequence,
    reason: Annotated[str, typer.Option(help="What was lost, and what was done about it.")],
    store: Store = STORE,
    url_file: UrlFile = None,
    kubeconfig: Kubeconfig = None,
    by: Annotated[str, typer.Option(help="Who you are, where no cluster can say it.")] = "",
) -> None:
    """Say that you have looked at a gap record, so that plans above Safe begin again. It is recorded with your name."""
    record = asyncio.run(_acknowledge(sequence, reason, store, url_file, kubeconfig, by))
    answers().print(f"recorded as {record.sequence}: {record.entry.actor} {record.entry.decision}", markup=False)


@audit.command()
def prune(
    before: Annotated[str, typer.Option(help="Name of an AuditCheckpoint: that record and all before it go.")],
    store: Store = STORE,
    url_file: UrlFile = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Remove old records. Their hashes, used digests and numbers stay; `verify` proves from the checkpoint on."""
    went, head = asyncio.run(_prune(before, store, url_file, kubeconfig))
    answers().print(
        f"{went} records removed; the trail starts after record {head.sequence}. Keep AuditCheckpoint {before!r}:"
        " without it the start proves nothing",
        markup=False,
    )


Trail = AuditFile | PostgresTrail


@asynccontextmanager
async def _opened(store: Path, url_file: Path | None) -> AsyncIterator[Trail]:
    """The trail to read; beside a running operator, and by a role that may only read."""
    url = _url(url_file, os.environ)
    trail: Trail = await PostgresTrail.look(url) if url else AuditFile(store)
    try:
        yield trail
    finally:
        await trail.close()


@asynccontextmanager
async def _writable(store: Path, url_file: Path | None) -> AsyncIterator[AuditStore]:
    """The trail to write to, also beside a running operator."""
    trail: AuditStore
    if url := _url(url_file, os.environ):
        trail = await PostgresAuditStore.open(url)
    else:
        await AuditFile(store).head()  # a command makes no store where there is none
        trail = await SqliteAuditStore.open(store, alone=False)
    try:
        yield trail
    finally:
        await trail.close()


def _url(file: Path | None, environment: Mapping[str, str]) -> str:
    """The database's URL, or nothing where the trail is a file."""
    if file is None:
        return environment.get(URL, "")
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise NotFound(f"the file {str(file)!r} with the store's URL cannot be read: {error.strerror}") from error


@dataclass(kw_only=True)
class _Seen:
    """What the cluster has seen of the trail."""

    anchors: dict[str, str] = field(default_factory=dict)
    checkpoints: dict[str, int] = field(default_factory=dict)
    """Their sequences by hash."""
    remark: str = ""


async def _look_outside(store: Path, kubeconfig: Path | None) -> _Seen:
    seen = _Seen()
    try:
        beside = store.parent / "admin.kubeconfig"
        async with connected(kubeconfig or (beside if beside.exists() else None)) as cluster:
            for body in (await cluster.api.list(Operation.info.type)).items:
                if head := (body.get("status") or {}).get("auditHead"):
                    seen.anchors[head] = f"Operation {body['metadata']['namespace']}/{body['metadata']['name']}"
            for checkpoint in await _checkpoints(cluster.api):
                seen.anchors[checkpoint.spec.hash] = f"AuditCheckpoint {checkpoint.metadata.name}"
                seen.checkpoints[checkpoint.spec.hash] = checkpoint.spec.sequence
    except AgentMetalError as error:
        seen.remark = f"; without anchors, so a cut-off end would not be seen: {error.message}"
    return seen


async def _checkpoints(api: KubeApi) -> list[AuditCheckpoint]:
    found = (await api.list(AuditCheckpoint.info.type)).items
    return [AuditCheckpoint.model_validate({**body, "status": {}}) for body in found]


async def _verify(store: Path, url_file: Path | None, kubeconfig: Path | None) -> tuple[_Seen, Verified | Broken]:
    """Anchors are read before the trail: what they saw must be in it by then."""
    seen = await _look_outside(store, kubeconfig)
    async with _opened(store, url_file) as trail:
        while True:
            start = await trail.start()
            verdict = await _verified(trail, start, seen)
            if isinstance(verdict, Verified) or await trail.start() == start:  # else retention ran under us
                return seen, verdict


async def _verified(trail: Trail, start: Head, seen: _Seen) -> Verified | Broken:
    places = await trail.places(list(seen.anchors))
    removed = {
        hash
        for hash, place in places.items()
        # A checkpoint says itself where it was: what the store says of it counts for nothing.
        if place <= start.sequence and seen.checkpoints.get(hash, place) <= start.sequence
    }
    vouched: dict[str, str] = dict(seen.anchors)
    if start.hash not in seen.checkpoints:
        vouched.pop(start.hash, None)
    if seen.remark:  # nobody could be asked
        vouched[start.hash] = "the store itself"
    return await verify(trail.records(), vouched, start=start, removed=removed)


async def _acknowledge(
    sequence: int, reason: str, store: Path, url_file: Path | None, kubeconfig: Path | None, by: str
) -> AuditRecord:
    if not reason.strip():
        raise Invalid("an acknowledgement without a reason helps nobody: say what was lost and what was done")
    who = await _who(store, kubeconfig, by)
    async with _writable(store, url_file) as trail:
        gaps = {gap.sequence: gap for gap in await trail.gaps()}
        if sequence not in gaps:
            known = ", ".join(map(str, gaps)) or "none"
            raise NotFound(f"record {sequence} is no open gap (open: {known}): 'agentmetal audit list' shows all")
        return await trail.append(acknowledgement(gaps[sequence], who, reason, rfc3339(SystemClock().now())))


async def _who(store: Path, kubeconfig: Path | None, by: str) -> str:
    """The person: as the API server knows them, else as they say."""
    beside = store.parent / "admin.kubeconfig"
    try:
        async with connected(kubeconfig or (beside if beside.exists() else None)) as cluster:
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
            answer = await cluster.api.create(SELF_SUBJECT_REVIEW, body)
    except AgentMetalError as error:
        if by:
            return f"{by} (not checked)"
        raise Invalid(f"who you are is not known: {error.message}; or say it by --by") from error
    user = str(answer["status"]["userInfo"]["username"])
    return f"{by} (as {user})" if by else user


async def _prune(before: str, store: Path, url_file: Path | None, kubeconfig: Path | None) -> tuple[int, Head]:
    beside = store.parent / "admin.kubeconfig"
    async with connected(kubeconfig or (beside if beside.exists() else None)) as cluster:
        found = {checkpoint.metadata.name: checkpoint.head for checkpoint in await _checkpoints(cluster.api)}
    if before not in found:
        raise NotFound(f"there is no AuditCheckpoint {before!r}: 'kubectl get auditcheckpoints -A' shows all")
    async with _writable(store, url_file) as trail:
        return await trail.prune(found[before]), found[before]


async def _read(store: Path, url_file: Path | None) -> list[AuditRecord]:
    async with _opened(store, url_file) as trail:
        return [record async for record in trail.records()]


async def _one(store: Path, url_file: Path | None, sequence: int) -> AuditRecord:
    async with _opened(store, url_file) as trail:
        async for record in trail.records(after=sequence - 1):
            if record.sequence == sequence:
                return record
            break
    raise NotFound(f"there is no record {sequence} in the trail")


def _facts(record: AuditRecord) -> dict[str, Any]:
    return {
        "sequence": record.sequence,
        "hash": record.hash,
        "previous": record.previous,
        "format": record.format,
        **entry_json(record.entry),
    }
