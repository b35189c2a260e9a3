"""Creating, reading and listing."""

from __future__ import annotations

import pytest
from tests.support.kube_world import INSTANCE, OPERATION, POLICY, World, instance, operation, policy, secret

from agentmetal.agents.instance.api import Instance
from agentmetal.core.errors import AlreadyExists, Forbidden, Invalid, NotFound
from agentmetal.core.kubetypes import LEASE, NAMESPACE, SECRET
from agentmetal.core.operation import ApprovalPolicy, Operation


async def test_what_is_created_can_be_read(world: World) -> None:
    made = await world.erin.create(INSTANCE, instance("web", world.namespace))
    assert await world.erin.get(INSTANCE, world.namespace, "web") == made
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"] and made["metadata"]["resourceVersion"] and made["metadata"]["creationTimestamp"]


async def test_each_object_has_its_own_uid(world: World) -> None:
    first = await world.admin.create(SECRET, secret("a", world.namespace))
    await world.admin.delete(SECRET, world.namespace, "a")
    second = await world.admin.create(SECRET, secret("a", world.namespace))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert int(first["metadata"]["resourceVersion"]) < int(second["metadata"]["resourceVersion"])


async def test_a_name_is_given_once(world: World) -> None:
    await world.operator.create(OPERATION, operation("op-1", world.namespace))
    with pytest.raises(AlreadyExists):
        await world.operator.create(OPERATION, operation("op-1", world.namespace))


async def test_what_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.erin.get(INSTANCE, world.namespace, "nobody")
    with pytest.raises(NotFound):
        await world.erin.patch(INSTANCE, world.namespace, "nobody", {"metadata": {}})
    with pytest.raises(NotFound):
        await world.erin.delete(INSTANCE, world.namespace, "nobody")
    with pytest.raises(NotFound):
        await world.admin.create(SECRET, secret("a", "no-such-namespace"))


async def test_minimal_objects_get_the_defaults_of_their_models(world: World) -> None:
    made = await world.erin.create(INSTANCE, instance("web", world.namespace))
    model = Instance.model_validate(made)
    assert (made["spec"], made["status"]) == (model.spec.wire(), model.status.wire())
    opened = await world.operator.create(OPERATION, operation("op-1", world.namespace))
    journal = Operation.model_validate(opened)
    assert (opened["spec"], opened["status"]) == (journal.spec.wire(), journal.status.wire())
    assert opened["status"]["phase"] == "Pending"
    granted = await world.admin.create(POLICY, policy("p", world.namespace))
    assert granted["spec"] == ApprovalPolicy.model_validate(granted).spec.wire()
    assert "status" not in granted


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"imagee": "debian-12"}, "unknown field"),
        ({"powerState": "Sideways"}, "powerState"),
        ({"management": {"retries": "many"}}, "retries"),
        ({"image": None}, "image"),
    ],
)
async def test_a_bad_spec_is_invalid_and_the_message_names_the_field(
    world: World, spec: dict[str, object], says: str
) -> None:
    with pytest.raises(Invalid, match=says):
        await world.erin.create(INSTANCE, instance("web", world.namespace, **spec))


async def test_an_object_without_spec_is_invalid(world: World) -> None:
    with pytest.raises(Invalid, match="spec"):
        await world.erin.create(INSTANCE, {"metadata": {"name": "web", "namespace": world.namespace}})


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "Not_A_Name"},
        {"labels": {"a": "x" * 64}},
        {"labels": {"a": "no spaces"}},
        {"labels": {"/a": ""}},
        {"annotations": {"a": 1}},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "a"}]},
        {"namespace": ""},
    ],
)
async def test_bad_metadata_is_invalid(world: World, metadata: dict[str, object]) -> None:
    body = secret("a", world.namespace)
    body["metadata"] |= metadata
    with pytest.raises(Invalid):
        await world.admin.create(SECRET, body)


async def test_creation_ignores_status_where_it_is_a_subresource(world: World) -> None:
    body = instance("web", world.namespace) | {"status": {"phase": "Running"}}
    made = await world.erin.create(INSTANCE, body)
    assert "phase" not in made["status"]
    opened = await world.operator.create(
        OPERATION, operation("op-1", world.namespace) | {"status": {"phase": "AwaitingApproval"}}
    )
    assert opened["status"]["phase"] == "AwaitingApproval"


async def test_a_dry_run_answers_and_stores_nothing(world: World) -> None:
    answered = await world.erin.create(INSTANCE, instance("web", world.namespace), dry_run=True)
    assert answered["spec"]["powerState"] == "On"
    with pytest.raises(NotFound):
        await world.erin.get(INSTANCE, world.namespace, "web")
    await world.erin.create(INSTANCE, instance("web", world.namespace))
    patched = await world.erin.patch(INSTANCE, world.namespace, "web", {"spec": {"powerState": "Off"}}, dry_run=True)
    assert patched["spec"]["powerState"] == "Off"
    assert (await world.erin.get(INSTANCE, world.namespace, "web"))["spec"]["powerState"] == "On"


