"""`agentmetal audit` on a database: the URL comes from the environment or a file, a gap is seen and acknowledged."""

import asyncio
from pathlib import Path

from tests.contract.audit_store.entries import entry
from typer.testing import CliRunner, Result

from agentmetal.cli.audit import audit
from agentmetal.core.audit import gap_entries
from agentmetal.core.errors import AgentMetalError
from agentmetal.store.postgres import PostgresAuditStore
from agentmetal.store.sqlite import SqliteAuditStore

LOST = {"f" * 64: "Operation shop/op-1"}
NOWHERE = "--kubeconfig=/nowhere/kubeconfig"


async def fill(store: PostgresAuditStore | SqliteAuditStore) -> None:
    for number in range(3):
        await store.append(entry(number))
    for gap in gap_entries(await store.head(), LOST, "2026-01-02T00:00:00Z"):
        await store.append(gap)
    await store.close()


def run(*arguments: str, url: str = "") -> Result:
    return CliRunner().invoke(audit, arguments, env={"AGENTMETAL_STORE_URL": url, "COLUMNS": "200"})


def said(result: Result) -> str:
    return " ".join(result.output.split())


def test_a_gap_in_a_database_is_shown_refused_and_acknowledged(database: str, tmp_path: Path) -> None:
    async def prepared() -> None:
        await fill(await PostgresAuditStore.open(database))

    asyncio.run(prepared())
    file = tmp_path / "url"
    file.write_text(f"{database}\n")
    assert "AuditTrail" in run("list", url=database).output
    assert '"action": "gap"' in run("show", "4", f"--store-url-file={file}").output
    broken = run("verify", NOWHERE, url=database)
    assert (broken.exit_code, "nothing above Safe begins" in said(broken)) == (1, True)
    nobody = run("acknowledge", "4", "--reason=it lagged", NOWHERE, url=database)
    assert isinstance(nobody.exception, AgentMetalError)
    assert "say it by --by" in nobody.exception.message
    told = run("acknowledge", "4", "--reason=it lagged", "--by=ann", NOWHERE, url=database)
    assert "ann (not checked) Acknowledged the gap of record 4" in said(told)
    again = run("acknowledge", "4", "--reason=it lagged", "--by=ann", NOWHERE, url=database)
    assert isinstance(again.exception, AgentMetalError)
    assert "is no open gap (open: none)" in again.exception.message
    assert "whole: 5 records" in said(run("verify", NOWHERE, url=database))


def test_a_gap_in_a_file_is_acknowledged_beside_the_operator_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"

    async def prepared() -> SqliteAuditStore:
        await fill(await SqliteAuditStore.open(path))
        return await SqliteAuditStore.open(path)

    with asyncio.Runner() as runner:
        operator = runner.run(prepared())
        told = run("acknowledge", "4", "--reason=it lagged", "--by=ann", f"--store={path}", NOWHERE)
        assert told.exit_code == 0, told.output
        assert runner.run(operator.gaps()) == ()
        assert runner.run(operator.append(entry(9))).sequence == 6
        runner.run(operator.close())
    assert "1 acknowledged gaps" in said(run("verify", f"--store={path}", NOWHERE))


def test_the_urls_file_that_is_missing_is_said_and_no_file_is_made(tmp_path: Path) -> None:
    missing = run("verify", f"--store-url-file={tmp_path / 'none'}", NOWHERE)
    assert isinstance(missing.exception, AgentMetalError)
    assert "cannot be read" in missing.exception.message
    none = run("acknowledge", "1", "--reason=x", "--by=ann", f"--store={tmp_path / 'none.db'}", NOWHERE)
    assert isinstance(none.exception, AgentMetalError)
    assert list(tmp_path.iterdir()) == []
