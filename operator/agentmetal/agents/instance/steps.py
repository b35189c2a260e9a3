"""The steps of an Instance's plans: which tool, with which identities and desired values, on which facts. Pure.

Used by `agent.py`, which decides when. Nothing measured goes into parameters: equal situations give equal plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentmetal.agents.instance import repin, userdata
from agentmetal.agents.instance.api import Instance, PowerState, host_key_secret_name, server_name
from agentmetal.agents.instance.observation import InstanceObservation, hostname_of
from agentmetal.agents.instance.power import reboot_asked
from agentmetal.agents.provider.api import key_secret_name
from agentmetal.core.clock import rfc3339
from agentmetal.core.plan import MAX_PARAMETER_BYTES, Step
from agentmetal_tools.adoption import AdoptParams, adopt_instance
from agentmetal_tools.instance import (
    decommission_instance,
    prepare_host,
    provision_instance,
    release_instance,
    wait_for_ready,
)
from agentmetal_tools.power import (
    RebootParams,
    ResizeParams,
    reboot_host,
    reboot_instance,
    rebuild_instance,
    rescue_instance,
    resize_instance,
    start_instance,
    stop_instance,
)
from agentmetal_tools.repin import RepinParams, repin_host
from agentmetal_tools.servers import (
    DecommissionParams,
    HostParams,
    PrepareParams,
    ProvisionParams,
    ServerFacts,
    ServerParams,
    StopParams,
    host_facts,
    server_facts,
)
from agentmetal_tools.wiping import OURS, WipeParams, wipe_host, within

STOP_GRACE_SECONDS = 30


class Steps:
    """The steps for one Instance on one observation."""

    def __init__(self, resource: Instance, observed: InstanceObservation) -> None:
        self._resource = resource
        self._observed = observed
        self._provider = resource.spec.provider_ref.name
        self._name = server_name(resource)
        self._id = observed.server.id if observed.server else None
        self._host_key = host_key_secret_name(resource.metadata.name)
        self._client_key = key_secret_name(self._provider)

    def provision(self) -> tuple[Step, ...]:
        """Order it and make it ours."""
        return (provision_instance.step(self._order(), self._facts()), *self._ready(), *self.user_data(new_disk=True))

    def adopt(self) -> tuple[Step, ...]:
        """Take over a server that exists; whoever finds it off starts it only where it should run."""
        server = self._observed.server
        if server is None:
            return ()
        params = AdoptParams(
            **self._host().model_dump(exclude={"server_id"}),
            server_id=server.id,
            was=self._taken_from(),
            host_key=self._observed.vouched if self._observed.hosts else "",
        )
        adopted = adopt_instance.step(params, self._facts())
        if not self._observed.off:
            return (adopted, *self._ready())
        return (adopted, *self.start()) if self._resource.spec.power_state is PowerState.ON else (adopted,)

    def rebuild(self) -> tuple[Step, ...]:
        """Another image: new disks, and all that was on them anew."""
        return (rebuild_instance.step(self._order(), self._facts()), *self._ready(), *self.user_data(new_disk=True))

    def user_data(self, *, new_disk: bool) -> tuple[Step, ...]:
        """What is run once on a new disk, which this plan orders or an earlier one has ordered."""
        return userdata.steps(self._observed, self._host(), new_disk=new_disk)

    def start(self) -> tuple[Step, ...]:
        """Power on, and make sure that it is as it was."""
        return (start_instance.step(self._server(), self._facts()), *self._ready())

    def reset(self) -> tuple[Step, ...]:
        """Restart by force, and make sure that it is as it was."""
        return (reboot_instance.step(self._server(), self._facts()), *self._ready())

    def power(self) -> tuple[Step, ...]:
        """The power state that is wanted. Out of the rescue system it goes cleanly: its disks are mounted there."""
        if self._resource.spec.power_state is PowerState.OFF:
            return self.stop()
        if self._resource.spec.power_state is PowerState.RESCUE:
            return (rescue_instance.step(self._server(), self._facts()), *self._answers())
        return self.start() if self._observed.off else (*self.stop(), *self.start())

    def resize(self) -> tuple[Step, ...]:
        """Another type, which a server only takes while it is off."""
        running = self._observed.running
        params = ResizeParams(**self._server().model_dump(), type=self._resource.spec.type, on=running)
        resized = resize_instance.step(params, self._facts())
        return (*self.stop(), resized, *self.start()) if running else (resized,)

    def reboot(self) -> tuple[Step, ...]:
        """Another boot, by the host's own system."""
        asked, look = reboot_asked(self._resource), self._observed.look
        if asked is None or look is None:
            return ()
        params = RebootParams(**self._host().model_dump(), asked_for=rfc3339(asked), boot_id=look.boot.id)
        return (reboot_host.step(params, self._facts()),)

    def repin(self) -> tuple[Step, ...]:
        """Trust the key that a human named."""
        keys = {"was": self._observed.fingerprint, "becomes": self._observed.shown}
        params = RepinParams(**self._host().model_dump(), **keys)
        return (repin_host.step(params, repin.facts(self._resource, self._observed)),)

    def stop(self, *, force: bool = False) -> tuple[Step, ...]:
        """Shut down, or cut the power at once."""
        params = StopParams(
            provider=self._provider,
            server=self._name,
            server_id=self._id,
            force=force,
            grace_seconds=0 if force else STOP_GRACE_SECONDS,
        )
        return (stop_instance.step(params, self._facts()),)

    def prepare(self) -> tuple[Step, ...]:
        """Claim, wrapper, hostname."""
        params = PrepareParams(
            provider=self._provider,
            server=self._name,
            server_id=self._id,
            host_key_secret=self._host_key,
            client_key_secret=self._client_key,
            hostname=hostname_of(self._resource, self._observed),
            was=self._taken_from(),
        )
        claimed_by = self._observed.look.claimed_by if self._observed.look else ""
        return (prepare_host.step(params, host_facts(claimed_by, self._observed.tag)),)

    def decommission(self) -> tuple[Step, ...]:
        """Delete it, or make sure that there is nothing to delete; a machine of an inventory is wiped and let go of."""
        params = DecommissionParams(**self._host().model_dump(), kept=self._observed.inventory)
        return (*self._wipe(), decommission_instance.step(params, self._facts()))

    def _wipe(self) -> tuple[Step, ...]:
        """What the Provider says is removed. Our own files go with the claim, and whoever logs in stays."""
        wipe, server = self._observed.wipe, self._observed.server
        if wipe is None or server is None or not self._observed.host_key:
            return ()
        paths = [path for path in wipe.paths if not any(within(path, place) for place in OURS)]
        users = [user for user in wipe.users if user not in ("root", server.user)]
        host = self._host().model_dump()
        wipes = [WipeParams(**host, paths=some) for some in _portions(paths)]
        wipes += [WipeParams(**host, user=user) for user in users]
        steps = tuple(wipe_host.step(params, self._facts()) for params in wipes)
        # An earlier teardown may have ended after it took the wrapper off: without it nothing can be removed.
        unable = self._observed.look is not None and not self._observed.look.wrapper
        return (*self.prepare(), *steps) if steps and unable else steps

    def release(self) -> tuple[Step, ...]:
        """Let go of it."""
        return (release_instance.step(self._host(), self._facts()),)

    def _ready(self) -> tuple[Step, ...]:
        """It answers and is prepared; nothing of that where servers have no hosts."""
        return (*self._answers(), *self.prepare()) if self._observed.hosts else ()

    def _answers(self) -> tuple[Step, ...]:
        return (wait_for_ready.step(self._host(), self._facts()),) if self._observed.hosts else ()

    def _server(self) -> ServerParams:
        return ServerParams(provider=self._provider, server=self._name, server_id=self._id)

    def _host(self) -> HostParams:
        return HostParams(
            provider=self._provider,
            server=self._name,
            server_id=self._id,
            host_key_secret=self._host_key,
            client_key_secret=self._client_key,
        )

    def _order(self) -> ProvisionParams:
        spec = self._resource.spec
        return ProvisionParams(
            provider=self._provider,
            server=self._name,
            server_id=self._id,
            host_key_secret=self._host_key,
            client_key_secret=self._client_key,
            type=spec.type,
            image=spec.image,
            location=spec.location or "",
            user_data=self._observed.user_data.wanted,
            failure_domain=spec.failure_domain or "",
            labels=spec.host_selector or {},
            hostname=hostname_of(self._resource, self._observed),
        )

    def _facts(self) -> ServerFacts:
        observed = self._observed
        return server_facts(observed.server, observed.tag, fenced=self._resource.fenced, kept=observed.inventory)

    def _taken_from(self) -> str:
        """Whose mark the server carries that is taken over; empty when it carries none, or ours."""
        owner = self._observed.server.owner if self._observed.server else None
        return str(owner) if owner is not None and self._observed.takeable else ""


def _portions(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """As many in one step as a parameter can hold."""
    portion: list[str] = []
    for path in paths:
        if portion and sum(len(one) + 3 for one in (*portion, path)) > MAX_PARAMETER_BYTES - 2:
            yield tuple(portion)
            portion = []
        portion.append(path)
    if portion:
        yield tuple(portion)
