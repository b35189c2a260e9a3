"""Installs CRDs, roles and admission rules into a cluster, with kubectl. Called by `dev` and by the integration tests.

Returns when all of it is in force: the kinds can be listed and created, and the rules refuse. It starts no operator;
a production cluster is installed by `kubectl apply` (or GitOps) from the same files.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import agentmetal
from agentmetal.core.errors import AgentMetalError
from agentmetal.core.resource import GROUP, VERSION

NAMESPACE = "agentmetal-system"
ACCOUNT = "agentmetal-operator"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
"""Who the operator is to the API server; the admission rules know no other name."""

PAUSE = 0.1
"""Between two questions: that a rule is in force is not an event, it can only be tried out."""

YOUNG_KIND = "There can be a delay between when CustomResourceDefinitions are created and when they are available"
"""What the mutating rules say of a kind whose schema they have not read yet."""


class InstallFailed(AgentMetalError):
    """The cluster did not take what we installed."""

    reason = "InstallFailed"
    who_must_act = "the administrator"


def shipped() -> Path:
    """The directory with `crds/` and `manifests/`: data of the installed package, or the repository."""
    package = Path(agentmetal.__file__).parent
    return package / "data" if (package / "data" / "crds").is_dir() else package.parents[1]


async def install(
    kubectl: Path, kubeconfig: Path, *, directory: Path | None = None, overlay: str = "dev", within: float = 60.0
) -> None:
    """Apply everything; `overlay` is a directory below `manifests/` (`dev`: all but the operator's Deployment).

    May be repeated. Raises InstallFailed.
    """
    source = directory or shipped()
    cluster = _Kubectl(kubectl, kubeconfig)
    apply = ("apply", "--server-side", "--force-conflicts")
    try:
        async with asyncio.timeout(within):
            await cluster.run(*apply, f"--filename={source / 'crds'}")
            await cluster.run(*apply, f"--kustomize={source / 'manifests' / overlay}")
            await cluster.run("wait", "--for=condition=Established", f"--filename={source / 'crds'}")
            await _rules_in_force(cluster)
            kinds = [
                yaml.safe_load(path.read_text())["spec"]["names"] for path in sorted((source / "crds").glob("*.yaml"))
            ]
            await asyncio.gather(*(_served(cluster, kind["plural"]) for kind in kinds))
            await asyncio.gather(*(_admitted(cluster, kind["kind"], kind["plural"]) for kind in kinds))
    except TimeoutError:
        raise InstallFailed(f"not in force within {within:g} s; the last complaint was: {cluster.last!r}") from None


@dataclass
class _Kubectl:
    program: Path
    kubeconfig: Path
    last: str = ""

    async def run(self, *arguments: str, input: str = "") -> None:
        """Raises InstallFailed with what kubectl said."""
        if (complaint := await self.complaint(*arguments, input=input)) is not None:
            raise InstallFailed(f"kubectl {' '.join(arguments)}: {complaint}")

    async def complaint(self, *arguments: str, input: str = "") -> str | None:
        """None when it succeeded, else what it said."""
        process = await asyncio.create_subprocess_exec(
            self.program,
            f"--kubeconfig={self.kubeconfig}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"HOME": str(self.kubeconfig.parent)},  # its discovery cache stays with the cluster it describes
        )
        try:
            _, error = await process.communicate(input.encode())
        except asyncio.CancelledError:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        if process.returncode == 0:
            return None
        self.last = error.decode().strip()
        return self.last


async def _served(cluster: _Kubectl, plural: str) -> None:
    """Wait until the kind can be listed: just after its CRD came or changed it answers 429."""
    path = f"/apis/{GROUP}/{VERSION}/{plural}?limit=1"
    while await cluster.complaint("get", f"--raw={path}") is not None:  # noqa: ASYNC110 - there is no event, see PAUSE
        await asyncio.sleep(PAUSE)


async def _admitted(cluster: _Kubectl, kind: str, plural: str) -> None:
    """Wait until the mutating rules know the kind: they read schemas every few seconds, and refuse it until then.

    Tried out with an empty object: whatever else is wrong with it is found after these rules have seen it.
    """
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{plural}?dryRun=All"
    body = json.dumps({"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": "probe"}})
    create = ("create", f"--raw={path}", "--filename=-")
    while YOUNG_KIND in (await cluster.complaint(*create, input=body) or ""):  # noqa: ASYNC110 - as above
        await asyncio.sleep(PAUSE)


async def _rules_in_force(cluster: _Kubectl) -> None:
    """Wait until the API server evaluates every rule applied so far (up to two seconds later).

    It learns of policies, and of bindings, in the order of their creation. So a pair of rules made after all others is
    in force no sooner than they are; this pair concerns nothing but one ConfigMap that is never stored.
    """
    token = f"agentmetal-probe-{secrets.token_hex(4)}"
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": _probe(token)})
    await cluster.run("create", "--filename=-", input=body)
    try:
        while not await _refused(cluster, token):  # noqa: ASYNC110 - there is no event, see PAUSE
            await asyncio.sleep(PAUSE)
    finally:
        await cluster.run("delete", "--wait=false", "--filename=-", input=body)


async def _refused(cluster: _Kubectl, token: str) -> bool:
    """Does the pair of rules act? First neither does, then one or both."""
    metadata = {"name": token, "namespace": NAMESPACE}
    config_map = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    complaint = await cluster.complaint("create", "--dry-run=server", "--filename=-", input=config_map)
    if complaint is None or f"{token} is not mutated" in complaint:
        return False
    if f"{token} is mutated" in complaint:
        return True
    raise InstallFailed(f"trying out the admission rules: {complaint}")


def _probe(token: str) -> Sequence[dict[str, Any]]:
    """A mutating rule that annotates the ConfigMap of that name, and a validating one that refuses it and says so."""
    constraints = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
        "resourceRules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["configmaps"],
                "resourceNames": [token],
            }
        ],
    }
    note = "Object{metadata: Object.metadata{annotations: {'probe': 'is mutated'}}}"
    refusal = {
        "expression": "false",
        "messageExpression": f"'{token} ' + object.metadata.?annotations[?'probe'].orValue('is not mutated')",
    }
    mutating = {
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "Never",
        "matchConstraints": constraints,
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": note}}],
    }
    validating = {"failurePolicy": "Ignore", "matchConstraints": constraints, "validations": [refusal]}
    return (
        _rule("MutatingAdmissionPolicy", token, mutating),
        _rule("MutatingAdmissionPolicyBinding", token, {"policyName": token}),
        _rule("ValidatingAdmissionPolicy", token, validating),
        _rule("ValidatingAdmissionPolicyBinding", token, {"policyName": token, "validationActions": ["Deny"]}),
    )


def _rule(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = "admissionregistration.k8s.io/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
