"""What an object refers to and is not there, not ready, or going away: it waits, and says for what."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.system import NAMESPACE, System, running
from tests.support.trouble import condition, created, quiet, says, secret

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.provider.api import Provider
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.resource import Key
from agentmetal.engine.queue import Priority
from agentmetal.kube.cache import Cache

pytestmark = pytest.mark.looptime


async def test_a_missing_provider_is_waited_for_by_name() -> None:
    async with running(hosts=False) as system:
        await system.instance(providerRef={"name": "other"})
        said = await says(system, "Provider 'other' does not exist in namespace 'default': create it")
        assert said.reason == "WaitingForReference"
        await system.provider("other")
        await system.ready(timeout=15)


async def test_a_provider_that_is_not_ready_is_waited_for_with_its_own_reason() -> None:
    async with running(hosts=False) as system:
        await system.apply("Provider", "keyed", {"type": "Fake", "fake": {}, "secretRef": {"name": "token"}})
        await system.instance(providerRef={"name": "keyed"})
        said = await says(system, "Provider 'keyed' is not ready (SecretMissing: Secret 'token' does not exist")
        assert said.reason == "WaitingForReference"
        assert created(system) == 0
        await secret(system, "token", **{"agentmetal.io/usable": "true"})
        await system.ready(timeout=30)


async def test_a_missing_secret_is_named() -> None:
    async with running(hosts=False) as system:
        await system.apply("Provider", "keyed", {"type": "Fake", "fake": {}, "secretRef": {"name": "token"}})
        said = await says(
            system, "Secret 'token' does not exist in namespace 'default': create it", name="keyed", kind=Provider
        )
        assert (said.status, said.reason) == ("False", "SecretMissing")


async def test_a_secret_that_is_not_marked_is_not_read_and_the_command_is_given() -> None:
    async with running(hosts=False) as system:
        await secret(system, "token")
        await system.apply("Provider", "keyed", {"type": "Fake", "fake": {}, "secretRef": {"name": "token"}})
        line = "kubectl label secret -n default token agentmetal.io/usable=true"
        said = await says(system, line, name="keyed", kind=Provider)
        assert (said.status, said.reason) == ("False", "SecretNotUsable")
        usable = {"metadata": {"labels": {"agentmetal.io/usable": "true"}}}
        await system.admin.patch(SECRET, NAMESPACE, "token", usable)
        await system.ready("keyed", kind=Provider, timeout=30)


async def test_a_provider_that_is_deleted_waits_for_those_who_use_it_and_names_them() -> None:
    async with running(hosts=False) as system:
        for number in range(5):
            await system.instance(f"web-{number}")
            await system.ready(f"web-{number}")
        await system.delete("cloud", kind=Provider)
        said = await says(system, "still used by", name="cloud", kind=Provider)
        shown = "Instance default/web-0, Instance default/web-1, Instance default/web-2 and 2 more: delete them first"
        assert said.message == f"still used by {shown}"
        assert said.reason == "WaitingForReferrers"
        await quiet(900)
        assert system.see("cloud", kind=Provider) is not None
        assert condition(system.see("web-1")).status == "True"


async def test_the_provider_goes_when_the_last_one_who_uses_it_has_gone() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.delete("cloud", kind=Provider)
        await says(system, "still used by Instance default/web-1", name="cloud", kind=Provider)
        await system.delete("web-1")
        await system.annotate("web-1", approve=await system.awaiting())
        await system.gone()
        await system.gone("cloud", kind=Provider, timeout=10)
        assert [place for place in system.cluster.contents(NAMESPACE) if place[0] == SECRET] == []


async def test_nothing_new_is_ordered_at_a_provider_that_goes() -> None:
    async with running(hosts=False) as system:
        await system.instance()
        await system.ready()
        await system.delete("cloud", kind=Provider)
        await system.instance("late")
        await says(system, "Provider 'cloud' is being deleted: nothing new is built on it", name="late")
        assert created(system) == 1
        await system.delete("late")
        await system.gone("late", timeout=5)


class _Anywhere(InstanceAgent):
    """Refers to whatever the image says, itself too: our own kinds cannot do that."""

    def references(self, resource: Instance) -> tuple[Key, ...]:
        return (Key("Instance", NAMESPACE, resource.spec.image),)


def _body(name: str, refers_to: str, version: int, **meta: Any) -> dict[str, Any]:
    return {
        "kind": "Instance",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": name, "resourceVersion": str(version), **meta},
        "spec": {"providerRef": {"name": "cloud"}, "type": "small", "image": refers_to},
    }


async def test_a_circle_of_references_wakes_each_object_once_and_no_more() -> None:
    woken: list[Key] = []
    async with running(hosts=False) as system:

        def wake(key: Key, _priority: Priority) -> None:
            woken.append(key)

        cache = Cache(system.operator_api, wake)
        cache.serve([_Anywhere(system.processes[0].core.agents[1].ports)])
        a, b, c = (Key("Instance", NAMESPACE, name) for name in "abc")
        for version, (name, other) in enumerate([("a", "b"), ("b", "a"), ("c", "c")], start=1):
            cache.put(_body(name, other, version))
        assert (cache.referrers(a), cache.referrers(b), cache.referrers(c)) == ((b,), (a,), (c,))
        woken.clear()
        cache.put(_body("a", "b", 10, generation=2))
        assert woken == [a, b], "b refers to a, and is not passed on"
        cache.drop(_body("c", "c", 11))
        assert set(woken) == {a, b, c}
        assert len(woken) <= 5


def test_no_two_of_our_kinds_refer_to_each_other() -> None:
    system = System(hosts=False)
    ports = None
    instance = Instance.model_validate({"status": {}, **_body("web", "bookworm", 1)})
    provider = Provider.model_validate(
        {"metadata": {"name": "cloud", "namespace": NAMESPACE}, "spec": {"type": "Fake", "fake": {}}}
    )
    by_kind = {agent.kind.info.kind: agent(ports) for agent in system.agents}  # type: ignore[arg-type] # references are pure: no port is asked
    assert {key.kind for key in by_kind["Instance"].references(instance)} == {"Provider"}
    assert by_kind["Provider"].references(provider) == ()
