"""Every foreign exception of a webhook has a core error, and none of them takes the secret URL along."""

from __future__ import annotations

from datetime import UTC, datetime

import aiohttp
import pytest

from agentmetal.clients.webhook import became, mapping, refused, retry_after
from agentmetal.core.errors import AgentMetalError, Invalid, RateLimited, Unavailable

FOREIGN = [
    found
    for found in vars(aiohttp.client_exceptions).values()
    if isinstance(found, type) and issubclass(found, Exception) and found.__module__ == "aiohttp.client_exceptions"
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.__name__)
def test_every_exception_of_aiohttp_is_mapped_by_name_and_loses_its_text(foreign: type[Exception]) -> None:
    assert foreign in mapping(), f"aiohttp has a new exception {foreign.__name__}: say in clients/webhook what it means"
    bare = type("Bare", (foreign,), {"__init__": lambda self: None, "__str__": lambda self: "https://s3cr3t.example"})
    error = became(bare())
    assert isinstance(error, Unavailable | Invalid)
    assert "s3cr3t" not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize(
    ("code", "becomes"),
    [
        (200, None),
        (204, None),
        (301, Invalid),
        (307, Invalid),
        (400, Invalid),
        (401, Invalid),
        (404, Invalid),
        (408, Unavailable),
        (410, Invalid),
        (425, Unavailable),
        (429, RateLimited),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_every_answer_has_its_meaning(code: int, becomes: type[AgentMetalError] | None) -> None:
    error = refused(code, 3.0)
    assert type(error) is (becomes or type(None))
    if isinstance(error, Unavailable | RateLimited):
        assert error.retry_after == 3.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2020 00:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after(text, datetime(2026, 1, 1, tzinfo=UTC)) == seconds
