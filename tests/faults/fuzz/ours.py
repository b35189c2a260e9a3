"""Modules that take text apart and are not fuzzed, each with its reason. Compared with the code by `test_parsers`.

A package stands for all that is in it.
"""

from __future__ import annotations

from collections.abc import Mapping

OURS: Mapping[str, str] = {
    "agentmetal.cli": "words on the command line of whoever runs it, and manifests of his own",
    "agentmetal.dev": "development only: what our own processes and the files that we made say",
    "agentmetal.kube.memory": "the API server of tests",
    "agentmetal.kube.cache": "a status that the operator has put there itself",
    "agentmetal.kube.crds": "our own models",
    "agentmetal.kube.handlers": "paths of requests that we make ourselves",
    "agentmetal.kube.install": "the CRDs that we ship, and our own kubectl",
    "agentmetal.kube.secrets": "base64 that the API server has checked",
    "agentmetal.clients.ssh.errors": "joins the words of an error message",
    "agentmetal.clients.ssh.host": "compares the first word of sha256sum with ours",
    "agentmetal.clients.ssh.machines": "the first two words of a host key whose form the CRD has checked",
    "agentmetal.core.audit": "entries that the stores have read: `audit-row`",
    "agentmetal.core.operation": "times that we wrote into the journal",
    "agentmetal.core.tool": "documentation of our own functions",
    "agentmetal.engine.busy": "names of operations, which we made",
    "agentmetal.engine.ledger": "names of operations, which we made",
    "agentmetal.preview": "a manifest that the API server has taken",
    "agentmetal.providers.fake_hosts": "simulated hosts",
    "agentmetal.providers.fake_proc": "simulated hosts",
    "agentmetal.providers.nspawn": "development only: files that we made, and the kernel of the operator's own host",
    "agentmetal.providers.ssh.inventory": "an inventory whose form the CRD has checked",
    "agentmetal.settings": "environment of whoever runs the operator, read by pydantic",
    "agentmetal.store.libpq": "an address that the administrator wrote",
    "agentmetal.store.postgres": "rows with the same entries as `audit-row`",
    "agentmetal.store.statements": "SQL that we ship",
    "agentmetal.storing": "an address that the administrator wrote",
    "agentmetal_tools.rotation": "the first two words of keys; lines of authorized_keys are `authorized-keys`",
    "agentmetal_tools.servers": "the first two words of host keys whose form was checked",
}
