"""Whose Secrets are whose: what the operator makes nobody else writes, and the operator writes no others."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from tests.support.kube_world import INSTANCE, World, instance, secret

from agentmetal.core.errors import Forbidden
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.resource import FINALIZER

OURS = {"app.kubernetes.io/managed-by": "agentmetal"}
REFUSED_OPERATOR = "the operator makes Secrets for its own objects only"
REFUSED_PERSON = "this Secret is AgentMetal's"
VALUE = {"data": {"host": base64.b64encode(b"another key").decode()}}


async def _owned(world: World, name: str = "web-host", **over: Any) -> dict[str, Any]:
    """What the operator makes for an Instance."""
    owner = await world.erin.create(INSTANCE, instance(f"of-{name}", world.namespace))
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": "Instance",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    made = secret(name, world.namespace, labels=OURS, ownerReferences=[reference], finalizers=[FINALIZER])
    return made | {"metadata": made["metadata"] | over.pop("metadata", {})} | over


async def test_the_operator_makes_changes_and_deletes_its_own(world: World) -> None:
    await world.operator.create(SECRET, await _owned(world))
    await world.operator.patch(SECRET, world.namespace, "web-host", VALUE)
    await world.operator.patch(SECRET, world.namespace, "web-host", {"metadata": {"finalizers": None}})
    await world.operator.delete(SECRET, world.namespace, "web-host")


@pytest.mark.parametrize(
    "over",
    [
        {
            "type": "kubernetes.io/service-account-token",
            "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}},
        },
        {"metadata": {"labels": {}}},
        {"metadata": {"ownerReferences": []}},
    ],
    ids=["a token of any account", "not labelled", "nobody's"],
)
async def test_the_operator_makes_no_other_secret(world: World, over: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match=REFUSED_OPERATOR):
        await world.operator.create(SECRET, await _owned(world, **over))


async def test_the_operator_writes_no_secret_of_peoples(world: World) -> None:
    await world.admin.create(SECRET, secret("theirs", world.namespace, labels={"agentmetal.io/usable": "true"}))
    with pytest.raises(Forbidden, match="only the Secrets that it made"):
        await world.operator.patch(SECRET, world.namespace, "theirs", VALUE)
    with pytest.raises(Forbidden, match="only the Secrets that it made"):
        await world.operator.patch(SECRET, world.namespace, "theirs", {"metadata": {"labels": OURS}})
    with pytest.raises(Forbidden, match="only the Secrets that it made"):
        await world.operator.delete(SECRET, world.namespace, "theirs")


async def test_the_operator_lets_go_of_one_whose_label_was_taken_off(world: World) -> None:
    await world.operator.create(SECRET, await _owned(world))
    await world.admin.patch(SECRET, world.namespace, "web-host", {"metadata": {"labels": None}})
    with pytest.raises(Forbidden, match="only the Secrets that it made"):
        await world.operator.patch(SECRET, world.namespace, "web-host", VALUE)
    await world.operator.patch(SECRET, world.namespace, "web-host", {"metadata": {"finalizers": None}})


async def test_who_may_write_secrets_writes_none_of_ours(world: World) -> None:
    await world.operator.create(SECRET, await _owned(world))
    for patch in (VALUE, {"metadata": {"labels": None}}, {"metadata": {"finalizers": None}}):
        with pytest.raises(Forbidden, match=REFUSED_PERSON):
            await world.clerk.patch(SECRET, world.namespace, "web-host", patch)
    with pytest.raises(Forbidden, match=REFUSED_PERSON):
        await world.clerk.delete(SECRET, world.namespace, "web-host")
    with pytest.raises(Forbidden, match=REFUSED_PERSON):
        await world.clerk.create(SECRET, await _owned(world, "planted"))
    await world.clerk.create(SECRET, secret("theirs", world.namespace))
    with pytest.raises(Forbidden, match=REFUSED_PERSON):
        await world.clerk.patch(SECRET, world.namespace, "theirs", {"metadata": {"labels": OURS}})
    await world.clerk.delete(SECRET, world.namespace, "theirs")
