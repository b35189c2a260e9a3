"""Secrets are planted wherever the operator reads them; after a whole life none is in anything that it wrote."""

from __future__ import annotations

import base64
import io
import json
import logging
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.canaries import Canary, canary, found, lines_of, token
from tests.support.system import NAMESPACE, System, running

from agentmetal.clients.kubeconfig import Connection
from agentmetal.clients.kubernetes import KubernetesClient
from agentmetal.clients.webhook import Webhook
from agentmetal.core import logs
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.kubetypes import NAMESPACE as NAMESPACES
from agentmetal.core.kubetypes import SECRET
from agentmetal.core.machine import MachineIdentity, SecretKey
from agentmetal.core.resource import Key


@pytest.fixture
def log() -> Iterator[dict[str, io.StringIO]]:
    """Everything that is logged, at debug level, by everybody: as the operator writes it, and as it came."""
    root, written = logging.getLogger(), {name: io.StringIO() for name in ("log as JSON", "log as text", "raw log")}
    formats = (logs.JsonFormatter(), logs.TextFormatter(), logging.Formatter("%(message)s"))
    handlers = [logging.StreamHandler(stream) for stream in written.values()]
    before = root.level
    for handler, form in zip(handlers, formats, strict=True):
        handler.setFormatter(form)
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)


def values_of(log: dict[str, io.StringIO]) -> dict[str, str | bytes]:
    return {name: stream.getvalue() for name, stream in log.items()}


async def give(system: System, name: str, **data: str) -> None:
    """A Secret of people's, marked as usable."""
    metadata = {"namespace": NAMESPACE, "name": name, "labels": {"agentmetal.io/usable": "true"}}
    encoded = {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in data.items()}
    await system.admin.create(SECRET, {"type": "Opaque", "metadata": metadata, "data": encoded})


def written(system: System) -> dict[str, str | bytes]:
    """All that the operator left behind where people look: every object but Secrets, the audit trail, metrics."""
    objects = {
        f"{place[0].plural}/{place[2]}": json.dumps(system.cluster.peek(*place), ensure_ascii=False)
        for place in system.cluster.contents(NAMESPACE)
        if place[0] != SECRET
    }
    audit = {"the audit trail": repr([vars(system.audit)])}
    metrics = {"metrics": system.processes[-1].core.metrics.render()}
    commands = {"command lines on hosts": repr([run.argv for run in system.hosts.journal])}
    return {**objects, **audit, **metrics, **commands}


def keys_made(system: System) -> tuple[Canary, ...]:
    """The private keys that the operator made itself."""
    held = [system.cluster.peek(*place) for place in system.cluster.contents(NAMESPACE) if place[0] == SECRET]
    made: list[Canary] = []
    for secret in held:
        for name, value in ((secret or {}).get("data") or {}).items():
            text = base64.b64decode(value).decode("utf-8", "replace")
            if "PRIVATE KEY" in text:
                made += lines_of(f"{(secret or {})['metadata']['name']}/{name}", text)
    return tuple(made)


@pytest.mark.looptime
async def test_no_secret_is_in_anything_the_operator_writes(log: dict[str, io.StringIO]) -> None:
    account, first_boot = canary("the account's credentials"), canary("a value of the user data")
    text = "#cloud-config\n" + json.dumps(
        {"write_files": [{"path": "/etc/secret", "content": first_boot.value}], "runcmd": [["false"]]}
    )
    async with running() as system:
        await give(system, "account", token=account.value)
        await give(system, "first-boot", userData=text)
        await system.apply("Provider", "cloud-2", {"type": "Fake", "fake": {}, "secretRef": {"name": "account"}})
        await system.instance("web-1", userDataSecretRef={"name": "first-boot"}, providerRef={"name": "cloud-2"})
        await system.until(lambda: (seen := system.see("web-1")) and seen.status.state == "Running")
        await system.edit("web-1", image="bookworm-20")
        await system.annotate("web-1", approve=await system.awaiting("web-1"))
        await system.until(lambda: (seen := system.see("web-1")) and seen.status.image == "bookworm-20")
        made = keys_made(system)
        assert len(made) >= 4, "the operator makes a key to log in, and one for the host"
        await system.delete("web-1")
        before = written(system)
        await system.annotate("web-1", approve=await system.awaiting("web-1"))
        await system.gone("web-1")
        places = {**before, **written(system), **values_of(log)}
    assert "Approved via Annotation" in str(places["raw log"]), "nothing was logged, so nothing was shown"
    assert found(places, (account, first_boot, *made)) == []


