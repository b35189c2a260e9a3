"""The Instance agent: one server, from the order to the end. Called by the engine only; plans, never acts.

Fenced -> power off, before everything else. Gone -> order anew, but for machines that exist: those are adopted, waited
for and let go of (`ownership`). Powered off or silent -> start or reset. Another image -> rebuild, after approval.
A host that shows another key than the pinned one is never repaired: a human must look.
"""

from __future__ import annotations

from typing import ClassVar

from agentmetal.agents.instance import ownership, power, repin, userdata
from agentmetal.agents.instance.api import Instance, PowerState
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.agents.instance.observer import Observer
from agentmetal.agents.instance.report import report, waits_for
from agentmetal.agents.instance.steps import Steps
from agentmetal.agents.provider.api import Provider
from agentmetal.core.condition import Condition, Reason
from agentmetal.core.machine import ServerState
from agentmetal.core.plan import Change, Issue, Plan
from agentmetal.core.ports import Ports
from agentmetal.core.resource import Key
from agentmetal.core.tool import AnyTool
from agentmetal.engine.agent import Agent, Report
from agentmetal_tools.addresses import drop_address, hold_address
from agentmetal_tools.adoption import adopt_instance
from agentmetal_tools.instance import (
    decommission_instance,
    prepare_host,
    provision_instance,
    release_instance,
    wait_for_ready,
)
from agentmetal_tools.power import (
    reboot_host,
    reboot_instance,
    rebuild_instance,
    rescue_instance,
    resize_instance,
    start_instance,
    stop_instance,
)
from agentmetal_tools.repin import repin_host
from agentmetal_tools.userdata import apply_user_data, await_user_data
from agentmetal_tools.wiping import wipe_host


