"""What people do and what happens to machines, from beginning to end: the stories that every crash is put into.

A story calls `world.begin()` where crashes begin to count; what went before is the same for all. It ends when all is
quiet again, and says how the world must then be (`End`), for `oracles.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.support.inventories import Inventory, trace
from tests.support.system import NAMESPACE
from tests.sweep.world import SweepWorld

from agentmetal.agents.provider.api import Provider
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.operation import OperationPhase
from agentmetal.providers.fake_host import Effect
from agentmetal_tools.wiping import removal

P = OperationPhase
QUIET_ENDS = frozenset({P.SUCCEEDED, P.SUPERSEDED, P.WITHDRAWN})
"""How operations may end where nobody refused, stopped or broke anything."""
USER_DATA = """#cloud-config
write_files: [{path: /srv/hello, content: hello}]
runcmd: [['true', first], ['true', second]]
"""
AUTHORIZED = "/root/.ssh/authorized_keys"


@dataclass(frozen=True, kw_only=True)
class End:
    """How the world must be when a story is over."""

    servers: int = 1
    exists: bool = True
    image: str = "bookworm"
    disks: int = 1
    """How many disks the server has had: one more for each rebuild."""
    phases: frozenset[OperationPhase] = QUIET_ENDS
    decided: int = 0
    """How many destructive calls humans have allowed."""


Story = Callable[[SweepWorld], Awaitable[End]]


async def provision(world: SweepWorld) -> End:
    """From nothing to a machine with a command run on it."""
    world.begin()
    await world.provider()
    await world.instance()
    await world.quiet()
    return End()


async def first_boot(world: SweepWorld) -> End:
    """From nothing to a machine on which its user data has run: each command once."""
    world.begin()
    await world.provider()
    await world.instance(userData=USER_DATA)
    await world.quiet()
    data = world.see().status.user_data
    assert data is not None and data.state == "Done", f"the user data is {data}"
    assert world.hosts.host("fake-1").files["/srv/hello"] == b"hello"
    began = [run.argv for run in world.hosts.journal if run.argv[0] == "true"]
    assert began == [("true", "first"), ("true", "second")], f"the commands that ran: {began}"
    return End()


async def heal(world: SweepWorld) -> End:
    """The power goes, and comes again."""
    await world.settled()
    world.begin()
    world.cloud.lose_power("fake-1")
    await world.annotate("web-1", reconcile_at="now")
    await world.until(lambda: world.see().status.state != "Running", why="the outage is seen")
    await world.quiet()
    return End()


async def change_image(world: SweepWorld) -> End:
    """Another image, which a human allows."""
    await world.settled()
    world.begin()
    await world.edit("web-1", image="bookworm-20")
    await world.approve_until(world.is_quiet)
    return End(image="bookworm-20", disks=2, decided=1)


async def delete(world: SweepWorld) -> End:
    """Deletion, which a human allows."""
    await world.settled()
    world.begin()
    await world.delete("web-1")
    await world.approve_until(lambda: world.see() is None)
    return End(servers=0, exists=False, decided=1)


async def reject(world: SweepWorld) -> End:
    """Another image, which a human refuses; then the old one is asked for again."""
    await world.settled()
    world.begin()
    await world.edit("web-1", image="bookworm-20")
    await world.reject_until(lambda: world.told("Drifted", "PlanRejected"))
    await world.edit("web-1", image="bookworm")
    await world.quiet()
    return End(phases=QUIET_ENDS | {P.REJECTED})


async def pause(world: SweepWorld) -> End:
    """Paused as soon as a repair has begun; unpaused after a while."""
    await world.settled()
    world.begin()
    world.cloud.lose_power("fake-1")
    await world.annotate("web-1", reconcile_at="now")
    await world.until(lambda: "start_server" in world.cloud.calls, why="the repair begins")
    await world.annotate("web-1", paused="true")
    await world.until(lambda: world.told("Paused", "Paused"))
    await world.annotate("web-1", paused=None)
    await world.quiet()
    return End()


async def release(world: SweepWorld) -> End:
    """Deleted with deletionPolicy Retain: the machine stays, our marks go."""
    await world.settled()
    await world.edit("web-1", management={"deletionPolicy": "Retain"})
    await world.quiet()
    world.begin()
    await world.delete("web-1")
    await world.until(lambda: world.see() is None, why="it is released")
    return End(exists=False)


async def delete_namespace(world: SweepWorld) -> End:
    """The whole namespace goes; nothing can be created in it, so the journal lives in the object."""
    await world.settled()
    world.begin()
    world.cluster.delete_namespace(NAMESPACE)
    await world.approve_until(lambda: world.see() is None)
    await world.until(lambda: not list(world.cluster.contents(NAMESPACE)), why="the namespace is empty")
    return End(servers=0, exists=False, decided=1)


async def heal_in_dying_namespace(world: SweepWorld) -> End:
    """While a teardown waits in a namespace that goes, the power goes too: it is repaired, and then torn down."""
    await world.settled()
    world.begin()
    world.cluster.delete_namespace(NAMESPACE)
    await world.until(world.awaits, why="the teardown waits")
    world.cloud.lose_power("fake-1")
    await world.annotate("web-1", reconcile_at="now")
    await world.until(lambda: world.see().status.state != "Running", why="the outage is seen")
    await world.until(lambda: world.see().status.state == "Running" and world.awaits(), why="it runs again")
    await world.approve_until(lambda: world.see() is None)
    return End(servers=0, exists=False, decided=1)


async def stop_midway(world: SweepWorld) -> End:
    """The spec is changed back while the approved rebuild runs: it ends at its next boundary; another one follows."""
    await world.settled()
    world.begin()
    await world.edit("web-1", image="bookworm-20")
    await world.approve_until(lambda: "rebuild_server" in world.cloud.calls)
    await world.edit("web-1", image="bookworm")
    await world.approve_until(lambda: world.is_quiet() and world.see().status.image == "bookworm")
    return End(disks=3, phases=QUIET_ENDS | {P.CANCELLED}, decided=2)


async def rotate_key(world: SweepWorld) -> End:
    """The key that logs in is rotated; at no moment does the host refuse the one that the Secret names."""
    await world.settled()
    shut_out: list[str] = []
    noted = world.cluster.checkpoint
    assert noted is not None

    def look(label: str) -> None:
        noted(label)
        held = _client_key(world)
        if held.get("ssh-publickey", "none") not in world.hosts.host("fake-1").files[AUTHORIZED].decode():
            shut_out.append(label)

    world.cluster.checkpoint = look
    old = _client_key(world)["ssh-publickey"]
    world.begin()
    await world.annotate("cloud", as_=world.erin, kind=Provider, rotate="r1")
    await world.until(lambda: _client_key(world).keys() == {"ssh-privatekey", "ssh-publickey", "rotation"}, why="done")
    await world.until(lambda: world.see("cloud", kind=Provider).status.public_key != old, why="the new key is shown")
    await world.quiet()
    assert not shut_out, f"the host refused our key at {shut_out[0]}"
    assert world.hosts.host("fake-1").files[AUTHORIZED].decode() == _client_key(world)["ssh-publickey"] + "\n"
    return End()


async def claim(world: SweepWorld) -> End:
    """A machine of an inventory is claimed: one, however often it is begun."""
    lab = await _lab(world, "h1", "h2")
    world.begin()
    await lab.wants()
    await world.quiet()
    assert [name for name in lab.hosts if lab.claimed_by(name)] == [world.see().status.provider_id]
    return End(servers=0)


async def adopt(world: SweepWorld) -> End:
    """A machine that an earlier Instance left behind is taken over, which a human allows."""
    lab = await _lab(world, "h1", "h2")
    lab.claim("h1", "an-earlier-one")
    world.begin()
    await lab.wants(adopt="h1")
    await world.approve_until(world.is_quiet)
    assert [lab.claimed_by("h1"), lab.claimed_by("h2")] == [world.see().uid, ""]
    return End(servers=0)


async def let_go(world: SweepWorld) -> End:
    """An Instance on a machine of an inventory is deleted: nothing of ours is left on that."""
    lab = await _lab(world, "h1")
    before = trace(lab.hosts["h1"])
    await lab.wants()
    await world.quiet()
    world.begin()
    await world.delete("web-1")
    await world.until(lambda: world.see() is None, why="it is let go of")
    assert trace(lab.hosts["h1"]) == before
    return End(servers=0, exists=False)


async def wipe(world: SweepWorld) -> End:
    """The same, and what the Provider names is removed first, which a human allows: once for each plan at most."""
    lab = await _lab(world, "h1", wipe={"paths": ["/srv/data"]})
    world.hosts.unit(["find", "-P"], Effect(seconds=0.4))
    await lab.wants()
    await world.quiet()
    world.begin()
    await world.delete("web-1")
    await world.approve_until(lambda: world.see() is None)
    failed = sum(states[-1].phase is OperationPhase.FAILED for states in world.diary.operations.values())
    assert {run.argv for run in world.hosts.journal} == {removal(["/srv/data"])}
    assert len(world.hosts.journal) <= 1 + failed, f"removed {len(world.hosts.journal)} times, {failed} plans failed"
    assert not lab.claimed_by("h1")
    return End(servers=0, exists=False)


async def _lab(world: SweepWorld, *hosts: str, **block: Any) -> Inventory:
    lab = Inventory(world)
    for name in hosts:
        lab.add(name)
    await lab.provide(**block)
    return lab


def _client_key(world: SweepWorld) -> dict[str, str]:
    body = world.cluster.peek(SECRET, NAMESPACE, "cloud-ssh") or {}
    return {name: base64.b64decode(value).decode().strip() for name, value in body.get("data", {}).items()}


STORIES: tuple[Story, ...] = (
    provision,
    first_boot,
    heal,
    change_image,
    delete,
    reject,
    pause,
    release,
    delete_namespace,
    heal_in_dying_namespace,
    stop_midway,
    rotate_key,
    claim,
    adopt,
    let_go,
    wipe,
)
