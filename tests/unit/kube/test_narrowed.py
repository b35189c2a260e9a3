"""kopf's first LIST of a kind that we know asks for nothing, until that is answered; later ones are its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from yarl import URL

from agentmetal.core.resource import GROUP, VERSION
from agentmetal.kube.handlers import NOWHERE, Narrowed

ROOT = f"/apis/{GROUP}/{VERSION}"
WHOLE, NOTHING = f"{ROOT}/instances", f"{ROOT}/namespaces/{NOWHERE}/instances"


@dataclass
class Request:
    """As aiohttp's middlewares see one."""

    url: URL
    method: str = "GET"


@dataclass
class Answer:
    """A status, and whether somebody still holds it."""

    status: int
    released: bool = False

    @property
    def ok(self) -> bool:
        return self.status < 400

    def release(self) -> None:
        """Nobody reads it."""
        self.released = True


@dataclass
class Server:
    """Says one status after the other; without one left, nothing at all."""

    statuses: list[int]
    asked: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    async def __call__(self, request: Request) -> Answer:
        self.asked.append(request.url.path)
        if not self.statuses:
            raise ConnectionError("connection refused")
        self.answers.append(Answer(self.statuses.pop(0)))
        return self.answers[-1]


async def lists(server: Server, narrowed: Narrowed, query: str = "") -> Answer:
    """One LIST of kopf's."""
    request = Request(URL(f"http://127.0.0.1{WHOLE}{query}"))
    return cast(Answer, await narrowed(cast(Any, request), cast(Any, server)))


async def test_only_the_first_list_asks_for_nothing() -> None:
    server, narrowed = Server([200, 200]), Narrowed({"instances": "7"})
    await lists(server, narrowed)
    await lists(server, narrowed)
    assert server.asked == [NOTHING, WHOLE]


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_a_busy_server_is_asked_for_as_little_again(status: int) -> None:
    server, narrowed = Server([status, 200]), Narrowed({"instances": "7"})
    assert (await lists(server, narrowed)).status == status
    assert (await lists(server, narrowed)).status == 200
    assert server.asked == [NOTHING, NOTHING]


async def test_a_server_that_does_not_answer_is_asked_for_as_little_again() -> None:
    server, narrowed = Server([]), Narrowed({"instances": "7"})
    with pytest.raises(ConnectionError):
        await lists(server, narrowed)
    server.statuses = [200]
    await lists(server, narrowed)
    assert server.asked == [NOTHING, NOTHING]


@pytest.mark.parametrize("status", [400, 404, 410, 500, 504])
async def test_a_server_that_does_not_want_it_so_is_asked_for_all(status: int) -> None:
    server, narrowed = Server([status, 200]), Narrowed({"instances": "7"})
    assert (await lists(server, narrowed)).status == 200
    assert server.asked == [NOTHING, WHOLE]
    assert [answer.released for answer in server.answers] == [True, False]


async def test_watches_and_unknown_kinds_go_as_they_are() -> None:
    server, narrowed = Server([200, 200]), Narrowed({"instances": "7"})
    await lists(server, narrowed, "?watch=true")
    await lists(server, Narrowed({}))
    assert server.asked == [WHOLE, WHOLE]
