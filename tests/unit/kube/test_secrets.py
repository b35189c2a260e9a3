"""The Secrets port: what may be read, what is created once, what is let go."""

import asyncio
import base64
from typing import Any

import pytest

from agentmetal.agents.provider.api import Provider
from agentmetal.core.errors import ClaimedByOther, Conflict, Forbidden, NotFound, Unavailable
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import FINALIZER, Label, ResourceType
from agentmetal.kube.memory import MemoryCluster
from agentmetal.kube.secrets import MANAGED_BY, MANAGER, KubeSecrets


@pytest.fixture
def cluster() -> MemoryCluster:
    made = MemoryCluster(kinds=[Provider])
    made.create_namespace("shop")
    made.grant("root", "admin")
    return made


@pytest.fixture
def admin(cluster: MemoryCluster) -> KubeApi:
    return cluster.api("root")


@pytest.fixture
def secrets(cluster: MemoryCluster) -> KubeSecrets:
    return KubeSecrets(cluster.api())


async def owner(admin: KubeApi, name: str = "local") -> Provider:
    spec = {"type": "Nspawn", "nspawn": {}}
    metadata = {"namespace": "shop", "name": name}
    body = {"apiVersion": "agentmetal.io/v1alpha1", "kind": "Provider", "metadata": metadata, "spec": spec}
    return Provider.model_validate({"status": {}, **await admin.create(Provider.info.type, body)})


