"""The real operator at debug level, on a real machine: no secret is in its log, its records, or a process list."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
import yaml
from tests.support.canaries import Canary, canary, found, lines_of, token
from tests.support.devsystem import Dev, instance, new_name
from tests.support.receiver import receiving

from agentmetal.dev.controlplane.plane import REQUESTS

pytestmark = [pytest.mark.needs_control_plane, pytest.mark.needs_machines, pytest.mark.timeout(300)]
SYSTEM = "agentmetal-system"
SEEN = "instances,providers,operations,approvalpolicies,events,leases,configmaps"


@asynccontextmanager
async def watching_processes() -> AsyncIterator[set[str]]:
    """Every command line on this computer, its machines included, looked at over and over."""
    lines: set[str] = set()

    def look() -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                lines.add(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))

    async def go_on() -> None:
        while True:
            await asyncio.to_thread(look)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(go_on())
    try:
        yield lines
    finally:
        task.cancel()
        await asyncio.wait([task])


async def secret(dev: Dev, name: str, namespace: str, values: dict[str, str]) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {"agentmetal.io/usable": "true"}},
        "stringData": values,
    }
    await dev.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(body), as_="admin")


async def keys_held(dev: Dev, *names: str) -> tuple[Canary, ...]:
    """The private keys in Secrets."""
    made: list[Canary] = []
    for name in names:
        for key, value in (await dev.get("secret", name))["data"].items():
            text = base64.b64decode(value).decode("utf-8", "replace")
            made += lines_of(f"{name}/{key}", text) if "PRIVATE KEY" in text else ()
    return tuple(made)


async def written(dev: Dev) -> dict[str, str | bytes]:
    """All that it left: its log, what people see, the audit trail's file, metrics, and what the API server recorded."""
    system = dev.system
    url = f"http://127.0.0.1:{system.operator.metrics_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        metrics = await response.text()
    objects = await dev.kubectl("get", SEEN, "--all-namespaces", "-o", "json", as_="admin")
    files = {path.name: path.read_bytes() for path in system.directory.glob("audit.db*")}
    return {
        "the operator's log": system.operator.log.read_text(),
        "objects": objects,
        "metrics": metrics,
        "requests": (system.directory / REQUESTS).read_text(),
        **files,
    }


async def test_no_secret_is_in_anything_the_real_operator_writes(dev_system: Dev) -> None:
    operator, name, first_boot, notify = dev_system.system.operator, new_name(), new_name(), new_name()
    value, hmac, path = canary("a value of the user data"), token("the webhook's key"), token("the webhook's path")
    held = yaml.safe_load(dev_system.kubeconfig("operator").read_text())["users"][0]["user"]["token"]
    user_data = "#cloud-config\n" + json.dumps({"write_files": [{"path": "/root/secret", "content": value.value}]})
    environment = {**os.environ, "AGENTMETAL_LOG_LEVEL": "debug", "AGENTMETAL_NOTIFY_SECRET": notify}
    await secret(dev_system, first_boot, "default", {"userData": user_data})
    async with receiving() as receiver, watching_processes() as lines:
        url = f"{receiver.url.rsplit('/', 1)[0]}/{path.value}"  # answers 404, with which delivery fails and is logged
        await secret(dev_system, notify, SYSTEM, {"url": url, "hmac-key": hmac.value})
        await operator.stop()
        try:
            await operator.start(dev_system.kubeconfig("admin"), environment)
            manifest = instance(name, userDataSecretRef={"name": first_boot})
            await dev_system.kubectl("apply", "-f", "-", input=manifest)
            await dev_system.kubectl("wait", "--for=condition=Ready", "--timeout=55s", f"instance/{name}")
            keys = await keys_held(dev_system, "local-ssh", f"{name}-host-key")
            await dev_system.kubectl("delete", "instance", name, "--wait=false")
            await dev_system.kubectl("wait", "--for=condition=AwaitingApproval", "--timeout=50s", f"instance/{name}")
            places = await written(dev_system)
        finally:
            await dev_system.restart_operator()
    canaries = (value, hmac, path, Canary("the operator's token", held.split(".")[2]), *keys)
    assert len(keys) >= 3
    assert " DEBUG " in str(places["the operator's log"])
    assert name in str(places["objects"])
    assert found({**places, "process lists": "\n".join(lines)}, canaries) == []
