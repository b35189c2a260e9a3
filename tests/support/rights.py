"""What the operator's account asked of the API server, as the server itself wrote it down, beside what it may ask.

The development systems of the tests record it (`devsystem.record_requests`); rules come out of the committed manifests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agentmetal.kube.install import ACCOUNT

ROOT = Path(__file__).parents[2]
RBAC = ROOT / "manifests" / "rbac"


@dataclass(frozen=True, order=True, kw_only=True)
class Asked:
    """One sort of request."""

    verb: str
    group: str
    resource: str
    """With its subresource: `instances/status`."""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, order=True, kw_only=True)
class Right:
    """One verb on one resource, on these names (none: all), in this namespace (none: everywhere)."""

    verb: str
    group: str
    resource: str
    names: tuple[str, ...] = ()
    namespace: str = ""

    def covers(self, asked: Asked) -> bool:
        """May that be asked by this right?"""
        same = (self.verb, self.group, self.resource) == (asked.verb, asked.group, asked.resource)
        named = not self.names or asked.name in self.names
        return same and named and self.namespace in ("", asked.namespace)

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.group}".strip()


def asked(log: Path) -> set[Asked]:
    """Everything in an audit log that has to do with a resource."""
    found = set[Asked]()
    for line in log.read_text().splitlines():
        event = json.loads(line)
        reference = event.get("objectRef", {})
        if resource := reference.get("resource"):
            subresource = f"/{reference['subresource']}" if "subresource" in reference else ""
            found.add(
                Asked(
                    verb=event["verb"],
                    group=reference.get("apiGroup", ""),
                    resource=f"{resource}{subresource}",
                    namespace=reference.get("namespace", ""),
                    name=reference.get("name", ""),
                )
            )
    return found


def granted() -> tuple[Right, ...]:
    """What the manifests give the operator's account: its ClusterRoles, and the Roles of its own namespace."""
    documents = [document for path in sorted(RBAC.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]
    bindings = [document for document in documents if document["kind"].endswith("Binding")]
    bound = {binding["roleRef"]["name"] for binding in bindings if any(map(_is_operator, binding["subjects"]))}
    rights = list[Right]()
    for role in documents:
        if role["kind"] in ("Role", "ClusterRole") and role["metadata"]["name"] in bound:
            rights.extend(_rights(role["rules"], role["metadata"].get("namespace", "")))
    return tuple(sorted(rights))


def _is_operator(subject: Mapping[str, str]) -> bool:
    return (subject["kind"], subject["name"]) == ("ServiceAccount", ACCOUNT)


def _rights(rules: Iterable[Mapping[str, Any]], namespace: str) -> Iterator[Right]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    names = tuple(rule.get("resourceNames", ()))
                    yield Right(verb=verb, group=group, resource=resource, names=names, namespace=namespace)