ENDS = ("refused", "not a name")


@pytest.mark.parametrize("end", ENDS)
async def test_no_client_shows_its_credentials_when_it_breaks(log: dict[str, io.StringIO], end: str) -> None:
    """Every client meets somebody who is not there, and the whole traceback is logged."""
    password, path, bearer = token("the store's password"), token("the webhook's path"), token("the API's token")
    host = {"refused": "127.0.0.1:1", "not a name": "no.such.name.invalid:1"}[end]
    logger = logging.getLogger("agentmetal.probe")

    async def kubernetes() -> None:
        tls = ssl.create_default_context()
        client = KubernetesClient(Connection(server=f"http://{host}", token=bearer.value, tls=tls))
        try:
            await client.get(NAMESPACES, "", "kube-system")
        finally:
            await client.close()

    async def webhook() -> None:
        sink = Webhook(timeout=2.0)
        try:
            await sink.post(f"https://{host}/{path.value}", b"{}", {})
        finally:
            await sink.close()

    async def store() -> None:
        from agentmetal.store.postgres import PostgresAuditStore

        opened = await PostgresAuditStore.open(f"postgresql://agentmetal:{password.value}@{host}/agentmetal")
        await opened.close()

    met = 0
    for client in (kubernetes, webhook, store):
        try:
            await client()
        except AgentMetalError as error:
            met += 1
            logger.exception("%s", error)
            logger.error(
                "it says %r", error, extra={"cause": repr(error.__cause__), "context": repr(error.__context__)}
            )
    assert met == 3, values_of(log)
    assert found(values_of(log), (password, path, bearer)) == []


async def test_a_key_that_cannot_be_read_is_not_shown(log: dict[str, io.StringIO]) -> None:
    """Somebody put something else where the key should be: the error says where, not what."""
    from agentmetal.clients.ssh.connection import open_connection

    key = canary("what stands where the key should be")
    identity = MachineIdentity(
        owner=Key("Instance", "shop", "web-1"),
        server_id="s",
        address="127.0.0.1",
        port=1,
        user="root",
        host_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
        client_key=SecretKey(namespace="shop", name="lab-ssh", key="private"),
    )

    async def load(place: SecretKey) -> str:
        return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{key.value}\n-----END OPENSSH PRIVATE KEY-----\n"

    with pytest.raises(AgentMetalError) as refused:
        await open_connection(identity, load, None, keepalive_interval=10.0)
    logging.getLogger("agentmetal.probe").error("refused", exc_info=refused.value)
    assert "shop/lab-ssh" in str(values_of(log)["raw log"])
    assert found(values_of(log), (key,)) == []


def plant(form: str, one: Canary) -> str:
    raw = one.value.encode()
    match form:
        case "as it is":
            return f"password is {one.value}!"
        case "json":
            return json.dumps({"a": [one.value]})
        case "repr":
            return repr({"a": one.value})
        case "base64":
            return base64.b64encode(raw).decode()
        case "base64 inside":
            return base64.b64encode(b"user:" + raw + b"@host").decode()
        case _:
            return raw.hex()


@pytest.mark.parametrize("form", ["as it is", "json", "repr", "base64", "base64 inside", "hex"])
def test_a_leak_would_be_found(form: str) -> None:
    for one in (canary("c"), token("t")):
        assert found({"somewhere": plant(form, one)}, [one]) == [f"{one.what} in somewhere"]
        assert found({"elsewhere": plant(form, canary("another"))}, [one]) == []


@pytest.mark.looptime
async def test_a_leak_of_the_operator_would_be_found(log: dict[str, io.StringIO]) -> None:
    """An operator that told a secret in a condition would not pass."""
    leaked = canary("leaked")
    async with running() as system:
        await system.instance("web-1", userData=f"#cloud-config\nruncmd: [[echo, {json.dumps(leaked.value)}]]\n")
        await system.until(lambda: system.see("web-1"))
        places: dict[str, Any] = written(system)
    assert "leaked in instances/web-1" in found(places, [leaked])
