"""User data of an Instance: what is wanted, whether it can be had, how far it is, and what status says. Used by the
observer, which looks, and by agent, steps and report, for which all of it is pure.

It runs once on a disk that is new: after an order, a claim of an inventory's host, a rebuild. Never on a server that
was adopted as it is, and a change takes effect with the next rebuild only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentmetal.agents.instance.api import Instance, PowerState
from agentmetal.core.condition import Condition, ConditionType, Reason
from agentmetal.core.errors import Forbidden, Invalid, NotFound
from agentmetal.core.machine import Server, ServerProvider
from agentmetal.core.plan import Change, Step
from agentmetal.core.tool import Secrets
from agentmetal_tools.cloudconfig import check, parse
from agentmetal_tools.servers import HostParams, UserDataRef
from agentmetal_tools.userdata import (
    MAX_IGNORED,
    Note,
    UserDataFacts,
    UserDataParams,
    apply_user_data,
    await_user_data,
    read_note,
    read_owed,
    read_secret,
    ref_of,
)

if TYPE_CHECKING:
    from agentmetal.agents.instance.observation import InstanceObservation

FIELD = "userData"
IGNORED_BYTES = 900
"""Of a parameter's 1,024: the last words come on top."""
WATCH_SECRET = 15.0
"""Seconds between two looks for a Secret that is needed."""
_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (NotFound, Reason.SECRET_MISSING),
    (Forbidden, Reason.SECRET_NOT_USABLE),
    (Invalid, Reason.INVALID_SPEC),
)


@dataclass(frozen=True, kw_only=True)
class UserData:
    """What is wanted, and what is known about it before a host is asked. The text itself is not kept."""

    wanted: UserDataRef | None = None
    cloud_init: bool = False
    """The image carries cloud-init, which runs it."""
    owed: UserDataRef | None = None
    """What the disk was ordered with, as long as it is not known how that ended."""
    ignored: tuple[str, ...] = ()
    """What in it is not understood without cloud-init."""
    reason: Reason | None = None
    """Why it cannot be had or used."""
    problem: str = ""


NONE = UserData()


async def find(
    secrets: Secrets, resource: Instance, provider: ServerProvider, server: Server | None, held: Mapping[str, bytes]
) -> UserData:
    """What is wanted. It is read only while it may be needed: nobody asks for a Secret whose use is over."""
    spec = resource.spec
    wanted = ref_of(spec.user_data, spec.user_data_secret_ref.name if spec.user_data_secret_ref else None)
    if wanted is None:
        return NONE
    owed = read_owed(held)
    known = UserData(wanted=wanted, owed=owed, cloud_init=provider.runs_cloud_init(spec.image))
    if server is not None and server.image == spec.image and owed is None:
        return known
    try:
        text = spec.user_data or await read_secret(secrets, resource.metadata.namespace, wanted.secret or "")
        ignored = await asyncio.to_thread(_read, text, cloud_init=known.cloud_init)
    except (NotFound, Forbidden, Invalid) as error:
        reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
        return UserData(wanted=wanted, owed=owed, cloud_init=known.cloud_init, reason=reason, problem=error.message)
    return UserData(wanted=wanted, owed=owed, cloud_init=known.cloud_init, ignored=ignored)


def _read(text: str, *, cloud_init: bool) -> tuple[str, ...]:
    """What is not understood. Raises Invalid."""
    if cloud_init:
        check(text)
        return ()
    return _shown(parse(text).ignored)


def _shown(ignored: tuple[str, ...]) -> tuple[str, ...]:
    """As much of it as a plan has room for, and how many more there are."""
    shown, room = list[str](), IGNORED_BYTES
    for what in (each[:120] for each in ignored):
        room -= len(json.dumps(what)) + 1
        if room < 0 or len(shown) == MAX_IGNORED - 1:
            break
        shown.append(what)
    more = len(ignored) - len(shown)
    return (*shown, f"and {more} more") if more else tuple(shown)


def note_of(resource: Instance, observed: InstanceObservation) -> Note | None:
    """What the host's note says, if it is about this Instance."""
    note = read_note(observed.look.user_data) if observed.look else None
    return note if note is not None and note.uid in ("", resource.uid) else None


def hinders(observed: InstanceObservation) -> bool:
    """Nothing is ordered or rebuilt with user data that cannot be had or used."""
    return observed.user_data.reason is not None


def changes(resource: Instance, observed: InstanceObservation) -> tuple[Change, ...]:
    """It is owed and was not noted as ended: the plan that ordered the disk did not get so far."""
    data, look = observed.user_data, observed.look
    if data.owed is None or data.wanted is None or look is None or hinders(observed) or observed.unprepared:
        return ()
    if not observed.ours or resource.spec.power_state is not PowerState.ON:
        return ()
    return (Change(field=FIELD, desired=str(data.wanted.secret or data.wanted.sha256[:12]), actual="not run yet"),)


def steps(observed: InstanceObservation, host: HostParams, *, new_disk: bool) -> tuple[Step, ...]:
    """Wait for cloud-init, or do it ourselves; nothing where none is wanted.

    cloud-init runs what the disk was ordered with, whatever the spec says since.
    """
    data = observed.user_data
    if data.wanted is None or not observed.hosts:
        return ()
    runs = data.owed if data.cloud_init and data.owed is not None and not new_disk else data.wanted
    params = UserDataParams(**host.model_dump(), user_data=runs, ignored=data.ignored)
    run = await_user_data if data.cloud_init else apply_user_data
    return (run.step(params, UserDataFacts(ignored=data.ignored)),)


def not_ready(observed: InstanceObservation) -> tuple[Reason, str] | None:
    """Why the user data keeps a server from being ordered or used."""
    data = observed.user_data
    return (data.reason, data.problem) if data.reason is not None else None


def again_in(observed: InstanceObservation) -> float | None:
    """Nothing tells us that somebody makes or labels a Secret."""
    waits = observed.user_data.reason in (Reason.SECRET_MISSING, Reason.SECRET_NOT_USABLE)
    return WATCH_SECRET if waits else None


def pending(resource: Instance, observed: InstanceObservation) -> tuple[Reason, str] | None:
    """Why a server that runs is not ready on account of its user data."""
    if not changes(resource, observed):
        return not_ready(observed) if observed.user_data.owed is not None else None
    return Reason.PLAN_PENDING, "its user data has not run yet"


def fields(resource: Instance, observed: InstanceObservation) -> Mapping[str, Any]:
    """`status.userData`: what the host's note says; before there is one, what is to come."""
    data, note = observed.user_data, note_of(resource, observed)
    if note is not None:
        return {FIELD: {"state": note.state, "sha256": note.sha256, "ignored": list(note.ignored)}}
    if data.wanted is not None and (observed.server is None or data.owed is not None):
        return {FIELD: {"state": "Pending", "sha256": data.wanted.sha256, "ignored": list(data.ignored)}}
    return {FIELD: None} if observed.look is not None else {}


def degraded(resource: Instance, observed: InstanceObservation) -> tuple[Condition, ...]:
    """User data that failed is told; the server can be used all the same."""
    note = note_of(resource, observed)
    if note is None or note.state != "Failed":
        return ()
    message = f"its user data failed: {note.message or 'look at the host'}"
    return (Condition.true(ConditionType.DEGRADED, Reason.USER_DATA_FAILED, message),)
