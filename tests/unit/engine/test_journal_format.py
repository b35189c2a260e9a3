"""Operations as version 0.1.0 left them behind: every later version reads them, and hashes their plans as they were.

The files are never changed. Who changes what is hashed raises `core.plan.FORMAT`; who changes what an Operation says so
that these would be misread raises `core.operation.JOURNAL_FORMAT` and adds files of the new form beside these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentmetal.core.operation import JOURNAL_FORMAT, Operation, OperationPhase, Unreadable, read_operation
from agentmetal.core.plan import digest
from agentmetal.core.resource import Key

FORMATS = Path(__file__).parent / "journal"
FILES = sorted(FORMATS.glob("format-*/*.json"))
UNTOUCHED_TOOLS = [file for file in FILES if file.stem != "blocked"]  # that one's tool was forged


def body_of(file: Path) -> dict[str, Any]:
    """What the API server held."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_every_format_has_its_files() -> None:
    assert {f"format-{number}" for number in range(1, JOURNAL_FORMAT + 1)} == {file.parent.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_operation_of_an_older_version_is_read_without_loss(file: Path) -> None:
    body = body_of(file)
    read = read_operation(body)
    assert isinstance(read, Operation)
    assert read.status.wire().items() >= body["status"].items()
    assert read.spec.wire().items() >= body["spec"].items()


@pytest.mark.parametrize("file", UNTOUCHED_TOOLS, ids=lambda file: file.stem)
def test_what_a_human_approved_has_the_same_digest_today(file: Path) -> None:
    operation = Operation.model_validate(body_of(file))
    ref, spec = operation.spec.resource_ref, operation.spec
    key = Key(ref.kind, operation.metadata.namespace, ref.name)
    assert operation.plan().hash_for(key, ref.uid) == spec.plan_hash
    assert digest(spec.plan_hash, spec.number) == spec.digest


@pytest.mark.parametrize("change", [{"format": JOURNAL_FORMAT + 1}, {"number": "many"}, {"steps": None}])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_cannot_be_read_still_tells_whose_it_is_and_whether_it_began(file: Path, change: dict[str, Any]) -> None:
    body = body_of(file)
    body["spec"] |= change
    found = read_operation(body)
    assert isinstance(found, Unreadable)
    assert (found.name, found.uid) == (body["metadata"]["name"], body["spec"]["resourceRef"]["uid"])
    assert found.number == int(found.name.rpartition("-")[2])
    assert found.untouched is (body["status"]["phase"] in (OperationPhase.PENDING, OperationPhase.AWAITING_APPROVAL))
    assert found.name in str(found)
