"""One HTTP POST to a webhook. Implements `kube.notify.Sink`; foreign exceptions end here. Built by `app.py`.

The URL is a secret (who knows it may post): no error, log line or traceback that leaves this module holds it or a part
of it. It tries once and keeps nothing; trying again is the caller's. Redirects are not followed: they would send a
signed body to somebody the administrator did not name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from agentmetal.core.errors import AgentMetalError, Invalid, RateLimited, Unavailable

TIMEOUT = 10.0
"""Seconds for one try, from the name's resolution to the answer's head."""

UNAVAILABLE: tuple[type[Exception], ...] = (
    aiohttp.ClientError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientConnectionResetError,
    aiohttp.ClientOSError,
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorDNSError,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ClientSSLError,
    aiohttp.ClientConnectorSSLError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ServerConnectionError,
    aiohttp.ServerDisconnectedError,
    aiohttp.ServerTimeoutError,
    aiohttp.SocketTimeoutError,
    aiohttp.ClientResponseError,
    aiohttp.ContentTypeError,
    aiohttp.ClientPayloadError,
    aiohttp.client_exceptions.UploadAbortedError,
    aiohttp.client_exceptions.UnixClientConnectorError,
    aiohttp.WSServerHandshakeError,
    aiohttp.client_exceptions.WSMessageTypeError,
    TimeoutError,
    OSError,
)
"""Nobody there, or no answer. A lost answer is the same: the delivery's id lets the receiver drop what comes twice."""
WRONG_ADDRESS: tuple[type[Exception], ...] = (
    aiohttp.InvalidURL,
    aiohttp.InvalidUrlClientError,
    aiohttp.NonHttpUrlClientError,
    aiohttp.TooManyRedirects,
    aiohttp.RedirectClientError,
    aiohttp.InvalidUrlRedirectClientError,
    aiohttp.NonHttpUrlRedirectClientError,
    ValueError,
)


def mapping() -> dict[type[Exception], type[AgentMetalError]]:
    """What becomes of each exception."""
    return dict.fromkeys(UNAVAILABLE, Unavailable) | dict.fromkeys(WRONG_ADDRESS, Invalid)


_MAPPING = mapping()


def checked_url(url: str, *, development: bool) -> str:
    """The URL, if it may be used: https; to this very machine also http, in development. Raises Invalid without it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - reading it raises ValueError for one that is no number
    except ValueError:
        host, parts = "", None
    if parts is None or not host or any(c.isspace() or not c.isprintable() for c in url):
        raise Invalid("the webhook's url cannot be read: write https://host/path, without blanks")
    if parts.scheme == "https" or (parts.scheme == "http" and development and _loopback(host)):
        return url
    raise Invalid("the webhook's url must begin with https:// (http:// only to loopback, in development)")


class Webhook:
    """Posts. Connections are kept for a while and closed by `close`."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Deliver once. Raises Unavailable, RateLimited (both may say when to try again), Invalid (never try again)."""
        foreign: Exception | None = None
        try:
            async with self._open().post(url, data=body, headers=headers, allow_redirects=False) as answer:
                code, after = answer.status, retry_after(answer.headers.get("Retry-After", ""), datetime.now(UTC))
        except (aiohttp.ClientError, OSError, TypeError, ValueError) as error:
            foreign = error
        if foreign is not None:  # raised out here: as its context the foreign one would carry the URL into tracebacks
            raise became(foreign)
        if refusal := refused(code, after):
            raise refusal

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                connector=aiohttp.TCPConnector(limit=4),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "agentmetal"},
            )
        return self._session


def became(foreign: Exception) -> AgentMetalError:
    """The core error for a foreign exception: its kind is told, its text is not, for that may hold the URL."""
    kind = next((_MAPPING[base] for base in type(foreign).__mro__ if base in _MAPPING), Unavailable)
    what = "its url cannot be used" if kind is Invalid else "it does not answer"
    return kind(f"the webhook: {what} ({type(foreign).__name__})")


def refused(code: int, after: float | None) -> AgentMetalError | None:
    """What an answer's status means; None when it was taken."""
    message = f"the webhook answers HTTP {code}"
    match code:
        case _ if 200 <= code < 300:
            return None
        case 429:
            return RateLimited(message, retry_after=after)
        case 408 | 425:
            return Unavailable(message, retry_after=after)
        case _ if code >= 500:
            return Unavailable(message, retry_after=after)
        case _ if 300 <= code < 400:
            return Invalid(f"{message}: redirects are not followed, put the final url into the Secret")
    return Invalid(f"{message}: it refuses the message")


def retry_after(text: str, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for: a number or a date; None for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (aware - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
