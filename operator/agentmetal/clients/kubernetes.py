"""The Kubernetes API over HTTP: `KubernetesClient` implements `core.ports.KubeApi`. For `kube` and `dev` only.

It speaks JSON, keeps at most 32 connections beside its watches, and notices dead ones; it retries and caches nothing.
Errors end in `clients.kubeerrors`. Its twin in process is `kube.memory`; one contract suite holds for both.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from agentmetal.clients.kubeconfig import Connection
from agentmetal.clients.kubeerrors import NotConnected, refused, translated
from agentmetal.core.errors import Forbidden, Invalid, OutcomeUnknown, Unavailable
from agentmetal.core.ports import Json, ObjectList, Patch, WatchEvent
from agentmetal.core.resource import ResourceType

RequestHook = Callable[[str, str, str], None]
"""Called with verb, plural and HTTP status (or the name of the exception) of each request."""

CONNECTIONS = 32
"""More only queue inside the API server; without a bound a start with 5,000 objects opens thousands."""
REQUEST_SECONDS = 10.0
CONNECT_SECONDS = 3.0
WATCH_SILENCE_SECONDS = 75.0
"""The server sends a bookmark every 60 s: a watch that is silent for longer is dead."""
YOUNG_SECONDS = 30.0
"""So long after an outage a permission that is missing may only be one that the API server has not read yet."""
PAGE = 500
LONG_PAGE = 2000
"""Of metadata; some 5 MB."""
TOKEN_SECONDS = 60.0
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One request before it is sent."""

    verb: str
    type: ResourceType
    path: str
    name: str = ""
    method: str = "GET"
    query: Mapping[str, str] | None = None
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"
    timeout: aiohttp.ClientTimeout | None = None

    @property
    def what(self) -> str:
        return f"{self.verb} {self.type.plural} {self.name!r}" if self.name else f"{self.verb} {self.type.plural}"

    @property
    def write(self) -> bool:
        return self.method != "GET"

    @property
    def tested(self) -> bool:
        """Is it a JSON patch that tests something?"""
        return isinstance(self.body, list) and any(step.get("op") == "test" for step in self.body)


class _Name(BaseModel):
    """Which object it is, and how new."""

    name: str
    namespace: str | None = None
    uid: str
    resource_version: str = Field(alias="resourceVersion")


class _Named(BaseModel):
    metadata: _Name


class _Position(BaseModel):
    resource_version: str = Field(alias="resourceVersion")
    next: str | None = Field(default=None, alias="continue")


class _Names(BaseModel):
    """A page of metadata as the server sends it. Most of that is managedFields, which nobody here reads."""

    items: list[_Named] | None
    metadata: _Position


