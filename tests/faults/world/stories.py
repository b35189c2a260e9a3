"""What people want of machines, told so that anything may break in between: the stories of the tests beside it.

Each begins to count calls where the sweeps' stories begin to count points, and says how the world must be in the end.
Three of them are the sweeps' own. Whatever waits is approved; what a fault may change in the ending stands in each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.faults.world.weather import FatefulWorld
from tests.support.inventories import Inventory
from tests.sweep import scenarios
from tests.sweep.scenarios import USER_DATA, End

from agentmetal.clients.keys import make_key_pair
from agentmetal.core.clock import rfc3339
from agentmetal.core.machine import UnitPhase
from agentmetal.providers.fake_host import Effect
from agentmetal.providers.fake_server import loop_time
from agentmetal_tools.wiping import removal

Story = Callable[[FatefulWorld], Awaitable[End]]
LOG = "/var/lib/agentmetal/user-data.log"


async def first_boot(world: FatefulWorld) -> End:
    """User data runs once; what was interrupted is told, with where to look, and never run again."""
    world.begin()
    world.hosts.unit(["true"], Effect(seconds=0.4))
    await world.provider()
    await world.instance(userData=USER_DATA)
    await world.quiet()
    data = world.see().status.user_data
    began = [run.argv for run in world.hosts.journal if run.argv[0] == "true"]
    once: list[tuple[str, ...]] = [("true", "first"), ("true", "second")]
    assert began == once[: len(began)], f"it ran {began}"
    assert data is not None
    if data.state == "Failed":
        degraded = [c.message for c in world.see().status.conditions if c.type == "Degraded"]
        assert any("user data failed" in said for said in degraded), degraded
    else:
        assert (data.state, began) == ("Done", once), f"the user data is {data}, ran {began}"
        assert world.hosts.host("fake-1").files["/srv/hello"] == b"hello"
    return End()


async def resize(world: FatefulWorld) -> End:
    """Another size."""
    await world.settled()
    world.begin()
    await world.edit("web-1", type="medium")
    await world.approve_until(lambda: world.is_quiet() and world.cloud.server("fake-1").spec.type == "medium")
    return End()


async def reboot(world: FatefulWorld) -> End:
    """A reboot is asked for by a time."""
    await world.settled()
    await world.until(lambda: loop_time() > 120)
    world.begin()
    asked = rfc3339(world.clock.now())
    boots = len(world.cloud.server("fake-1").boots)
    await world.annotate("web-1", as_=world.erin, **{"reboot-at": asked})
    await world.approve_until(lambda: len(world.cloud.server("fake-1").boots) > boots and world.is_quiet())
    ordered = [run for run in world.hosts.journal if run.argv == ("systemctl", "reboot")]
    assert len(ordered) <= 1, f"{len(ordered)} reboots were ordered"
    return End()


async def repin(world: FatefulWorld) -> End:
    """The host key was changed by its owner, who says so; the new one is trusted."""
    await world.settled()
    host, pair = world.hosts.host("fake-1"), make_key_pair("renewed")
    host.host_key = pair.public_line
    await world.hosts.forget(world.see().key)
    await world.annotate("web-1", as_=world.erin, reconcile_at="now")
    await world.until(lambda: world.has_said("HostKeyMismatch", pair.fingerprint), why="the other key is told")
    world.begin()
    await world.annotate("web-1", as_=world.erin, repin=pair.fingerprint)
    await world.approve_until(lambda: world.is_quiet() and world.see().status.host_key_fingerprint == pair.fingerprint)
    return End()


async def claim(world: FatefulWorld) -> End:
    """A machine of an inventory is claimed: one."""
    lab = await _lab(world, "h1", "h2")
    world.begin()
    await lab.wants()
    await world.quiet()
    await world.fair()
    await world.quiet()
    claimed = [name for name in lab.hosts if lab.claimed_by(name)]
    assert claimed == [world.see().status.provider_id], f"claimed are {claimed}"
    return End(servers=0)


async def wipe(world: FatefulWorld) -> End:
    """The same, and what the Provider names is removed first: once in each plan that a human approved.

    Within one plan it is only begun again where the machine went down in the middle.
    """
    lab = await _lab(world, "h1", wipe={"paths": ["/srv/data"]})
    world.hosts.unit(["find", "-P"], Effect(seconds=0.4))
    await lab.wants()
    await world.quiet()
    world.begin()
    await world.delete("web-1")
    await world.approve_until(lambda: world.see() is None)
    ran = [run for run in world.hosts.journal if run.argv == removal(["/srv/data"])]
    assert ran, "nothing was removed"
    for operation in {run.name.rsplit("-", 2)[0] for run in ran}:
        names = [run.name for run in ran if run.name.startswith(f"{operation}-")]
        ends = [world.units[name].state(loop_time()).phase for name in names]
        assert all(end is UnitPhase.INTERRUPTED for end in ends[:-1]), f"it was removed again after it was {ends[:-1]}"
    assert not lab.claimed_by("h1")
    return End(servers=0, exists=False)


async def _lab(world: FatefulWorld, *hosts: str, **block: Any) -> Inventory:
    lab = Inventory(world)
    for name in hosts:
        lab.add(name)
    await lab.provide(**block)
    return lab


STORIES: tuple[Story, ...] = (
    scenarios.provision,
    first_boot,
    scenarios.change_image,
    resize,
    reboot,
    repin,
    scenarios.rotate_key,
    scenarios.delete,
    scenarios.release,
    claim,
    scenarios.adopt,
    scenarios.let_go,
    wipe,
)
