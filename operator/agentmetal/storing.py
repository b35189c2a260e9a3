"""Which audit store the settings name, and what is refused of it. Called by `process` before all else is built."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from agentmetal.agents.instance.api import Instance
from agentmetal.core.audit import AuditStore
from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.core.ports import KubeApi
from agentmetal.settings import Settings
from agentmetal.store.libpq import target
from agentmetal.store.postgres import PostgresAuditStore
from agentmetal.store.sqlite import SqliteAuditStore


async def opened(settings: Settings, api: KubeApi) -> AuditStore:
    """The store, ready. Raises Invalid for one that may not be used, Unavailable for one that cannot be now."""
    if settings.store_url is None:
        return await SqliteAuditStore.open(settings.store_path)
    url = settings.store_url.get_secret_value()
    if hosts := target(url).hosts:
        await refuse_own_machines(api, hosts)
    return await PostgresAuditStore.open(url)


async def refuse_own_machines(api: KubeApi, hosts: tuple[str, ...]) -> None:
    """The store must not stand on a machine that we manage: a plan for that machine could end its own journal.

    Raises Invalid when one of the hosts is an Instance's address.
    """
    ours = {
        address: f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        for body in (await api.list(Instance.info.type)).items
        for address in _addresses(body.get("status") or {})
    }
    for host in hosts:
        for address in await _resolved(host):
            if where := ours.get(address):
                raise Invalid(
                    f"the store's host {host!r} ({address}) is the Instance {where!r} that this operator manages: a"
                    " plan could remove the machine that records it; use a PostgreSQL server that is managed elsewhere"
                )


def _addresses(status: dict[str, object]) -> set[str]:
    listed = status.get("addresses")
    found = [*(listed if isinstance(listed, list) else ()), status.get("privateIP"), status.get("publicIP")]
    return {_plain(str(address)) for address in found if address}


async def _resolved(host: str) -> set[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(
            f"the store's host {host!r} cannot be resolved: look at its name and at DNS ({error})"
        ) from error
    return {_plain(str(address[0])) for *_, address in found}


def _plain(address: str) -> str:
    """One spelling for each address."""
    try:
        return str(ipaddress.ip_address(address.partition("%")[0].partition("/")[0]))
    except ValueError:
        return address
