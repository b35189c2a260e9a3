"""Where the errors of HTTP and aiohttp end: everything the API server or the network can answer, as core.errors.

`refused` maps answers, `translated` maps exceptions. Called by `clients.kubernetes` only.

                           read         write
    never sent             Unavailable  Unavailable       no connection, name or certificate
    sent, answer lost      Unavailable  OutcomeUnknown    reset, timeout, 5xx, unreadable answer
    refused                the same for both, by status
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp

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


class NotConnected(aiohttp.ClientConnectionError):
    """The event loop would not begin a connection. Raised by our own middleware, for aiohttp has no name for it."""


NEVER_SENT: tuple[type[Exception], ...] = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorDNSError,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ClientSSLError,
    aiohttp.ClientConnectorSSLError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.client_exceptions.UnixClientConnectorError,
    NotConnected,
)
ANSWER_LOST: tuple[type[Exception], ...] = (
    aiohttp.ClientError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientConnectionResetError,
    aiohttp.ClientOSError,
    aiohttp.ServerConnectionError,
    aiohttp.ServerDisconnectedError,
    aiohttp.ServerTimeoutError,
    aiohttp.SocketTimeoutError,
    aiohttp.ClientResponseError,
    aiohttp.ContentTypeError,
    aiohttp.ClientPayloadError,
    aiohttp.client_exceptions.UploadAbortedError,
    aiohttp.TooManyRedirects,
    aiohttp.RedirectClientError,
    aiohttp.InvalidUrlRedirectClientError,
    aiohttp.NonHttpUrlRedirectClientError,
    aiohttp.WSServerHandshakeError,
    aiohttp.client_exceptions.WSMessageTypeError,
    json.JSONDecodeError,
    TimeoutError,
    OSError,
)
WRONG_ADDRESS: tuple[type[Exception], ...] = (
    aiohttp.InvalidURL,
    aiohttp.InvalidUrlClientError,
    aiohttp.NonHttpUrlClientError,
)


def mapping() -> dict[type[Exception], type[AgentMetalError]]:
    """What becomes of each exception when it happens to a write."""
    return (
        dict.fromkeys(NEVER_SENT, Unavailable)
        | dict.fromkeys(ANSWER_LOST, OutcomeUnknown)
        | dict.fromkeys(WRONG_ADDRESS, Invalid)
    )


_MAPPING = mapping()


@contextmanager
def translated(what: str, *, write: bool) -> Iterator[None]:
    """Foreign exceptions end here. `what` says what was asked: `patch operations 'op-1'`."""
    try:
        yield
    except (*ANSWER_LOST, *WRONG_ADDRESS) as error:
        became = next(_MAPPING[base] for base in type(error).__mro__ if base in _MAPPING)
        if became is OutcomeUnknown and not write:
            became = Unavailable
        raise became(f"{what}: {type(error).__name__}: {error}") from error


def refused(
    what: str,
    code: int,
    body: Mapping[str, Any],
    *,
    creating: bool = False,
    tested: bool = False,
    write: bool = False,
    retry_after: float | None = None,
) -> AgentMetalError:
    """The error that an answer of 400 or more stands for. `body` is a Kubernetes Status, or empty.

    A JSON patch that cannot be applied is answered by a bare 422: no word tells a failed `test` from a missing path.
    `tested` says that the patch held a test: then it is a Conflict, for both mean that the object is not as it was.
    """
    message = f"{what}: {_sentence(code, body)}"
    match code:
        case 404:
            return NotFound(message)
        case 409:
            return AlreadyExists(message) if creating else Conflict(message)
        case 410:
            return Gone(message)
        case 422 if tested and not body.get("details"):
            return Conflict(message)
        case 401 | 403:
            return Forbidden(message)
        case 429:
            return RateLimited(message, retry_after=retry_after)
        case _ if 400 <= code < 500:
            return Invalid(message)
    return OutcomeUnknown(message) if write else Unavailable(message, retry_after=retry_after)


def _sentence(code: int, body: Mapping[str, Any]) -> str:
    """The server's own words, with the causes that it adds to a general message."""
    message = str(body.get("message") or f"HTTP {code}")
    details = body.get("details")
    causes = details.get("causes") if isinstance(details, dict) else ()
    listed = [cause for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []
    said = [str(cause["message"]) for cause in listed if cause.get("message")]
    return "; ".join([message, *(text for text in said if text not in message)])
