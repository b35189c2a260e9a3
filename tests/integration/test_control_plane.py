"""The development control plane, for real."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest
from tests.support.controlplane import KubectlFailed, binaries, kubectl, kubectl_json, temporary_control_plane

from agentmetal.dev.controlplane import ControlPlane, ControlPlaneFailed
from agentmetal.dev.controlplane.components import HOST

pytestmark = pytest.mark.needs_control_plane


def processes_that_mention(directory: Path) -> list[str]:
    """Whatever runs on this machine with that directory in its command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        if os.fsencode(directory) in command:
            found.append(f"{process.name}: {os.fsdecode(command)}")
    return found


async def test_fresh_control_plane_is_ready_within_seconds(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "state", binaries())
    began = asyncio.get_running_loop().time()
    try:
        await plane.up()
        took = asyncio.get_running_loop().time() - began
        version = await kubectl_json(plane, "version")
    finally:
        await plane.down()
    assert took < 30, "about 3 s when nothing else runs on the machine"
    assert version["serverVersion"]["gitVersion"] != "v0.0.0"


async def test_second_up_starts_nothing_and_changes_no_address(control_plane: ControlPlane) -> None:
    before = control_plane.status()
    said: list[str] = []
    await control_plane.up(said.append)
    assert control_plane.status() == before
    assert before.running
    assert not [line for line in said if "started" in line]


async def test_two_callers_at_once_start_one_control_plane(tmp_path: Path) -> None:
    planes = [ControlPlane(tmp_path / "state", binaries()) for _ in range(2)]
    try:
        await asyncio.gather(*(plane.up() for plane in planes))
        assert planes[0].status() == planes[1].status()
        assert len(processes_that_mention(tmp_path / "state")) == 3
    finally:
        await planes[0].down()


async def test_killed_api_server_comes_back_with_its_data_and_its_address() -> None:
    async with temporary_control_plane() as plane:
        await kubectl(plane, "create", "configmap", "kept", "--from-literal=key=value")
        before = plane.status()
        killed = before.pids["kube-apiserver"]
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await plane.up()
        after = plane.status()
        assert after.url == before.url
        assert after.pids["etcd"] == before.pids["etcd"]
        assert after.pids["kube-apiserver"] not in (None, killed)
        assert (await kubectl_json(plane, "get", "configmap", "kept"))["data"] == {"key": "value"}


async def test_down_leaves_no_process_even_while_somebody_watches_and_up_finds_the_data_again() -> None:
    async with temporary_control_plane() as plane:
        await kubectl(plane, "create", "configmap", "kept")
        url = plane.url
        watcher = await asyncio.create_subprocess_exec(
            plane.binaries.kubectl,
            f"--kubeconfig={plane.kubeconfig('admin')}",
            *("get", "configmaps", "--watch", "-o", "name"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            assert watcher.stdout is not None
            await asyncio.wait_for(watcher.stdout.readline(), 30)
            async with asyncio.timeout(30):
                await plane.down()
        finally:
            if watcher.returncode is None:
                watcher.kill()
            await watcher.wait()
        assert processes_that_mention(plane.directory) == []
        assert not plane.status().running
        await plane.down()  # nothing to do is nothing to complain about
        await plane.up()
        assert plane.url == url
        assert await kubectl(plane, "get", "configmap", "kept", "-o", "name") == "configmap/kept\n"


async def test_start_on_a_taken_port_says_which_program_failed_and_what_to_do(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "state", binaries())
    (tmp_path / "state").mkdir()
    with socket.create_server((HOST, plane.ports().etcd)):
        try:
            with pytest.raises(
                ControlPlaneFailed, match=r"(?s)^etcd does not run.*address already in use.*ports\.json"
            ):
                await plane.up()
        finally:
            await plane.down()
    assert processes_that_mention(tmp_path / "state") == []


async def test_a_user_has_no_rights_before_somebody_binds_a_role(control_plane: ControlPlane) -> None:
    user = "newcomer"  # not editor or approver: other tests of this session bind roles to those
    control_plane.kubeconfig(user, ())
    whoami = await kubectl_json(control_plane, "auth", "whoami", user=user)
    assert whoami["status"]["userInfo"]["username"] == user
    assert whoami["status"]["userInfo"]["groups"] == ["system:authenticated"]
    with pytest.raises(KubectlFailed, match="cannot list resource"):
        await kubectl(control_plane, "get", "secrets", user=user)


async def test_operator_kubeconfig_speaks_as_the_service_account(control_plane: ControlPlane, namespace: str) -> None:
    await kubectl(control_plane, "create", "serviceaccount", "robot", "-n", namespace)
    await control_plane.service_account_kubeconfig(namespace, "robot", name="robot")
    whoami = await kubectl_json(control_plane, "auth", "whoami", user="robot")
    assert whoami["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:robot"


async def test_what_an_object_owned_goes_with_it(control_plane: ControlPlane, namespace: str) -> None:
    await kubectl(control_plane, "create", "configmap", "owner", "-n", namespace)
    uid = (await kubectl_json(control_plane, "get", "configmap", "owner", "-n", namespace))["metadata"]["uid"]
    owned = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences:\n"
        f"  - {{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}}}\n"
    )
    await kubectl(control_plane, "create", "-n", namespace, "-f", "-", input=owned)
    await kubectl(control_plane, "delete", "configmap", "owner", "-n", namespace)
    await kubectl(control_plane, "wait", "--for=delete", "configmap/owned", "-n", namespace, "--timeout=30s")


async def test_users_of_the_cluster_cannot_reach_etcd_behind_it(control_plane: ControlPlane) -> None:
    pki = control_plane.directory / "pki"
    trust = ssl.create_default_context(cafile=str(pki / "etcd-ca.crt"))
    url = f"https://{HOST}:{control_plane.ports().etcd}/version"
    async with aiohttp.ClientSession() as session:
        trust.load_cert_chain(pki / "client-admin.pem")
        with pytest.raises(aiohttp.ClientError):
            await session.get(url, ssl=trust)
        trust.load_cert_chain(pki / "client-kube-apiserver-at-etcd.pem")
        async with session.get(url, ssl=trust) as answer:
            assert answer.status == 200
