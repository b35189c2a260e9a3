"""Every parser of text that others write: hosts, providers, people, files, servers. The fuzz tests iterate over it.

A parser is given bytes, as they might come, and may raise nothing but its declared errors. Its first seed is a text
that it takes: what is refused at the first line lets no mutation of it come any further. `ours.py` says why other
modules that take text apart need no entry.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.power import reboot_time
from agentmetal.clients import kubeconfig, webhook
from agentmetal.clients.keys import fingerprint, public_line
from agentmetal.clients.kubeerrors import refused
from agentmetal.clients.kubernetes import waits_for
from agentmetal.clients.ssh import authorized, sudo, wrapper
from agentmetal.core.claim import Claim, read_claim
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.lines import one_line
from agentmetal.core.logs import redacted
from agentmetal.core.machine import Completed, OwnerTag
from agentmetal.core.operation import Operation
from agentmetal.core.quantity import seconds
from agentmetal.core.resource import Annotation
from agentmetal.engine import approval, verbs
from agentmetal.providers.ssh import survey
from agentmetal.store.sqlite import record_of
from agentmetal_tools import address_program, addresses, cloudconfig, hosts, login_keys, looks, userdata, wiping

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP0bS4jvYVUayQOKhi7PyCsD9i3s5f5sys3MUiM3Xo6a h1"
DIGEST = "sha256:" + "ab" * 32


@dataclass(frozen=True, kw_only=True)
class Parser:
    """One parser, something it understands, and what it may raise."""

    name: str
    module: str
    read: Callable[[bytes], Any]
    seeds: tuple[bytes, ...]
    raises: tuple[type[Exception], ...] = (AgentMetalError,)

    def survive(self, data: bytes) -> Any:
        """What it makes of the text; None when it refuses it. Anything but its declared errors escapes."""
        try:
            return self.read(data)
        except self.raises:
            return None


def _text(data: bytes) -> str:
    """As it comes from a session, whose text is decoded with replacement."""
    return data.decode(errors="replace")


def _completed(data: bytes) -> Completed:
    """The exit code is the first byte, so that it changes, too."""
    return Completed(exit_code=data[0] if data else 0, stdout=_text(data[1:]), stderr=_text(data[:300]))


def _look(data: bytes) -> looks.Look:
    found = looks.read_look(_text(data), asked=NOW, answered=NOW)
    assert len(found.failed_units) <= looks.MAX_FAILED_UNITS
    for text in (found.machine_id, found.hostname, found.os, found.kernel, found.architecture, *found.failed_units):
        assert len(text) <= 128, f"too long for status: {text!r}"
        assert text.isprintable(), f"tells a terminal what to do: {text!r}"
    return found


def _claim(data: bytes) -> Claim | None:
    claim = read_claim(data)
    if claim is not None:
        assert read_claim(claim.file()) == claim
        assert OwnerTag.parse(str(claim.tag)) == claim.tag
    return claim


def _keys(data: bytes) -> bytes:
    """A key of ours comes and goes, and nothing else changes."""
    ours = KEY.decode()
    found = authorized.keys_in(data)
    assert all(key.isprintable() for key in found)
    added = authorized.with_key(data, ours)
    assert ours.rpartition(" ")[0] in " ".join(authorized.keys_in(added))
    if not any(key.startswith(ours.rpartition(" ")[0]) for key in found):
        left = authorized.without_key(added, ours)
        assert left in (data, data + b"\n"), "removing our key has changed other lines"
    return added


def _instance(annotation: str, text: str) -> Instance:
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "annotations": {annotation: text}}
    spec = {"providerRef": {"name": "cloud"}, "type": "small", "image": "bookworm"}
    return Instance.model_validate({"metadata": metadata, "spec": spec})


def _resolved(data: bytes) -> object:
    spec: dict[str, Any] = {"resourceRef": {"kind": "Instance", "name": "web", "uid": "u"}, "number": 1}
    spec |= {"planHash": DIGEST, "digest": DIGEST, "risk": "Safe", "cause": {"trigger": "Change"}}
    spec |= {"steps": [{"tool": "t", "risk": "Safe"}]}
    status = {"phase": "Blocked", "steps": [{"state": "InDoubt", "attempt": 1}]}
    body = {"metadata": {"name": "op-1", "namespace": "shop"}, "spec": spec, "status": status}
    found = verbs.resolution(_instance(Annotation.RESOLVED, _text(data)), Operation.model_validate(body))
    assert found is None or found.step == 1
    return found


def _status_body(data: bytes) -> object:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return refused("get", 422, body) if isinstance(body, dict) else None


def _kubeconfig(data: bytes) -> object:
    with tempfile.NamedTemporaryFile(suffix=".kubeconfig") as file:
        Path(file.name).write_bytes(data)
        return kubeconfig.from_file(Path(file.name))


def _record(data: bytes) -> object:
    return record_of(1, "1" * 64, "0" * 64, 1, _text(data))


def _cloud_config(data: bytes) -> object:
    found = cloudconfig.parse(_text(data))
    for action in found.actions:
        if isinstance(action, cloudconfig.Run):
            assert action.argv and action.argv[0], "a command without a program"
            assert not any("\0" in word for word in action.argv), "no command line can hold NUL"
    return found


def _conf(data: bytes) -> object:
    conf = address_program.read_conf(data, b"program")
    assert isinstance(conf.epoch, int), "compared with the epoch of another process"
    return conf


def _redacted(data: bytes) -> object:
    text = redacted(_text(data))
    assert redacted(text) == text, "what was guarded once is guarded"
    return text


SEALED = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)
"""A private key of nobody, the same every day."""
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----"
LOOK = """clock:1767225600.5
disk:1000 400 300 100 50
machine:x86_64
there:1767225600 /usr/local/lib/agentmetal/agentmetal-run
/etc/machine-id:0123456789abcdef0123456789abcdef
/proc/sys/kernel/hostname:web-1
/proc/sys/kernel/version:#1 SMP Debian 6.1.140-1 (2025-05-22)
/proc/loadavg:0.10 0.20 0.30 1/100 1234
/sys/devices/system/cpu/online:0-3,8
/var/lib/agentmetal/claim.json:{"cluster":"c","namespace":"n","uid":"u"}
/etc/os-release:PRETTY_NAME="Debian GNU/Linux 12"
/proc/meminfo:MemTotal:  1000000 kB
/proc/meminfo:MemAvailable:  500000 kB
/proc/self/mounts:/dev/sda1 / ext4 rw,relatime 0 0

