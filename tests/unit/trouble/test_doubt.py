"""A step whose end nobody can know: blocked until an approver says what happened."""

from __future__ import annotations

import pytest
from tests.support.system import System, running
from tests.support.trouble import condition, only_server, phases, quiet, says

from agentmetal.core.errors import Forbidden
from agentmetal.providers.fake_hosts import Effect

pytestmark = pytest.mark.looptime


async def _blocked(system: System) -> str:
    """A plan whose last step ran and left no word of its end; what `resolve` must name."""
    system.hosts.unit(["hostnamectl", "set-hostname"], Effect(seconds=10.0))
    await system.instance()
    await system.until(lambda: system.hosts.journal)
    host = system.hosts.host((await only_server(system)).id)
    (unit,) = host.units.values()
    unit.end_lost = True
    await system.until(lambda: phases(system) == ["Blocked"])
    system.hosts.unit(["hostnamectl", "set-hostname"], Effect())
    return f"{system.plans()[0].metadata.name}/3"


async def test_a_blocked_step_gives_the_line_that_ends_it() -> None:
    async with running() as system:
        place = await _blocked(system)
        said = await says(system, f"agentmetal.io/resolve={place}=done (or =not-done)", type="Blocked", status="True")
        assert "Look at the machine" in said.message
        assert "an approver must act" in said.message
        assert condition(system.see(), "Stalled").status == "True"
        assert system.see().status.plan.operation == place.partition("/")[0]


async def test_a_blocked_step_is_never_run_again_by_itself() -> None:
    async with running() as system:
        await _blocked(system)
        await quiet(1800)
        await system.processes[-1].crash()
        await system.start()
        await quiet(1800)
        assert phases(system) == ["Blocked"]
        assert len(system.hosts.journal) == 1


async def test_an_approver_who_says_done_lets_the_plan_go_on() -> None:
    async with running() as system:
        place = await _blocked(system)
        await system.annotate("web-1", resolve=f"{place}=done")
        await system.ready()
        (operation,) = system.plans()
        assert operation.status.steps[2].result == "ann says it was done"
        assert len(system.hosts.journal) == 1
        assert condition(system.see(), "Blocked").status == "False"


async def test_an_approver_who_says_not_done_lets_the_step_run_once_more_under_another_name() -> None:
    async with running() as system:
        place = await _blocked(system)
        await system.annotate("web-1", resolve=f"{place}=not-done")
        await system.ready()
        name = place.partition("/")[0]
        assert [run.name for run in system.hosts.journal] == [f"{name}-3-1", f"{name}-3-2"]
        assert phases(system) == ["Succeeded"]


async def test_an_editor_may_not_say_what_happened() -> None:
    async with running() as system:
        place = await _blocked(system)
        with pytest.raises(Forbidden, match='may not resolve steps of instances: the verb "approve" is missing'):
            await system.annotate("web-1", as_=system.erin, resolve=f"{place}=done")
        await system.annotate("web-1", as_=system.erin, resolved=f"{place}=done by ann")
        await quiet(600)
        assert phases(system) == ["Blocked"]


@pytest.mark.parametrize("value", ["op-other/3=done", "{name}/9=done", "{name}/3=perhaps", "{name}/x=done", "done"])
async def test_a_word_about_something_else_ends_nothing(value: str) -> None:
    async with running() as system:
        place = await _blocked(system)
        await system.annotate("web-1", resolve=value.format(name=place.partition("/")[0]))
        await quiet(60)
        assert phases(system) == ["Blocked"]


async def test_a_word_about_another_step_than_the_one_in_doubt_ends_nothing() -> None:
    async with running() as system:
        place = await _blocked(system)
        await system.annotate("web-1", resolve=place.replace("/3", "/1") + "=done")
        await quiet(60)
        assert phases(system) == ["Blocked"]


async def test_a_word_about_one_attempt_does_not_count_for_the_next() -> None:
    async with running() as system:
        place = await _blocked(system)
        system.hosts.unit(["hostnamectl", "set-hostname"], Effect(seconds=10.0))
        await system.annotate("web-1", resolve=f"{place}=not-done")
        await system.until(lambda: len(system.hosts.journal) == 2)
        host = system.hosts.host((await only_server(system)).id)
        host.units[f"{place.replace('/', '-')}-2"].end_lost = True
        await says(system, f"agentmetal.io/resolve={place}/2=done", type="Blocked", status="True")
        await quiet(600)
        assert phases(system) == ["Blocked"]
        assert len(system.hosts.journal) == 2
        await system.annotate("web-1", resolve=f"{place}/2=done")
        await system.ready()
