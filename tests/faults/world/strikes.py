"""What can break at a call: the answer, the provider, the machine, the store, the clock. Used by the tests beside it.

Each fault is one function on a `Call`, ends by itself after a while, and leaves mending what a human must mend to the
world's human. `FAULTS` says at which calls each one makes sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.world.weather import Call, Strike, unreachable

from agentmetal.core.errors import LimitReached, OutcomeUnknown, RateLimited, Unavailable
from agentmetal.providers.fake_host import FakeHost

SECONDS = 60.0
"""How long faults last that somebody else mends."""
EXCHANGED_SECONDS = 150.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that breaks."""

    name: str
    strike: Strike
    at: Callable[[str], bool]
    """At which calls."""


def _lost(call: Call) -> Exception:
    """What a caller hears whose answer was lost: of a change at a provider, that nobody knows."""
    if call.port == "cloud":
        text = f"the answer of {call.method} was lost"
        return OutcomeUnknown(text) if call.changes else Unavailable(text)
    return unreachable(call)


async def reply_lost(call: Call) -> Any:
    await call.act()
    raise _lost(call)


async def request_lost(call: Call) -> Any:
    raise _lost(call)


async def rate_limited(call: Call) -> Any:
    call.world.out_of_order(SECONDS, RateLimited("too many requests: wait", retry_after=10.0))
    call.world.suffer(call)


async def server_error(call: Call) -> Any:
    call.world.out_of_order(SECONDS, Unavailable("the provider answers 500"))
    call.world.suffer(call)


async def quota(call: Call) -> Any:
    error = LimitReached("the account may have no more servers: ask the provider for more, or remove some")
    call.world.out_of_order(SECONDS, error, method=call.method)
    call.world.suffer(call)


def _machine(call: Call) -> FakeHost | None:
    return call.host


async def dies_before(call: Call) -> Any:
    if host := _machine(call):
        call.world.power_off(host)
    return await call.act()


async def dies_after(call: Call) -> Any:
    answer = await call.act()
    if host := _machine(call):
        call.world.power_off(host)
    return answer


async def reboots(call: Call) -> Any:
    answer = await call.act()
    if host := _machine(call):
        host.server.stop(clean=False)
        host.server.start()
    return answer


async def freezes(call: Call) -> Any:
    if host := _machine(call):
        host.frozen = True
        call.world.later(SECONDS, lambda: setattr(host, "frozen", False), or_when=call.world.reboots(host))
    return await call.act()


async def is_cut(call: Call) -> Any:
    if host := _machine(call):
        host.cut = True
        call.world.later(SECONDS, lambda: setattr(host, "cut", False))
    return await call.act()


async def is_exchanged(call: Call) -> Any:
    if host := _machine(call):
        call.world.exchange(host, EXCHANGED_SECONDS)
    return await call.act()


async def host_full(call: Call) -> Any:
    if host := _machine(call):
        host.full = True
        call.world.later(SECONDS, lambda: setattr(host, "full", False))
    return await call.act()


async def host_clock(call: Call) -> Any:
    if host := _machine(call):
        host.health.clock_ahead = -1e6
        call.world.later(SECONDS, lambda: setattr(host.health, "clock_ahead", 0.0))
    return await call.act()


async def end_unrecorded(call: Call) -> Any:
    answer = await call.act()
    for unit in call.world.units.values():
        unit.end_lost = True
    return answer


async def store_full(call: Call) -> Any:
    audit = call.world.audit
    audit.unavailable = "the audit trail cannot be written (No space left on device): free space there"
    call.world.later(SECONDS, lambda: setattr(audit, "unavailable", ""))
    return await call.act()


async def store_fails_once(call: Call) -> Any:
    raise Unavailable("the audit trail cannot be written (database is locked): see who locks it")


def clock_jumps(ahead: timedelta | None, *, mended_after: float = 600.0) -> Strike:
    """Somebody sets the operator's clock; None: to 1970. After a while it is put right."""

    async def strike(call: Call) -> Any:
        clock = call.world.operator_clock
        clock.ahead = ahead if ahead is not None else datetime(1970, 1, 1, tzinfo=UTC) - clock.now()
        call.world.later(mended_after, lambda: setattr(clock, "ahead", timedelta()))
        return await call.act()

    return strike


def _anywhere(label: str) -> bool:
    return True


def _at_provider(label: str) -> bool:
    return label.startswith("cloud.")


def _at_hosts(label: str) -> bool:
    return label.startswith(("host.", "hosts."))


def _at_machines(label: str) -> bool:
    return _at_provider(label) or _at_hosts(label)


def _at_store(label: str) -> bool:
    return label.startswith("audit.")


def _is(*labels: str) -> Callable[[str], bool]:
    return lambda label: label in labels


FAULTS = (
    Fault(name="reply lost", strike=reply_lost, at=_at_machines),
    Fault(name="request lost", strike=request_lost, at=_at_machines),
    Fault(name="rate limited", strike=rate_limited, at=_at_provider),
    Fault(name="answers 500", strike=server_error, at=_at_provider),
    Fault(name="quota", strike=quota, at=_is("cloud.provision_server", "cloud.rebuild_server", "cloud.resize_server")),
    Fault(name="machine dies", strike=dies_before, at=_at_machines),
    Fault(name="machine dies right after", strike=dies_after, at=_at_machines),
    Fault(name="machine reboots", strike=reboots, at=_at_machines),
    Fault(name="machine freezes", strike=freezes, at=_at_machines),
    Fault(name="machine is cut off", strike=is_cut, at=_at_machines),
    Fault(name="machine is exchanged", strike=is_exchanged, at=_at_machines),
    Fault(name="disk of the host full", strike=host_full, at=_at_hosts),
    Fault(name="clock of the host wrong", strike=host_clock, at=_at_hosts),
    Fault(name="end not recorded", strike=end_unrecorded, at=_is("host.start_unit")),
    Fault(name="store full", strike=store_full, at=_at_store),
    Fault(name="store fails once", strike=store_fails_once, at=_at_store),
)
CLOCKS = (
    Fault(name="clock an hour ahead", strike=clock_jumps(timedelta(hours=1)), at=_anywhere),
    Fault(name="clock an hour back", strike=clock_jumps(timedelta(hours=-1)), at=_anywhere),
    Fault(name="clock in 1970", strike=clock_jumps(None), at=_anywhere),
)