units:
ssh.service loaded failed failed OpenBSD Secure Shell server
"""
CLOUD = f"""#cloud-config
users:
- name: ann
  groups: [adm, sudo]
  sudo: ALL=(ALL) NOPASSWD:ALL
  ssh_authorized_keys: ["{KEY.decode()}"]
packages: [nginx, curl=8.1]
write_files:
- path: /etc/motd
  content: aGVsbG8=
  encoding: b64
  permissions: '0644'
  owner: root:root
runcmd:
- [systemctl, enable, nginx]
"""
CONFIG = """apiVersion: v1
current-context: dev
contexts: [{name: dev, context: {cluster: dev, user: dev, namespace: shop}}]
clusters: [{name: dev, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: dev, user: {token: abc}}]
"""
CERTIFIED = CONFIG.replace("token: abc", "client-certificate-data: aGVsbG8=, client-key-data: aGVsbG8=")
ENTRY = json.dumps(
    {
        "agent": "instance",
        "action": "plan",
        "resource": "Instance shop/web (u)",
        "timestamp": "2026-01-01T00:00:00Z",
        "actor": "operator",
        "operation": "op-1",
        "reasoning": "why",
        "digest": DIGEST,
        "steps": ["one"],
        "risk": "Safe",
        "decision": "",
        "outcome": "",
        "duration_ms": 1,
    }
)

PARSERS: tuple[Parser, ...] = (
    Parser(name="look", module="agentmetal_tools.looks", read=_look, seeds=(LOOK.encode(),), raises=()),
    Parser(
        name="claim",
        module="agentmetal.core.claim",
        read=_claim,
        raises=(),
        seeds=(b'{"cluster":"c","namespace":"n","uid":"u","server":"web"}\n',),
    ),
    Parser(
        name="wrapper-start",
        module="agentmetal.clients.ssh.wrapper",
        read=lambda data: wrapper.read_start(_completed(data), "unit"),
        seeds=(
            b"\0agentmetal-run 1 running\noutput",
            b"\x4bagentmetal-run 1 stale 7\n",
            b"\x49agentmetal-run 1 full\n",
        ),
    ),
    Parser(
        name="wrapper-state",
        module="agentmetal.clients.ssh.wrapper",
        read=lambda data: wrapper.read_state(_completed(data), "unit"),
        seeds=(b"\0agentmetal-run 1 ended success exited 0\nhello", b"\0agentmetal-run 1 ended signal killed KILL\n"),
    ),
    Parser(
        name="wrapper-forgotten",
        module="agentmetal.clients.ssh.wrapper",
        read=lambda data: wrapper.read_forgotten(_completed(data), "op-1"),
        seeds=(b"\0agentmetal-run 1 forgotten\n",),
    ),
    Parser(
        name="sudo",
        module="agentmetal.clients.ssh.sudo",
        read=lambda data: sudo.check("ops", _completed(data)),
        seeds=(b"\x000\n", b"\x01sudo: a password is required"),
    ),
    Parser(
        name="authorized-keys",
        module="agentmetal.clients.ssh.authorized",
        read=_keys,
        raises=(),
        seeds=(KEY + b'\nfrom="10.0.0.5",command="x \\" y" ' + KEY + b"\n# comment\ncert-authority " + KEY + b"\n",),
    ),
    Parser(
        name="public-key", module="agentmetal.clients.keys", read=lambda data: fingerprint(_text(data)), seeds=(KEY,)
    ),
    Parser(
        name="private-key",
        module="agentmetal.clients.keys",
        read=lambda data: public_line(_text(data)),
        seeds=(SEALED, PRIVATE.encode()),
    ),
    Parser(
        name="boot",
        module="agentmetal_tools.hosts",
        read=lambda data: hosts.read_boot(_text(data)),
        raises=(),
        seeds=(b"3f0c8a1e-0000-4000-8000-000000000000\n1 (systemd) S" + b" 1" * 18 + b" 77 1\n100.5 200.5\n",),
    ),
    Parser(
        name="address-state",
        module="agentmetal_tools.addresses",
        read=lambda data: addresses._state(_text(data)),
        seeds=(b"epoch=3\ndevice=eth0\nheld=1\nuntil=99\n",),
        raises=(),
    ),
    Parser(
        name="address-where",
        module="agentmetal_tools.addresses",
        read=lambda data: addresses._where(_completed(data), "10.0.0.7"),
        seeds=(b'\0[{"ifname":"eth0","addr_info":[{"local":"10.0.0.7","valid_life_time":9}]}]',),
    ),
    Parser(
        name="address-conf",
        module="agentmetal_tools.address_program",
        read=_conf,
        raises=(address_program.Trouble,),
        seeds=(b"address=10.0.0.7\nepoch=3\nlifetime=9\ncondition=true\n",),
    ),
    Parser(
        name="user-data-note",
        module="agentmetal_tools.userdata",
        read=lambda data: userdata.read_note(_text(data)),
        raises=(),
        seeds=(b'{"state":"Running","operation":"op-1","step":1}',),
    ),
    Parser(
        name="user-data-owed",
        module="agentmetal_tools.userdata",
        read=lambda data: userdata.read_owed({hosts.HOST_USER_DATA: data}),
        seeds=(b'{"sha256":""}',),
        raises=(),
    ),
    Parser(name="cloud-config", module="agentmetal_tools.cloudconfig", read=_cloud_config, seeds=(CLOUD.encode(),)),
    Parser(
        name="cloud-init",
        module="agentmetal_tools.cloudconfig",
        seeds=(CLOUD.encode(),),
        read=lambda data: cloudconfig.check(_text(data)),
    ),
    Parser(
        name="mounts",
        module="agentmetal_tools.wiping",
        read=lambda data: wiping._unescaped(_text(data)),
        raises=(),
        seeds=(b"/srv/a\\040b",),
    ),
    Parser(
        name="memory",
        module="agentmetal.providers.ssh.survey",
        read=lambda data: survey._memory_mb(_text(data)),
        seeds=(b"MemTotal: 100 kB\n",),
        raises=(),
    ),
    Parser(
        name="disk",
        module="agentmetal.providers.ssh.survey",
        read=lambda data: survey._disk_gb(_completed(data)),
        seeds=(b"\x004096 1000000\n",),
        raises=(),
    ),
    Parser(
        name="machine-id",
        module="agentmetal.providers.ssh.survey",
        raises=(),
        read=lambda data: survey._machine_id(_text(data)),
        seeds=(b"0123456789abcdef0123456789abcdef\n",),
    ),
    Parser(
        name="decision",
        module="agentmetal.engine.approval",
        raises=(),
        read=lambda data: approval.stamp_of(_instance(Annotation.DECISION, _text(data))),
        seeds=(f"approve {DIGEST} by ann".encode(),),
    ),
    Parser(
        name="resolved", module="agentmetal.engine.verbs", read=_resolved, seeds=(b"op-1/1=done by ann",), raises=()
    ),
    Parser(
        name="reboot-at",
        module="agentmetal.agents.instance.power",
        read=lambda data: reboot_time(_text(data)),
        seeds=(b"2026-01-01T00:00:00+01:00",),
        raises=(),
    ),
    Parser(
        name="rotation",
        module="agentmetal_tools.login_keys",
        read=lambda data: login_keys.rotation_named(_text(data)),
        seeds=(b"2026-01",),
        raises=(),
    ),
    Parser(
        name="duration",
        module="agentmetal.core.quantity",
        read=lambda data: seconds(_text(data)),
        seeds=(b"1h30m5s",),
        raises=(ValueError,),
    ),
    Parser(
        name="owner-tag",
        module="agentmetal.core.machine",
        read=lambda data: OwnerTag.parse(_text(data)),
        seeds=(b"cluster/namespace/uid",),
        raises=(ValueError,),
    ),
    Parser(
        name="retry-after",
        module="agentmetal.clients.webhook",
        raises=(),
        read=lambda data: webhook.retry_after(_text(data), NOW),
        seeds=(b"120", b"Wed, 21 Oct 2026 07:28:00 GMT"),
    ),
    Parser(
        name="webhook-url",
        module="agentmetal.clients.webhook",
        read=lambda data: webhook.checked_url(_text(data), development=True),
        seeds=(b"https://hooks.example.com/a?b=c",),
    ),
    Parser(
        name="kubernetes-status",
        module="agentmetal.clients.kubeerrors",
        read=_status_body,
        raises=(),
        seeds=(b'{"message":"no","details":{"causes":[{"message":"why"}]}}',),
    ),
    Parser(
        name="kubernetes-wait",
        module="agentmetal.clients.kubernetes",
        read=lambda data: waits_for(_text(data)),
        seeds=(b"3",),
        raises=(),
    ),
    Parser(
        name="kubeconfig",
        module="agentmetal.clients.kubeconfig",
        read=_kubeconfig,
        seeds=(CONFIG.encode(), CERTIFIED.encode()),
    ),
    Parser(name="audit-row", module="agentmetal.store.sqlite", read=_record, seeds=(ENTRY.encode(),)),
    Parser(
        name="redacted",
        module="agentmetal.core.logs",
        read=_redacted,
        raises=(),
        seeds=(
            b"password=abc https://u:p@host/ eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc bearer abcdefghijk",
            PRIVATE.encode(),
        ),
    ),
    Parser(
        name="one-line",
        module="agentmetal.core.lines",
        read=lambda data: one_line(_text(data), 200),
        seeds=(b"a line\nanother",),
        raises=(),
    ),
)

BY_NAME: Mapping[str, Parser] = {parser.name: parser for parser in PARSERS}