async def given(admin: KubeApi, name: str, **metadata: Any) -> None:
    place = {"namespace": "shop", "name": name, **metadata}
    data = {"token": base64.b64encode(b"from a human").decode()}
    await admin.create(SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": place, "data": data})


def stored(cluster: MemoryCluster, name: str) -> dict[str, Any]:
    secret = cluster.peek(SECRET, "shop", name)
    assert secret is not None
    return secret


async def test_a_secret_marked_as_usable_is_read(admin: KubeApi, secrets: KubeSecrets) -> None:
    await given(admin, "account", labels={Label.USABLE: "true"})
    assert await secrets.read("shop", "account") == {"token": b"from a human"}


@pytest.mark.parametrize("labels", [{}, {Label.USABLE: "yes"}, {MANAGED_BY: "Helm"}])
async def test_any_other_secret_is_not_read_and_the_command_is_told(
    admin: KubeApi, secrets: KubeSecrets, labels: dict[str, str]
) -> None:
    await given(admin, "account", labels=labels)
    with pytest.raises(Forbidden) as refused:
        await secrets.read("shop", "account")
    assert "kubectl label secret -n shop account agentmetal.io/usable=true" in refused.value.message
    assert "from a human" not in refused.value.message


async def test_an_absent_secret_is_named(secrets: KubeSecrets) -> None:
    with pytest.raises(NotFound, match="Secret 'account' does not exist in namespace 'shop': create it"):
        await secrets.read("shop", "account")


async def test_what_we_make_belongs_to_its_owner(cluster: MemoryCluster, admin: KubeApi, secrets: KubeSecrets) -> None:
    provider = await owner(admin)
    made = await secrets.create_once(provider, "key", {"private": b"\x00\xff binary", "empty": b""})
    assert made == {"private": b"\x00\xff binary", "empty": b""}
    assert await secrets.read("shop", "key") == made
    secret = stored(cluster, "key")
    assert secret["type"] == "Opaque"
    assert secret["metadata"]["labels"] == {MANAGED_BY: MANAGER, Label.UID: provider.uid}
    assert secret["metadata"]["finalizers"] == [FINALIZER]
    assert secret["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "agentmetal.io/v1alpha1",
            "kind": "Provider",
            "name": "local",
            "uid": provider.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]


async def test_the_second_creation_returns_the_first_values(admin: KubeApi, secrets: KubeSecrets) -> None:
    provider = await owner(admin)
    await secrets.create_once(provider, "key", {"private": b"first"})
    assert await secrets.create_once(provider, "key", {"private": b"second"}) == {"private": b"first"}


async def test_of_many_creations_at_once_all_get_the_same_values(admin: KubeApi, secrets: KubeSecrets) -> None:
    provider = await owner(admin)
    made = await asyncio.gather(*(secrets.create_once(provider, "key", {"n": str(n).encode()}) for n in range(5)))
    assert len({values["n"] for values in made}) == 1


async def test_the_secret_of_another_object_is_never_taken_over(admin: KubeApi, secrets: KubeSecrets) -> None:
    await secrets.create_once(await owner(admin, "other"), "key", {"private": b"other's"})
    await given(admin, "by-hand", labels={Label.USABLE: "true"})
    mine = await owner(admin, "mine")
    for name in ("key", "by-hand"):
        with pytest.raises(ClaimedByOther, match="does not belong to Provider shop/mine"):
            await secrets.create_once(mine, name, {"private": b"mine"})


async def test_the_dying_secret_of_an_earlier_object_is_waited_for(admin: KubeApi, secrets: KubeSecrets) -> None:
    await secrets.create_once(await owner(admin, "earlier"), "key", {"private": b"old"})
    await admin.delete(SECRET, "shop", "key")
    with pytest.raises(Unavailable, match="is being deleted"):
        await secrets.create_once(await owner(admin, "mine"), "key", {"private": b"new"})


async def test_a_released_secret_can_go(cluster: MemoryCluster, admin: KubeApi, secrets: KubeSecrets) -> None:
    provider = await owner(admin)
    await secrets.create_once(provider, "key", {"private": b"x"})
    await admin.delete(SECRET, "shop", "key")
    assert await secrets.read("shop", "key") == {"private": b"x"}, "teardown still needs it"
    await secrets.release("shop", "key")
    assert cluster.peek(SECRET, "shop", "key") is None
    await secrets.release("shop", "key")


async def test_what_we_made_is_deleted_by_releasing_it(
    cluster: MemoryCluster, admin: KubeApi, secrets: KubeSecrets
) -> None:
    await secrets.create_once(await owner(admin), "key", {"private": b"x"})
    await secrets.release("shop", "key")
    assert cluster.peek(SECRET, "shop", "key") is None, "else nobody could see that the teardown is over"


async def test_releasing_leaves_the_finalizers_of_others(
    cluster: MemoryCluster, admin: KubeApi, secrets: KubeSecrets
) -> None:
    await given(admin, "shared", finalizers=["example.com/theirs", FINALIZER])
    await secrets.release("shop", "shared")
    assert stored(cluster, "shared")["metadata"]["finalizers"] == ["example.com/theirs"]
    writes = len(cluster.writes)
    await secrets.release("shop", "shared")
    assert len(cluster.writes) == writes, "nothing to do, nothing written"


async def test_releasing_is_repeated_when_somebody_else_writes_meanwhile(
    cluster: MemoryCluster, admin: KubeApi, secrets: KubeSecrets
) -> None:
    await given(admin, "key", finalizers=[FINALIZER])
    refusals = iter([Conflict("somebody was faster"), Conflict("and again")])

    def conflict(verb: str, _type: ResourceType, _name: str) -> None:
        if verb == "patch" and (refusal := next(refusals, None)):
            raise refusal

    cluster.faults.before = conflict
    await secrets.release("shop", "key")
    assert not stored(cluster, "key")["metadata"].get("finalizers")


async def test_releasing_ends_when_somebody_never_stops_writing(
    cluster: MemoryCluster, admin: KubeApi, secrets: KubeSecrets
) -> None:
    await given(admin, "key", finalizers=[FINALIZER])

    def conflict(verb: str, _type: ResourceType, _name: str) -> None:
        if verb == "patch":
            raise Conflict("somebody was faster")

    cluster.faults.before = conflict
    with pytest.raises(Conflict, match="faster than it can be released"):
        await secrets.release("shop", "key")
