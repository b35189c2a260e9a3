"""Specs with one rule broken: a wrong type, a number or a text out of bounds, an unknown field, a contradiction.

In memory each is refused in a sentence. A share of them, and of the specs that are well, is asked of a real API server
by dry runs: it must answer as ours in memory does, and what it accepts the models must read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest
from tests.faults.mutation.broken import breakages, contradictions
from tests.faults.mutation.living import MODELS
from tests.faults.mutation.values import Mutation, mutations, written_kinds
from tests.support.controlplane import temporary_control_plane
from tests.support.seeds import ALL

from agentmetal.clients import kubeconfig
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.core.errors import AgentMetalError, Invalid, NotFound, OutcomeUnknown, Unavailable
from agentmetal.core.kubetypes import CUSTOM_RESOURCE_DEFINITION
from agentmetal.core.ports import KubeApi
from agentmetal.kube.crds.definition import definition
from agentmetal.kube.memory import MemoryCluster

KINDS = written_kinds()
ASKED = 1500 if ALL else 40
"""Dry runs of each kind against the real server."""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP0bS4jvYVUayQOKhi7PyCsD9i3s5f5sys3MUiM3Xo6a"
HOST = {"name": "h1", "address": "192.0.2.1", "hostKey": KEY, "labels": {"rack": "a"}}
WELL: dict[str, dict[str, Any]] = {
    "Instance": {"providerRef": {"name": "cloud"}, "type": "small", "image": "bookworm", "location": "north"},
    "Provider": {"type": "SSH", "ssh": {"hosts": [HOST], "wipe": {"paths": ["/srv/a"], "users": ["bob"]}}},
    "ApprovalPolicy": {"resources": ["instances"], "maxRisk": "Moderate", "names": ["web"], "tools": ["reboot"]},
}


def _body(kind: str, spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "subject", "namespace": "default"}, "spec": spec}


@pytest.mark.parametrize("kind", KINDS)
async def test_one_broken_rule_is_refused_in_a_sentence(kind: str) -> None:
    cluster = MemoryCluster(list(MODELS.values()))
    broken = list(breakages(KINDS[kind], WELL[kind]))
    assert len(broken) > 100, "the schema was not read"
    for mutation in broken:
        refusal = await _refusal(cluster.api("admin"), kind, mutation.spec)
        assert refusal is not None, f"{mutation} was accepted"
        assert "spec" in refusal, f"{mutation} is refused without its place: {refusal}"
        assert len(refusal.split()) > 4, f"{mutation} is refused with {refusal!r}"
        assert "should match" not in refusal, f"{mutation} is refused by a bare pattern: {refusal}"


@pytest.mark.parametrize("kind", ["Instance", "Provider"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("resyncInterval", "0s"), ("retryBackoff", "0s"), ("approvalTTL", "0s"), ("resyncInterval", "9999999999999h")],
)
async def test_a_duration_that_never_lets_it_rest_is_refused(kind: str, field: str, value: str) -> None:
    api = MemoryCluster(list(MODELS.values())).api("admin")
    well = {**WELL[kind], "management": {field: "5m"}}
    assert await _refusal(api, kind, well) is None
    refusal = await _refusal(api, kind, {**well, "management": {field: value}})
    assert refusal is not None and field in refusal


async def _refusal(api: KubeApi, kind: str, spec: Any) -> str | None:
    """Why it may not be created; None when it may. Other errors than a refusal escape."""
    try:
        await api.create(MODELS[kind].info.type, _body(kind, spec), dry_run=True)
    except Invalid as error:
        return error.message
    return None


@pytest.mark.needs_control_plane
@pytest.mark.timeout(0 if ALL else 120)
def test_the_real_server_and_the_one_in_memory_agree(record_property: Any) -> None:
    with ThreadPoolExecutor(max_workers=1) as thread:  # the control plane wants a loop of its own
        asked, differences = thread.submit(asyncio.run, _compare()).result()

    record_property("points", asked)
    assert asked >= ASKED
    assert not differences, "\n".join(differences[:40])


async def _compare() -> tuple[int, list[str]]:
    cluster, differences, asked = MemoryCluster(list(MODELS.values())), [], 0
    async with temporary_control_plane() as plane:
        real = KubernetesClient(kubeconfig.from_file(plane.directory / "admin.kubeconfig"))
        async with aclosing(_Closing(real)):
            for kind, model in MODELS.items():
                await real.create(CUSTOM_RESOURCE_DEFINITION, definition(model))
                await _served(real, kind)
                for api in (real, cluster.api("admin")):
                    await api.create(model.info.type, _body(kind, WELL[kind]))
                chosen = _share(list(_all(kind)), ASKED)
                answers = [await _difference(real, cluster.api("admin"), kind, mutation) for mutation in chosen]
                differences += [answer for answer in answers if answer]
                asked += len(chosen)
    return asked, differences


class _Closing:
    """A client under the name that `aclosing` calls."""

    def __init__(self, client: KubernetesClient) -> None:
        self.aclose = client.close


def _all(kind: str) -> Iterator[Mutation]:
    yield from breakages(KINDS[kind], WELL[kind])
    yield from mutations(KINDS[kind], WELL[kind])
    yield from contradictions(KINDS[kind], WELL[kind])


def _share(found: list[Mutation], most: int) -> list[Mutation]:
    return found[:: max(1, len(found) // most)]


async def _served(api: KubeApi, kind: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await api.create(MODELS[kind].info.type, _body(kind, WELL[kind]), dry_run=True)
                return
            except NotFound:
                await asyncio.sleep(0.1)


async def _difference(real: KubeApi, memory: KubeApi, kind: str, mutation: Mutation) -> str:
    """What they say differently about a new object, or about changing the one there is; empty when nothing."""
    for change in (False, True):
        said, ours = [await _answer(api, kind, mutation.spec, change=change) for api in (real, memory)]
        what = f"{'changing' if change else 'creating'} {kind} with {mutation}"
        if isinstance(said, dict) != isinstance(ours, dict):
            return f"{what}: the server says {str(said)[:300]!r}, memory says {str(ours)[:300]!r}"
        if isinstance(said, dict):
            if said["spec"] != ours["spec"]:
                return f"{what}: the server stores {said['spec']}, memory {ours['spec']}"
            MODELS[kind].model_validate({"status": {}, **said})
    return ""


async def _answer(api: KubeApi, kind: str, spec: Any, *, change: bool) -> Any:
    """The object as it would be stored, or the words of the refusal. No answer is none: that escapes."""
    type, name = MODELS[kind].info.type, "subject" if change else "another"
    try:
        if change:
            steps = [{"op": "replace", "path": "/spec", "value": spec}]
            return await api.patch(type, "default", name, steps, dry_run=True)
        body = _body(kind, spec) | {"metadata": {"name": name, "namespace": "default"}}
        return await api.create(type, body, dry_run=True)
    except (Unavailable, OutcomeUnknown):
        raise
    except AgentMetalError as error:
        return error.message
