"""The client against a server that misbehaves: what a real API server does only on a bad day."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from agentmetal.clients.kubeconfig import Connection
from agentmetal.clients.kubernetes import LONG_PAGE, PAGE, KubernetesClient
from agentmetal.core.errors import Conflict, Forbidden, Gone, OutcomeUnknown, RateLimited, Unavailable
from agentmetal.core.kubetypes import SECRET

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SECRET_A = {"metadata": {"name": "a", "namespace": "default"}}


@asynccontextmanager
async def _client(
    handler: Handler, seen: list[tuple[str, str, str]] | None = None, token_file: Path | None = None
) -> AsyncIterator[KubernetesClient]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(application) as server:
        url = str(server.make_url("")).rstrip("/")
        connection = Connection(server=url, tls=ssl.create_default_context(), token_file=token_file)
        count = (lambda *request: seen.append(request)) if seen is not None else None
        client = KubernetesClient(connection, on_request=count)
        try:
            yield client
        finally:
            await client.close()


async def _hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def test_a_write_whose_answer_is_lost_has_an_unknown_outcome_and_a_read_is_unavailable() -> None:
    seen: list[tuple[str, str, str]] = []
    async with _client(_hang_up, seen) as client:
        for write in (
            client.create(SECRET, SECRET_A),
            client.patch(SECRET, "default", "a", {}),
            client.delete(SECRET, "default", "a"),
        ):
            with pytest.raises(OutcomeUnknown, match="'a'"):
                await write
        with pytest.raises(Unavailable):
            await client.get(SECRET, "default", "a")
    assert seen[0] == ("create", "secrets", "OutcomeUnknown")
    assert seen[-1] == ("get", "secrets", "Unavailable")


async def test_a_write_that_never_left_is_unavailable() -> None:
    connection = Connection(server=f"http://127.0.0.1:{unused_port()}", tls=ssl.create_default_context())
    client = KubernetesClient(connection)
    try:
        with pytest.raises(Unavailable):
            await client.create(SECRET, SECRET_A)
    finally:
        await client.close()


async def test_half_an_answer_is_no_answer() -> None:
    async def half(_request: web.Request) -> web.StreamResponse:
        return web.Response(text='{"metadata": {"na', content_type="application/json")

    async with _client(half) as client:
        with pytest.raises(OutcomeUnknown):
            await client.create(SECRET, SECRET_A)


async def test_a_server_that_is_busy_says_for_how_long() -> None:
    async def busy(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "storage is (re)initializing"}, status=429, headers={"Retry-After": "2"})

    async with _client(busy) as client:
        with pytest.raises(RateLimited, match="initializing") as caught:
            await client.list(SECRET)
    assert caught.value.retry_after == 2.0


async def test_a_proxy_that_answers_html_is_an_outage() -> None:
    async def gateway(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>", status=502, content_type="text/html")

    async with _client(gateway) as client:
        with pytest.raises(Unavailable, match="502"):
            await client.get(SECRET, "default", "a")
        with pytest.raises(OutcomeUnknown, match="502"):
            await client.patch(SECRET, "default", "a", {})


async def test_a_missing_permission_is_final_except_right_after_an_outage() -> None:
    answers = [
        (403, 'secrets "a" is forbidden: User "us" cannot get resource "secrets" in API group ""'),
        (503, "starting"),
        (403, 'secrets "a" is forbidden: User "us" cannot get resource "secrets" in API group ""'),
        (403, 'secrets "a" is forbidden: unable to create new content in namespace default: it is being terminated'),
    ]

    async def answer(_request: web.Request) -> web.StreamResponse:
        status, message = answers.pop(0)
        return web.json_response({"message": message}, status=status)

    async with _client(answer) as client:
        for expected in (Forbidden, Unavailable, Unavailable, Forbidden):
            with pytest.raises(expected):
                await client.get(SECRET, "default", "a")


async def test_a_failed_test_of_a_patch_is_a_conflict() -> None:
    async def bare(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "the server rejected our request", "details": {}}, status=422)

    async with _client(bare) as client:
        with pytest.raises(Conflict):
            await client.patch(SECRET, "default", "a", [{"op": "test", "path": "/metadata/name", "value": "b"}])


@pytest.mark.parametrize(("metadata_only", "page"), [(False, PAGE), (True, LONG_PAGE)])
async def test_a_list_is_read_page_by_page(metadata_only: bool, page: int) -> None:
    asked: list[str] = []

    async def pages(request: web.Request) -> web.StreamResponse:
        asked.append(request.query_string)
        start = int(request.query.get("continue", "0"))
        items = [{"metadata": {"name": str(start + at), "uid": "u", "resourceVersion": "8"}} for at in range(2)]
        following = str(start + 2) if start < 4 else ""
        return web.json_response({"metadata": {"resourceVersion": "9", "continue": following}, "items": items})

    async with _client(pages) as client:
        listed = await client.list(SECRET, "default", label_selector="a in (b,c)", metadata_only=metadata_only)
    assert [item["metadata"]["name"] for item in listed.items] == ["0", "1", "2", "3", "4", "5"]
    assert (listed.resource_version, listed.items[0]["kind"]) == ("9", "Secret")
    assert len(asked) == 3
    assert all(f"limit={page}" in query and "labelSelector=" in query for query in asked)


@pytest.mark.parametrize(
    "text",
    [
        "<html>moved</html>",
        "{}",
        '{"metadata": {"resourceVersion": "9"}}',
        '{"metadata": {}, "items": []}',
        '{"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "a", "resourceVersion": "8"}}]}',
    ],
)
async def test_a_list_of_metadata_that_is_none_is_no_empty_one(text: str) -> None:
    """Whoever took it for one would take every object for gone."""

    async def other(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    async with _client(other) as client:
        with pytest.raises(Unavailable, match="list secrets: the answer is no list"):
            await client.list(SECRET, metadata_only=True)


def _watched(*lines: dict[str, Any]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(json.dumps(line).encode() + b"\n")
        await response.write_eof()
        return response

    return handler


async def test_a_watch_takes_objects_of_any_size_and_ends_with_the_server() -> None:
    big = {"metadata": {"name": "a", "annotations": {"x": "y" * 300_000}}}
    async with _client(_watched({"type": "ADDED", "object": big}, {"type": "BOOKMARK", "object": {}})) as client:
        events = [event async for event in client.watch(SECRET)]
    assert [event.type for event in events] == ["ADDED", "BOOKMARK"]
    assert events[0].object == big


async def test_a_watch_that_is_too_old_is_gone_even_after_it_began() -> None:
    expired = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
    async with _client(_watched(expired)) as client:
        with pytest.raises(Gone, match="too old"):
            async for _event in client.watch(SECRET, resource_version="1"):
                pass


async def test_a_token_comes_from_its_file_and_a_missing_file_is_an_outage(tmp_path: Path) -> None:
    sent: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        sent.append(request.headers["Authorization"])
        return web.json_response({})

    file = tmp_path / "token"
    async with _client(note, token_file=file) as client:
        with pytest.raises(Unavailable, match="token"):
            await client.create(SECRET, SECRET_A)
        file.write_text("first\n")
        await client.get(SECRET, "default", "a")
    assert sent == ["Bearer first"]
