"""The risk table: every tool has rows with reasons, and what the table does not know is Dangerous."""

from __future__ import annotations

import pytest
from tests.support.agents import SERVER_NAME

from agentmetal.agents import AGENTS
from agentmetal.core.risk import Risk
from agentmetal.core.tool import AnyTool
from agentmetal_tools.risks import CONDITIONS, RISKS, Row, risk_of, rows_of
from agentmetal_tools.servers import NOBODY, DecommissionParams, ServerFacts

TOOLS = [tool for agent in AGENTS for tool in agent.tools()]
PARAMS = DecommissionParams(
    provider="cloud", server=SERVER_NAME, host_key_secret="web-host-key", client_key_secret="cloud-ssh"
)


@pytest.mark.parametrize("tool", TOOLS, ids=[tool.name for tool in TOOLS])
def test_every_tool_has_a_risk_with_a_reason(tool: AnyTool) -> None:
    rows = rows_of(tool.name)
    assert rows, "no row: it would always be Dangerous"
    assert all(row.reason.endswith(".") for row in rows)


@pytest.mark.parametrize("row", RISKS, ids=[f"{row.tool}: {row.when}" for row in RISKS])
def test_every_row_is_about_a_tool_and_a_condition_that_exist(row: Row) -> None:
    assert row.tool in {tool.name for tool in TOOLS}
    assert row.when in CONDITIONS


def test_the_last_row_of_a_tool_has_no_condition() -> None:
    conditional = [tool.name for tool in TOOLS if (rows := rows_of(tool.name)) and rows[-1].when != "always"]
    assert conditional == [], "what the table does not say is Dangerous: say so in a last row, with the reason"


def test_a_tool_without_rows_is_dangerous() -> None:
    assert risk_of("format_the_moon")(PARAMS, ServerFacts(exists=True)) is Risk.DANGEROUS


@pytest.mark.parametrize(("exists", "risk"), [(True, Risk.DANGEROUS), (False, Risk.SAFE)])
def test_decommissioning_is_harmless_only_when_nothing_is_there(exists: bool, risk: Risk) -> None:
    assert risk_of("decommission_instance")(PARAMS, ServerFacts(exists=exists)) is risk


def test_what_deletes_data_is_never_proposed_by_a_model() -> None:
    dangerous = {row.tool for row in RISKS if row.risk is Risk.DANGEROUS}
    assert not [tool.name for tool in TOOLS if tool.name in dangerous and tool.proposable]


@pytest.mark.parametrize(("kept", "risk"), [(True, Risk.MODERATE), (False, Risk.DANGEROUS)])
def test_letting_go_of_a_machine_that_stays_deletes_nothing(kept: bool, risk: Risk) -> None:
    assert risk_of("decommission_instance")(PARAMS, ServerFacts(exists=True, kept=kept)) is risk


@pytest.mark.parametrize(("owner", "risk"), [("", Risk.MODERATE), (NOBODY, Risk.MODERATE), ("c/n/u", Risk.DANGEROUS)])
def test_taking_over_what_somebody_has_is_dangerous(owner: str, risk: Risk) -> None:
    assert risk_of("adopt_instance")(PARAMS, ServerFacts(exists=True, foreign=owner)) is risk
