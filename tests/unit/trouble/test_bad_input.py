"""What a user can get wrong in a spec: refused at once, or a sentence that lists what there is."""

from __future__ import annotations

import pytest
from tests.support.inventories import stocked
from tests.support.system import running
from tests.support.trouble import condition, created, quiet, says

from agentmetal.core.errors import Invalid

pytestmark = pytest.mark.looptime

KNOWN = {
    "type": "Provider 'cloud' has no type 'huge'; it has: small, medium, large",
    "image": "Provider 'cloud' has no image 'huge'; it has: bookworm, bookworm-20",
    "location": "Provider 'cloud' has no location 'huge'; it has: north, south",
}


async def test_an_unknown_field_is_refused_at_apply() -> None:
    async with running(hosts=False) as system:
        with pytest.raises(Invalid, match=r"spec\.imag"):
            await system.instance(imag="bookworm")
        assert system.see() is None


@pytest.mark.parametrize("field", KNOWN)
async def test_an_unknown_choice_lists_the_known_ones_and_orders_nothing(field: str) -> None:
    async with running(hosts=False) as system:
        await system.instance(**{field: "huge"})
        said = await says(system, KNOWN[field])
        assert (said.status, said.reason) == ("False", f"Unknown{field.capitalize()}")
        await quiet(3600)
        assert created(system) == 0
        assert condition(system.see(), "Reconciling").reason == said.reason
        assert system.see().status.phase == "Pending"


async def test_a_spec_that_no_plan_can_hold_is_told_to_its_author() -> None:
    labels = {f"{number:02}-{'x' * 50}": "y" * 60 for number in range(16)}
    async with stocked("h1") as lab:
        await lab.wants(hostSelector=labels)
        said = await says(lab.system, "labels of step 'provision_instance' would be over 1024 bytes")
        assert said.reason == "InvalidSpec"


async def test_labels_are_asked_of_an_inventory_only() -> None:
    async with running(hosts=False) as system:
        await system.instance(hostSelector={"rack": "a"})
        said = await says(system, "create another one without hostSelector")
        assert (said.status, said.reason) == ("False", "NotSupported")
        await quiet(12 * 3600)
        kinds = {operation.spec.resource_ref.kind for operation in system.operations()}
        assert (created(system), kinds) == (0, {"Provider"})
        await system.delete("web-1")


async def test_correcting_the_image_recovers() -> None:
    async with running(hosts=False) as system:
        await system.instance(image="bokworm")
        await says(system, "has no image 'bokworm'")
        await system.edit("web-1", image="bookworm")
        await system.ready(timeout=10)


@pytest.mark.parametrize("field", ["type", "location"])
async def test_what_cannot_be_changed_is_deleted_without_ceremony_and_made_anew(field: str) -> None:
    async with running(hosts=False) as system:
        await system.instance(**{field: "huge"})
        await says(system, "it has:")
        await system.delete("web-1")
        await system.gone(timeout=5)
        await system.instance()
        await system.ready(timeout=10)


async def test_an_image_that_is_no_longer_offered_leaves_a_running_server_alone() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        system.cloud._images = ("bookworm-20",)
        await quiet(900)
        assert condition(system.see()).status == "True"


async def test_an_image_nobody_offers_keeps_the_server_and_says_what_there_is() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.edit("web-1", image="trixie")
        said = await says(system, "has no image 'trixie'; it has: bookworm, bookworm-20")
        assert said.reason == "UnknownImage"
        assert created(system) == 1
        await system.edit("web-1", image="bookworm")
        await system.ready(timeout=10)
