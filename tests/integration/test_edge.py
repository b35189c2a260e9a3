"""kopf at a real API server, with every request counted: it discovers, lists and watches, and never writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.support.controlplane import kubectl

from agentmetal.agents.instance.api import Instance
from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.errors import NotFound
from agentmetal.core.kubetypes import CUSTOM_RESOURCE_DEFINITION as CRD
from agentmetal.core.resource import FINALIZER, GROUP, VERSION, KindInfo
from agentmetal.dev.controlplane import ControlPlane
from agentmetal.dev.watching import client
from agentmetal.kube import handlers

pytestmark = pytest.mark.needs_control_plane

WITHIN = 30.0
GADGET = KindInfo(kind="Gadget", plural="gadgets", description="Only of this test.")
DISCOVERY = re.compile(r"/api|/apis|/api/v1|/apis/[^/]+/[^/]+")
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass
class Counted:
    """Every request that went through the proxy, and every event that came out of the edge."""

    requests: list[tuple[str, str, bool]] = field(default_factory=list)
    """Method, path, is it a watch."""
    events: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    keep: bool = False
    """Are events kept that were waited for?"""

    def event(self, type: str | None, body: dict[str, Any]) -> None:
        """The sink of the edge."""
        self.events.append((type, body))
        self.news.set()

    async def until(self, true: Callable[[str | None, dict[str, Any]], bool], what: str) -> None:
        """Wait until there was such an event since the last call."""
        try:
            async with asyncio.timeout(WITHIN):
                while not any(true(*event) for event in self.events):
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"{what} did not come: {self.events}, {self.requests}") from None
        if not self.keep:
            self.events.clear()


@asynccontextmanager
async def proxy(connection: kubeconfig.Connection, counted: Counted) -> AsyncIterator[kubeconfig.Connection]:
    """The same API server, counting."""

    async def forward(request: web.Request) -> web.StreamResponse:
        counted.requests.append((request.method, request.path, "watch" in request.query))
        accept = {"Accept": request.headers.get("Accept", "*/*"), "Content-Type": "application/json"}
        async with session.request(
            request.method, connection.server + request.path_qs, headers=accept, data=await request.read()
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            with suppress(ConnectionError):
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
        return response

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    connector = aiohttp.TCPConnector(ssl=connection.tls, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield replace(connection, server=f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()


@asynccontextmanager
async def edge(plane: ControlPlane, since: Mapping[str, str] = {}) -> AsyncIterator[Counted]:
    """Our use of kopf, and nothing else of the operator."""
    counted, stop = Counted(), asyncio.Event()
    connection = kubeconfig.from_file(plane.directory / "admin.kubeconfig")
    async with proxy(connection, counted) as through:
        watching = asyncio.create_task(handlers.watch(through, counted, (Instance.info, GADGET), stop, since=since))
        try:
            yield counted
        finally:
            stop.set()
            async with asyncio.timeout(WITHIN):
                await watching


def crd() -> dict[str, Any]:
    """The least CRD there is, of a kind that no other test knows."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "metadata": {"name": f"{GADGET.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": GADGET.kind, "plural": GADGET.plural},
            "versions": [{"name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


async def established(api: KubernetesClient) -> None:
    """Create it, and wait until it is served."""
    await api.create(CRD, crd())
    await until_body(api, lambda body: {"Established": "True"}.items() <= conditions(body).items())


def conditions(body: dict[str, Any]) -> dict[str, str]:
    """Type to status."""
    return {c["type"]: c["status"] for c in body["status"].get("conditions") or ()}


async def until_body(api: KubernetesClient, true: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the CRD is so."""
    name = crd()["metadata"]["name"]
    async with asyncio.timeout(WITHIN), aclosing(api.watch(CRD, "", resource_version="0")) as events:
        async for event in events:
            if event.object["metadata"].get("name") == name and true(event.object):
                return


def of(name: str, **wanted: Any) -> Callable[[str | None, dict[str, Any]], bool]:
    """An event about an object of that name; with that type, or with that generation."""

    def fits(type: str | None, body: dict[str, Any]) -> bool:
        meta = body["metadata"]
        found = {"type": type, "generation": meta.get("generation"), "going": "deletionTimestamp" in meta}
        return meta["name"] == name and wanted.items() <= found.items()

    return fits


async def test_the_edge_only_ever_reads(installed: ControlPlane, namespace: str) -> None:
    async with client(installed.directory / "admin.kubeconfig") as api, edge(installed) as counted:
        spec = {"providerRef": {"name": "local"}, "type": "small", "image": "bookworm"}
        await api.create(Instance.info.type, {"metadata": {"name": "web", "namespace": namespace}, "spec": spec})
        await counted.until(of("web"), "the creation")
        await api.patch(Instance.info.type, namespace, "web", {"spec": {"powerState": "Off"}})
        await counted.until(of("web", generation=2), "the change")
        await live_and_die(api, counted, namespace)
        await kubectl(installed, "delete", "crd", f"{GADGET.plural}.{GROUP}")
        await live_and_die(api, counted, namespace)  # its CRD is another one now
        seen = await api.get(Instance.info.type, namespace, "web")
    await kubectl(installed, "delete", "crd", f"{GADGET.plural}.{GROUP}")
    assert {method for method, _, _ in counted.requests} == {"GET"}
    ours = {f"/apis/{GROUP}/{VERSION}/{plural}" for plural in ("instances", "gadgets", "approvalpolicies")}
    for _, path, _ in counted.requests:
        assert DISCOVERY.fullmatch(path) or path in {CRDS, *ours}, path
    assert {path for _, path, watched in counted.requests if watched} >= ours
    assert "kopf" not in str({**seen["metadata"], "managedFields": ""})


INSTANCES = f"/apis/{GROUP}/{VERSION}/instances"
WEB = {"providerRef": {"name": "local"}, "type": "small", "image": "bookworm"}


async def test_what_was_listed_is_not_listed_again(installed: ControlPlane, namespace: str) -> None:
    async with client(installed.directory / "admin.kubeconfig") as api:
        await api.create(Instance.info.type, {"metadata": {"name": "known", "namespace": namespace}, "spec": WEB})
        known = await api.list(Instance.info.type)
        await api.create(Instance.info.type, {"metadata": {"name": "between", "namespace": namespace}, "spec": WEB})
        async with edge(installed, {"instances": known.resource_version}) as counted:
            counted.keep = True
            await counted.until(of("between", type="ADDED"), "what came between the LIST and the watch")
    assert "known" not in {body["metadata"]["name"] for _, body in counted.events}
    asked = [path for _, path, watched in counted.requests if path.endswith("/instances") and not watched]
    assert asked == [f"/apis/{GROUP}/{VERSION}/namespaces/{handlers.NOWHERE}/instances"]


async def test_from_a_version_that_the_server_does_not_have_everything_is_listed(
    installed: ControlPlane, namespace: str
) -> None:
    async with client(installed.directory / "admin.kubeconfig") as api:
        await api.create(Instance.info.type, {"metadata": {"name": "known", "namespace": namespace}, "spec": WEB})
        async with edge(installed, {"instances": "999999999"}) as counted:
            await counted.until(of("known", type=None), "the object that was there")
            await api.create(Instance.info.type, {"metadata": {"name": "new", "namespace": namespace}, "spec": WEB})
            await counted.until(of("new", type="ADDED"), "the new one")
    assert ("GET", INSTANCES, False) in counted.requests


async def test_when_kopf_ends_by_itself_it_takes_nothing_of_ours_with_it(
    installed: ControlPlane, namespace: str
) -> None:
    counted, connection = Counted(), kubeconfig.from_file(installed.directory / "admin.kubeconfig")
    watching = asyncio.create_task(handlers.watch(connection, counted, (Instance.info,), asyncio.Event()))
    async with client(installed.directory / "admin.kubeconfig") as api:
        await api.create(Instance.info.type, {"metadata": {"name": "web", "namespace": namespace}, "spec": WEB})
        await counted.until(of("web"), "the creation")
    step = asyncio.create_task(asyncio.Event().wait(), name="a step that began after kopf")
    next(task for task in asyncio.all_tasks() if task.get_name() == "resource observer").cancel()
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(watching, return_exceptions=True)
    assert not step.done()
    step.cancel()


async def live_and_die(api: KubernetesClient, counted: Counted, namespace: str) -> None:
    """A Gadget from the creation of its CRD to its deletion, which the finalizer holds up that admission gave it."""
    await established(api)
    meta = {"name": "thing", "namespace": namespace}
    await created(lambda: api.create(GADGET.type, {"metadata": meta}))
    await counted.until(of("thing"), "the Gadget")
    await api.delete(GADGET.type, namespace, "thing")
    await counted.until(of("thing", going=True), "its coming deletion")
    assert (await api.get(GADGET.type, namespace, "thing"))["metadata"]["finalizers"] == [FINALIZER]
    await api.patch(GADGET.type, namespace, "thing", {"metadata": {"finalizers": []}})
    await counted.until(of("thing", type="DELETED"), "its deletion")


async def created(create: Callable[[], Awaitable[Any]]) -> None:
    """A CRD says Established a moment before it is served."""
    async with asyncio.timeout(WITHIN):
        while True:
            try:
                await create()
            except NotFound:
                await asyncio.sleep(0.1)
            else:
                return


def test_kopf_would_use_a_finalizer_that_is_not_ours() -> None:
    assert handlers.settings().persistence.finalizer != FINALIZER
