"""When another host key may be trusted: only when a human named it. Pure; asked by the agent and for its report.

`agentmetal.io/repin=<SHA256:...>` names the key that is shown. It leads to a plan, which a human must approve, and
does nothing once that key is pinned, so it may stay.
"""

from __future__ import annotations

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation, Reach
from agentmetal.core.condition import Condition, ConditionType, Reason
from agentmetal.core.resource import Annotation
from agentmetal_tools.repin import KeyFacts


def agreed(resource: Instance, observed: InstanceObservation) -> bool:
    """Is the key that a human named the one that is shown, and for an inventory also the one that it says?"""
    asked = _asked(resource)
    wrong = observed.reach is Reach.WRONG_HOST_KEY and asked == observed.shown != observed.fingerprint
    return bool(asked) and wrong and (not observed.inventory or observed.vouched == asked)


def facts(resource: Instance, observed: InstanceObservation) -> KeyFacts:
    """What the plan is made on."""
    return KeyFacts(
        exists=observed.server is not None,
        server_id=observed.server.id if observed.server else "",
        pinned=observed.fingerprint,
        shown=observed.shown,
        machine_id=resource.status.machine_id or "",
        shown_by=observed.shown_by,
    )


def difference(observed: InstanceObservation) -> str:
    """Which key was expected and which one is shown, in short; else what the connection said."""
    if observed.fingerprint and observed.shown not in ("", observed.fingerprint):
        return f"pinned is {observed.fingerprint}, shown is {observed.shown}"
    return f"pinned is {observed.fingerprint or 'none'}; {observed.evidence}"


def mismatch(resource: Instance, observed: InstanceObservation) -> tuple[Condition, ...]:
    """The condition: what is pinned, what is shown, and what a human can do."""
    if observed.reach is not Reach.WRONG_HOST_KEY:
        return ()
    message = f"{difference(observed)}. {_what_to_do(resource, observed)}"
    return (Condition.true(ConditionType.HOST_KEY_MISMATCH, Reason.HOST_KEY_MISMATCH, message),)


def _what_to_do(resource: Instance, observed: InstanceObservation) -> str:
    asked, shown, name = _asked(resource), observed.shown, Annotation.REPIN
    if agreed(resource, observed):
        return f"To trust {shown} is planned, as {name} asks for"
    if not shown:
        return "What it shows is not known at the moment: it is asked again, and nothing is done on it until then"
    if shown == observed.fingerprint:
        host = observed.server.id if observed.server else ""
        return (
            f"The host itself shows the pinned key and the inventory says {observed.vouched}: put the pinned key back"
            f" into the entry of {host!r}, or the new one on the host"
        )
    found_out = (
        "The machine was replaced, or somebody is in between: find out. Nothing is done on it until it shows the"
        " pinned key (put that back on the host), or until a human trusts the shown one:"
    )
    other = f" (it asks for {asked[:64]!r} now)" if asked not in ("", observed.fingerprint, shown) else ""
    annotate = f"annotate {name}={shown}{other}"
    if not observed.inventory or observed.vouched == shown:
        return f"{found_out} {annotate}"
    listed = "the pinned one" if observed.vouched == observed.fingerprint else observed.vouched
    rest = f". {name} asks for it already" if asked == shown else f", and {annotate}"
    return f"{found_out} put it into the inventory, which says {listed}{rest}"


def _asked(resource: Instance) -> str:
    return resource.annotation(Annotation.REPIN).strip()
