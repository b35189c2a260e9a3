"""Every foreign exception and every answer has a core error."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from agentmetal.clients.kubeerrors import mapping, refused, translated
from agentmetal.clients.kubernetes import connecting
from agentmetal.core.errors import (
    AgentMetalError,
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Unavailable,
)

FOREIGN = [
    found
    for found in vars(aiohttp.client_exceptions).values()
    if isinstance(found, type) and issubclass(found, Exception) and found.__module__ == "aiohttp.client_exceptions"
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.__name__)
def test_every_exception_of_aiohttp_is_mapped_by_name(foreign: type[Exception]) -> None:
    assert foreign in mapping(), f"aiohttp has a new exception {foreign.__name__}: say in kubeerrors what it means"


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.__name__)
def test_no_exception_of_aiohttp_gets_through(foreign: type[Exception]) -> None:
    # Their own constructors want sockets and requests; a subclass is mapped as they are.
    bare = type("Bare", (foreign,), {"__init__": lambda self: None, "__str__": lambda self: "no reason given"})
    for write in (True, False):
        with pytest.raises(AgentMetalError, match="Bare: no reason given"), translated("get", write=write):
            raise bare()


@pytest.mark.parametrize(
    ("lost", "becomes"),
    [
        (aiohttp.ServerDisconnectedError(), OutcomeUnknown),
        (aiohttp.ClientPayloadError(), OutcomeUnknown),
        (TimeoutError(), OutcomeUnknown),
        (ConnectionResetError(), OutcomeUnknown),
        (aiohttp.ConnectionTimeoutError(), Unavailable),
    ],
)
def test_a_lost_answer_to_a_write_is_unknown_and_to_a_read_unavailable(
    lost: Exception, becomes: type[AgentMetalError]
) -> None:
    with pytest.raises(becomes), translated("patch", write=True):
        raise lost
    with pytest.raises(Unavailable), translated("get", write=False):
        raise lost


@pytest.mark.parametrize(
    ("code", "options", "becomes"),
    [
        (400, {}, Invalid),
        (401, {}, Forbidden),
        (403, {}, Forbidden),
        (404, {}, NotFound),
        (409, {}, Conflict),
        (409, {"creating": True}, AlreadyExists),
        (410, {}, Gone),
        (415, {}, Invalid),
        (422, {}, Invalid),
        (422, {"tested": True}, Conflict),
        (429, {"retry_after": 3.0}, RateLimited),
        (500, {}, Unavailable),
        (503, {"write": True}, OutcomeUnknown),
    ],
)
def test_every_answer_has_its_error(code: int, options: Any, becomes: type[AgentMetalError]) -> None:
    error = refused("get a", code, {"message": "said so"}, **options)
    assert type(error) is becomes
    assert error.message == "get a: said so"
    assert error.retry_after == options.get("retry_after")


def test_a_refused_value_is_invalid_even_when_the_patch_tests_something() -> None:
    body = {"message": "no", "details": {"causes": [{"message": "spec.image: too long"}]}}
    error = refused("patch a", 422, body, tested=True)
    assert isinstance(error, Invalid)
    assert error.message == "patch a: no; spec.image: too long"


async def _refuses(_request: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
    raise RuntimeError("File descriptor 12 is used by transport <TCPTransport closed=False reading=True 0x55>")


async def _breaks(_request: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
    raise RuntimeError("a bug")


async def test_a_connection_that_the_event_loop_would_not_begin_was_never_sent() -> None:
    request: Any = None
    with pytest.raises(Unavailable, match="File descriptor 12"), translated("patch", write=True):
        await connecting(request, _refuses)
    with pytest.raises(aiohttp.ClientConnectionError):  # which kopf tries again
        await connecting(request, _refuses)
    with pytest.raises(RuntimeError, match="a bug"):
        await connecting(request, _breaks)