async def test_lists_are_complete_and_of_one_namespace_or_all(world: World) -> None:
    for name in ("c", "a", "b"):
        await world.admin.create(SECRET, secret(name, world.namespace))
    here = await world.admin.list(SECRET, world.namespace)
    assert [item["metadata"]["name"] for item in here.items] == ["a", "b", "c"]
    assert {(item["apiVersion"], item["kind"]) for item in here.items} == {("v1", "Secret")}
    everywhere = await world.admin.list(SECRET)
    assert {item["metadata"]["uid"] for item in here.items} <= {item["metadata"]["uid"] for item in everywhere.items}
    newest = max(int(item["metadata"]["resourceVersion"]) for item in here.items)
    assert int(here.resource_version) >= newest


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("tier=web", ["a"]),
        ("tier==web", ["a"]),
        ("tier!=web", ["b", "c"]),
        ("tier in (web, db)", ["a", "b"]),
        ("tier notin (web)", ["b", "c"]),
        ("tier", ["a", "b"]),
        ("!tier", ["c"]),
        ("tier,zone=1", ["b"]),
        ("example.io/x=", ["c"]),
    ],
)
async def test_label_selectors_select(world: World, selector: str, names: list[str]) -> None:
    labels = {"a": {"tier": "web"}, "b": {"tier": "db", "zone": "1"}, "c": {"example.io/x": ""}}
    for name, given in labels.items():
        await world.admin.create(SECRET, secret(name, world.namespace, labels=given))
    listed = await world.admin.list(SECRET, world.namespace, label_selector=selector)
    assert [item["metadata"]["name"] for item in listed.items] == names


async def test_field_selectors_select_selectable_fields_only(world: World) -> None:
    for number, phase in enumerate(("Running", "Succeeded", "Failed"), start=1):
        body = operation(f"op-{number}", world.namespace) | {"status": {"phase": phase}}
        await world.operator.create(OPERATION, body)
    select = "status.phase!=Succeeded,status.phase!=Failed"
    listed = await world.operator.list(OPERATION, world.namespace, field_selector=select)
    assert [item["metadata"]["name"] for item in listed.items] == ["op-1"]
    named = await world.operator.list(OPERATION, None, field_selector=f"metadata.namespace={world.namespace}")
    assert len(named.items) == 3
    with pytest.raises(Invalid):
        await world.operator.list(OPERATION, world.namespace, field_selector="spec.risk=Safe")
    with pytest.raises(Invalid):
        await world.operator.list(OPERATION, world.namespace, field_selector="status.phase in (Running)")


async def test_a_metadata_list_says_which_objects_there_are_and_how_new(world: World) -> None:
    made = await world.erin.create(INSTANCE, instance("web", world.namespace))
    listed = await world.erin.list(INSTANCE, world.namespace, metadata_only=True)
    kept = {name: made["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    assert listed.items == ({"apiVersion": made["apiVersion"], "kind": made["kind"], "metadata": kept},)
    assert int(listed.resource_version) >= int(kept["resourceVersion"])
    assert (await world.erin.list(INSTANCE, "nowhere", metadata_only=True)).items == ()


async def test_an_answer_belongs_to_the_caller(world: World) -> None:
    made = await world.erin.create(INSTANCE, instance("web", world.namespace))
    made["spec"]["image"] = "changed"
    assert (await world.erin.get(INSTANCE, world.namespace, "web"))["spec"]["image"] == "debian-12"


async def test_roles_end_where_the_manifests_say(world: World) -> None:
    with pytest.raises(Forbidden):
        await world.erin.get(SECRET, world.namespace, "any")
    with pytest.raises(Forbidden):
        await world.operator.list(SECRET, world.namespace)
    with pytest.raises(Forbidden):
        await world.operator.create(INSTANCE, instance("web", world.namespace))
    with pytest.raises(Forbidden):
        await world.ann.create(INSTANCE, instance("web", world.namespace))
    with pytest.raises(Forbidden):
        await world.operator.create(LEASE, {"metadata": {"name": "x", "namespace": world.namespace}, "spec": {}})
    with pytest.raises(Forbidden):
        await world.operator.get(NAMESPACE, "", world.namespace)
    await world.operator.get(NAMESPACE, "", "kube-system")


async def test_the_operator_has_its_lease_in_its_own_namespace(world: World) -> None:
    there, name = "agentmetal-system", "agentmetal-operator"
    body = {"metadata": {"name": name, "namespace": there}, "spec": {"holderIdentity": "a"}}
    made = await world.operator.create(LEASE, body)
    assert "generation" not in made["metadata"]
    taken = await world.operator.patch(LEASE, there, name, {"spec": {"holderIdentity": "b"}})
    assert taken["spec"]["holderIdentity"] == "b"
    with pytest.raises(Forbidden):
        await world.operator.patch(LEASE, there, "of-somebody-else", {"spec": {"holderIdentity": "b"}})