class InstanceAgent(Agent[Instance, InstanceObservation]):
    """Keeps one server as its Instance says."""

    name: ClassVar[str] = "instance"
    kind: ClassVar[type[Instance]] = Instance

    def __init__(self, ports: Ports) -> None:
        super().__init__(ports)
        self._observer = Observer(ports)

    async def observe(self, resource: Instance) -> InstanceObservation:
        """Ask the provider, then the host."""
        return await self._observer.observe(resource)

    def diff(self, resource: Instance, observed: InstanceObservation) -> tuple[Change, ...]:
        """No server, another image, another power state; nothing while it is fenced or somebody else's."""
        server = observed.server
        if resource.fenced or ownership.left_alone(observed):
            return ()
        if first := ownership.changes(resource, observed):
            orders = first[0].field != "owner" and not observed.adopts
            return () if orders and userdata.hinders(observed) else first
        if server is None or not observed.ours or server.state is ServerState.DECOMMISSIONING:
            return ()
        changes = []
        rescue = server.rescue or resource.spec.power_state is PowerState.RESCUE
        if server.image != resource.spec.image and not rescue and not userdata.hinders(observed):
            changes.append(Change(field="image", desired=resource.spec.image, actual=server.image))
        return (*changes, *power.changes(resource, observed), *userdata.changes(resource, observed))

    def issues(self, resource: Instance, observed: InstanceObservation) -> tuple[Issue, ...]:
        """What went wrong, the worst first. A machine that merely boots is no issue."""
        if observed.foreign or (observed.takeable and observed.reach is not Reach.WRONG_HOST_KEY):
            return ()
        if resource.spec.fence is not None:
            power_left = observed.server is not None and not observed.off and observed.capabilities.power
            evidence = f"fenced by {resource.spec.fence.holder}: {resource.spec.fence.reason}"
            return (Issue(type=Reason.FENCED, urgent=True, evidence=evidence),) if power_left else ()
        if observed.replaced or observed.unpinned:
            return ()
        found = []
        if observed.reach is Reach.WRONG_HOST_KEY:
            evidence = repin.difference(observed)
            found.append(Issue(type=Reason.HOST_KEY_MISMATCH, urgent=False, evidence=evidence))
        if observed.certainly_gone:
            evidence = f"server {resource.status.provider_id!r} does not exist any more"
            found.append(Issue(type=Reason.GONE, urgent=False, evidence=evidence))
        if resource.spec.power_state is PowerState.ON:
            found.extend(_issues_of_running(observed))
        return tuple(found)

    def plan(self, resource: Instance, observed: InstanceObservation, changes: tuple[Change, ...]) -> Plan:
        """The steps for the most important change; what is left is seen on the next look."""
        fields = {change.field for change in changes}
        steps = Steps(resource, observed)
        if "owner" in fields or ("hostKey" in fields and observed.adopts):
            chosen = steps.adopt()
        elif "server" in fields or "hostKey" in fields:
            chosen = steps.provision()
        elif "image" in fields:
            chosen = steps.rebuild()
        elif "powerState" in fields:
            chosen = steps.power()
        elif "type" in fields:
            chosen = steps.resize()
        elif "boot" in fields:
            chosen = steps.reboot()
        elif userdata.FIELD in fields:
            chosen = steps.user_data(new_disk=False)
        else:
            return Plan()
        return Plan(steps=chosen, reasoning="; ".join(str(change) for change in changes))

    def heal(self, resource: Instance, observed: InstanceObservation, issue: Issue) -> Plan:
        """The repair; for another host key only when a human named it, for nobody else knows who answers there."""
        steps = Steps(resource, observed)
        match issue.type:
            case Reason.HOST_KEY_MISMATCH if repin.agreed(resource, observed):
                chosen = steps.repin()
            case Reason.FENCED:
                chosen = steps.stop(force=True)
            case Reason.GONE if not observed.adopts and not userdata.hinders(observed):
                chosen = steps.provision()
            case Reason.POWERED_OFF:
                chosen = steps.start()
            case Reason.UNREACHABLE if observed.capabilities.power:
                chosen = steps.reset()
            case Reason.NOT_PREPARED:
                chosen = steps.prepare()
            case _:
                return Plan()
        return Plan(steps=chosen, reasoning=f"{issue.type}: {issue.evidence}")

    def teardown(self, resource: Instance, observed: InstanceObservation) -> Plan:
        """Delete or release the server. Nothing, when nothing was ever ordered or all is done: then no key is left."""
        if not observed.ordered and (resource.releases or not observed.ours):
            return Plan()
        steps = Steps(resource, observed)
        if resource.releases:
            return Plan(steps=steps.release(), reasoning="The server is kept and only let go of")
        if not observed.ours and (observed.server is not None or observed.inventory):
            return Plan(steps=steps.release(), reasoning="No server is ours; what we noted of it is dropped")
        return Plan(steps=steps.decommission(), reasoning=f"Instance {resource.metadata.name!r} was deleted")

    def report(self, resource: Instance, observed: InstanceObservation) -> Report:
        """What status says."""
        return report(resource, observed)

    def references(self, resource: Instance) -> tuple[Key, ...]:
        """Its Provider."""
        return (_provider_key(resource),)

    def waits_for(self, resource: Instance) -> Condition | None:
        """Its Provider must be ready and know what is asked for. Deleting and fencing wait for nothing."""
        if resource.deleting or resource.fenced:
            return None
        provider = self.ports.lookup.get(_provider_key(resource))
        return waits_for(resource, provider if isinstance(provider, Provider) else None)

    async def forget(self, key: Key, uid: str) -> None:
        """No connection to its host, and nothing of what was seen of it, also when somebody else made it go."""
        self._observer.forget(uid)
        if self.ports.lookup.get(key) is None:
            await self.ports.machines.forget(key)

    @classmethod
    def tools(cls) -> tuple[AnyTool, ...]:
        """Its tools."""
        return (
            provision_instance,
            adopt_instance,
            wait_for_ready,
            prepare_host,
            await_user_data,
            apply_user_data,
            start_instance,
            stop_instance,
            reboot_instance,
            reboot_host,
            resize_instance,
            rescue_instance,
            rebuild_instance,
            repin_host,
            wipe_host,
            decommission_instance,
            release_instance,
            # Planned by services that run on Instances, never by this agent.
            hold_address,
            drop_address,
        )


def _issues_of_running(observed: InstanceObservation) -> tuple[Issue, ...]:
    """What is wrong with a server that should run its own system."""
    if observed.server is not None and observed.server.rescue:
        return ()
    if observed.off and observed.capabilities.power:
        return (Issue(type=Reason.POWERED_OFF, urgent=False, evidence="the server is off although it should run"),)
    if observed.reach is Reach.SILENT:
        evidence = f"no answer since {observed.silent_since:%H:%M:%S}: {observed.evidence}"
        return (Issue(type=Reason.UNREACHABLE, urgent=False, evidence=evidence),)
    if observed.unprepared and not observed.claimed_by_other:
        evidence = f"the host lacks {', '.join(observed.unprepared)}"
        return (Issue(type=Reason.NOT_PREPARED, urgent=False, evidence=evidence),)
    return ()


def _provider_key(resource: Instance) -> Key:
    return Key(Provider.info.kind, resource.metadata.namespace, resource.spec.provider_ref.name)
