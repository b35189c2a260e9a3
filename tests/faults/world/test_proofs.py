"""Rules broken on purpose: a provider that buys twice, a host that forgets, tools and clocks of the careless kind.

A judge that finds nothing proves little: each time it must find something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.faults.world.judging import Found, tell
from tests.faults.world.stories import Story, first_boot, wipe
from tests.faults.world.strikes import FAULTS, Fault
from tests.faults.world.weather import Call
from tests.sweep import scenarios
from tests.sweep.broken import Impatient

from agentmetal.app import Parts
from agentmetal.core.errors import CommandFailed

BY_NAME = {fault.name: fault for fault in FAULTS}


async def bought_twice(call: Call) -> Any:
    """A provider that takes the second order for another one."""
    answer = await call.act()
    server = call.world.cloud.server(answer.id)
    call.world.cloud._create(server.spec, server.owner)
    return answer


async def unit_forgotten(call: Call) -> Any:
    """A host that does not know a unit it ran."""
    await call.act()
    for host in call.world.hosts._hosts.values():
        host.units.clear()
    raise CommandFailed("the host has never heard of it")


async def touched(call: Call) -> Any:
    """Somebody takes a stranger for ours."""
    try:
        return await BY_NAME["machine is exchanged"].strike(call)
    finally:
        call.world.strangers[-1].host.files["/etc/ours"] = b"ours"


async def forged(call: Call) -> Any:
    """A record of the trail is changed behind our back."""
    answer = await call.act()
    call.world.audit.trail.pop(0)
    return answer


async def never_answers(call: Call) -> Any:
    """A machine that is never well again."""
    assert call.host
    call.host.cut = True
    return await call.act()


BREACHES: dict[str, tuple[Story, str, Callable[[Call], Any], str]] = {
    "two servers are bought": (scenarios.provision, "cloud.provision_server", bought_twice, "servers"),
    "a command runs twice": (first_boot, "host.start_unit", unit_forgotten, "another attempt"),
    "a stranger is touched": (scenarios.provision, "host.run", touched, "stranger"),
    "the trail is changed": (scenarios.provision, "cloud.provision_server", forged, "missing"),
    "a machine is never well again": (scenarios.provision, "host.create_file", never_answers, "it never came to it"),
}


@pytest.mark.parametrize(("story", "label", "strike", "says"), BREACHES.values(), ids=BREACHES)
def test_the_judge_finds_it(story: Story, label: str, strike: Callable[[Call], Any], says: str) -> None:
    number = tell(story).points.index(label) + 1
    with pytest.raises(Found, match=says):
        tell(story, {number: Fault(name="breach", strike=strike, at=lambda label: True)})


def test_a_step_that_takes_silence_for_failure_is_found() -> None:
    points = tell(wipe).points
    number = points.index("host.start_unit") + 1
    with pytest.raises(Found, match=r"although it is|removed again"):
        tell(wipe, {number: BY_NAME["reply lost"]}, parts=Parts(executor=Impatient))