class KubernetesClient:
    """Implements `core.ports.KubeApi`. Make it inside the event loop; close it."""

    def __init__(
        self,
        connection: Connection,
        *,
        on_request: RequestHook | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self._connection = connection
        self._on_warning = on_warning or (lambda _text: None)
        self._on_request = on_request or (lambda _verb, _plural, _status: None)
        self._token, self._token_due = connection.token, 0.0
        self._troubled_at = float("-inf")
        # First come, first served. aiohttp's own limit lets newcomers overtake: with more callers than connections some
        # wait until their time is up, and watches count, too (measured: a create that was never sent, after 10 s).
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=60.0, ssl=connection.tls, socket_factory=lively_socket
            ),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS),
            headers={"User-Agent": "agentmetal"},
            trust_env=False,
            middlewares=(connecting,),
        )

    async def close(self) -> None:
        """Close all connections; open watches end."""
        await self._session.close()

    async def get(self, type: ResourceType, namespace: str, name: str) -> dict[str, Any]:
        return await self._json(_Call(verb="get", type=type, path=_path(type, namespace, name), name=name))

    async def list(
        self,
        type: ResourceType,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> ObjectList:
        accept = METADATA_LIST if metadata_only else "application/json"
        query, ask = {"limit": str(LONG_PAGE if metadata_only else PAGE)}, self._names if metadata_only else self._json
        query |= {"labelSelector": label_selector} if label_selector else {}
        query |= {"fieldSelector": field_selector} if field_selector else {}
        items: list[dict[str, Any]] = []
        while True:
            call = _Call(verb="list", type=type, path=_path(type, namespace or "", ""), query=query, accept=accept)
            page = await ask(call)
            for item in page["items"] or ():
                item["metadata"].pop("managedFields", None)  # a third of an object, and nobody here reads it
                items.append(item)
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        for item in items:  # the server leaves them out of the items of built-in types
            item.setdefault("apiVersion", type.api_version)
            item.setdefault("kind", type.kind)
        return ObjectList(items=tuple(items), resource_version=page["metadata"]["resourceVersion"])

    async def create(self, type: ResourceType, body: Json, *, dry_run: bool = False) -> dict[str, Any]:
        metadata = body.get("metadata") or {}
        namespace = str(metadata.get("namespace") or "")
        if type.namespaced and not namespace:
            raise Invalid(f"{type.kind} {metadata.get('name')!r} names no namespace: set metadata.namespace")
        return await self._json(
            _Call(
                verb="create",
                type=type,
                path=_path(type, namespace, ""),
                name=str(metadata.get("name", "")),
                method="POST",
                query=_options(dry_run=dry_run, strict=True),
                body={"apiVersion": type.api_version, "kind": type.kind, **body},
            )
        )

    async def patch(
        self,
        type: ResourceType,
        namespace: str,
        name: str,
        patch: Patch,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> dict[str, Any]:
        merge = isinstance(patch, Mapping)
        return await self._json(
            _Call(
                verb="patch",
                type=type,
                path=_path(type, namespace, name) + (f"/{subresource}" if subresource else ""),
                name=name,
                method="PATCH",
                # A status may be written against a CRD older than this program: what it does not know is dropped.
                query=_options(dry_run=dry_run, strict=subresource != "status"),
                body=patch if merge else [*patch],
                content_type="application/merge-patch+json" if merge else "application/json-patch+json",
            )
        )

    async def delete(
        self, type: ResourceType, namespace: str, name: str, *, propagation: str = "Background", uid: str = ""
    ) -> None:
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        options |= {"preconditions": {"uid": uid}} if uid else {}
        path = _path(type, namespace, name)
        await self._json(_Call(verb="delete", type=type, path=path, name=name, method="DELETE", body=options))

    async def watch(
        self, type: ResourceType, namespace: str | None = None, *, resource_version: str = ""
    ) -> AsyncGenerator[WatchEvent, None]:
        query = {"watch": "1", "allowWatchBookmarks": "true"}
        query |= {"resourceVersion": resource_version} if resource_version else {}
        silence = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=WATCH_SILENCE_SECONDS)
        call = _Call(verb="watch", type=type, path=_path(type, namespace or "", ""), query=query, timeout=silence)
        async with self._answer(call) as response:
            try:
                async for line in _lines(response.content):
                    yield _event(call, json.loads(line))
            finally:
                await _hang_up(response)

    async def _json(self, call: _Call) -> dict[str, Any]:
        async with self._turns, self._answer(call) as response:
            document: dict[str, Any] = await response.json()
            return document

    async def _names(self, call: _Call) -> dict[str, Any]:
        """A page of metadata, of which only what `_Names` wants is made into objects: a takeover waits for it."""
        async with self._turns, self._answer(call) as response:
            text = await response.read()
        try:
            page = _Names.model_validate_json(text)
        except ValidationError as error:
            raise Unavailable(f"{call.what}: the answer is no list: {error.errors()[0]['msg']}") from error
        return {"items": (), **page.model_dump(by_alias=True, exclude_none=True)}

    @asynccontextmanager
    async def _answer(self, call: _Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the block reads the answer. Here every foreign exception is translated and counted."""
        status, headers = "cancelled", await self._headers(call)
        try:
            with translated(call.what, write=call.write):
                async with self._session.request(
                    call.method,
                    self._connection.server + call.path,
                    params=call.query,
                    data=None if call.body is None else json.dumps(call.body),
                    headers=headers,
                    timeout=call.timeout or self._session.timeout,
                    allow_redirects=False,
                ) as response:
                    status = str(response.status)
                    self._warn(response)
                    if response.status >= 300:
                        raise await _refusal(call, response)
                    yield response
        except Exception as error:
            status = status if status != "cancelled" else type(error).__name__
            raise self._judged(error) from error.__cause__
        finally:
            self._on_request(call.verb, call.type.plural, status)

    def _judged(self, error: Exception) -> Exception:
        """A young API server refuses everybody until it has read the roles: right after an outage nothing is final."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, Unavailable | OutcomeUnknown):
            self._troubled_at = now
        by_roles = isinstance(error, Forbidden) and " cannot " in error.message and " resource " in error.message
        if by_roles and now - self._troubled_at < YOUNG_SECONDS:
            return Unavailable(f"{error} (it was away until just now, and may not know our roles yet)", retry_after=1.0)
        return error

    def _warn(self, response: aiohttp.ClientResponse) -> None:
        """Hand on what the server wants people to know: `299 - "text"`, as admission rules say it."""
        for header in response.headers.getall("Warning", ()):
            text = header.partition('"')[2].rpartition('"')[0]
            self._on_warning(text.replace('\\"', '"').replace("\\\\", "\\"))

    async def _headers(self, call: _Call) -> dict[str, str]:
        headers = {"Accept": call.accept, "Content-Type": call.content_type}
        file, now = self._connection.token_file, asyncio.get_running_loop().time()
        if file and now >= self._token_due:
            try:
                self._token = (await asyncio.to_thread(file.read_text)).strip()
            except OSError as error:
                raise Unavailable(f"token file {str(file)!r} cannot be read: {error.strerror}") from error
            self._token_due = now + TOKEN_SECONDS
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers


async def connecting(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Between a session and the API server: a connection that uvloop refuses to begin could not be made, no more.

    When connections break by the dozen, the kernel gives the number of a closed socket out again before uvloop has
    forgotten the old one, and it raises a RuntimeError (aiohttp #10506, uvloop #646), seen when an API server died.
    """
    try:
        return await handler(request)
    except RuntimeError as error:
        if "is used by transport" not in str(error):
            raise
        raise NotConnected(str(error)) from error


def lively_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that finds out within 20 s that the other side is gone, even while data waits to be acknowledged."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
    return made


def _path(type: ResourceType, namespace: str, name: str) -> str:
    root = f"/apis/{type.group}/{type.version}" if type.group else f"/api/{type.version}"
    scope = f"/namespaces/{namespace}" if type.namespaced and namespace else ""
    return f"{root}{scope}/{type.plural}" + (f"/{name}" if name else "")


def _options(*, dry_run: bool, strict: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict" if strict else "Ignore"} | ({"dryRun": "All"} if dry_run else {})


async def _refusal(call: _Call, response: aiohttp.ClientResponse) -> Exception:
    try:
        body = json.loads(await response.text())
    except (ValueError, RecursionError):  # a proxy between us and the server speaks HTML, or nonsense
        body = {}
    wait = response.headers.get("Retry-After", "")
    return refused(
        call.what,
        response.status,
        body if isinstance(body, dict) else {},
        creating=call.verb == "create",
        tested=call.tested,
        write=call.write,
        retry_after=waits_for(wait),
    )


def waits_for(header: str) -> float | None:
    """The seconds of a Retry-After header; None for anything else."""
    return float(header) if header.isascii() and header.isdigit() and len(header) <= 9 else None


def _event(call: _Call, line: dict[str, Any]) -> WatchEvent:
    """What a line of a watch says; an ERROR is raised as the answer that it stands for."""
    if line["type"] == "ERROR":
        status = line["object"]
        raise refused(call.what, int(status.get("code") or 500), status)
    return WatchEvent(type=line["type"], object=line["object"])


async def _hang_up(response: aiohttp.ClientResponse) -> None:
    """Drop a connection in the middle of an answer and wait until it is gone: TLS's polite way takes the other side."""
    connection = response.connection
    if connection is None or connection.transport is None or connection.protocol is None:
        return
    closed = connection.protocol.closed
    connection.transport.abort()
    if closed is not None:
        await asyncio.wait([closed])


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: the reader's own are bounded to 128 KiB, and an object may be larger."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
