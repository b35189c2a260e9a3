"""What the operator writes for one object, recorded by watching it, and made again for others. Used by `burst`, `bare`.

So the bare loop writes bodies of the same kind, number and size as the operator did, whatever the operator writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentmetal.core.operation import operation_name

_SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")
_NAME, _UID, _OPERATION = "@name@", "@uid@", "@operation@"


@dataclass
class Recording:
    """The states of one object and of what belongs to it, in the order they were seen."""

    name: str
    uid: str = ""
    statuses: list[dict[str, Any]] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[dict[str, Any]] = field(default_factory=list)

    def see_instance(self, body: dict[str, Any]) -> None:
        """A state of the object."""
        if body["metadata"]["name"] == self.name:
            self.uid = body["metadata"]["uid"]
            self.statuses.append(body.get("status") or {})

    def see_operation(self, body: dict[str, Any]) -> None:
        """A state of its operation."""
        self.operations.append(body)

    def see_secret(self, body: dict[str, Any]) -> None:
        """A Secret of its namespace; those of others are left out by `template`."""
        self.secrets.append(body)

    def template(self) -> dict[str, Any]:
        """The bodies to be written, with marks in the place of names."""
        created, *changed = self.operations
        whole = {
            "operation": _without_servers_own(created),
            "operation_statuses": [body["status"] for body in changed],
            "secrets": [_without_servers_own(body) for body in self.secrets if _owner(body) == self.uid],
            "status_patches": list(differences(self.statuses)),
            "final_status": self.statuses[-1],
        }
        text = json.dumps(whole).replace(operation_name(self.uid, 1), _OPERATION)
        filled: dict[str, Any] = json.loads(text.replace(self.uid, _UID).replace(self.name, _NAME))
        return filled


def writes_in(template: Mapping[str, Any]) -> int:
    """How many writes each object costs."""
    return 1 + sum(len(template[part]) for part in ("operation_statuses", "secrets", "status_patches"))


def filled(template: str, instance: Mapping[str, Any]) -> dict[str, Any]:
    """The bodies for another object; `template` as JSON text, so that filling is one pass."""
    name, uid = instance["metadata"]["name"], instance["metadata"]["uid"]
    text = template.replace(_OPERATION, operation_name(uid, 1)).replace(_UID, uid).replace(_NAME, name)
    bodies: dict[str, Any] = json.loads(text)
    for body in (bodies["operation"], *bodies["secrets"]):
        body["metadata"]["namespace"] = instance["metadata"]["namespace"]
    return bodies


def differences(states: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The merge patches that lead from state to state, whole fields as the operator writes them."""
    before, *after = states  # the first one is the API server's: defaults of the schema
    for state in after:
        gone = {name: None for name in before if name not in state}
        changed = {name: value for name, value in state.items() if before.get(name) != value}
        if gone or changed:
            yield {**gone, **changed}
        before = state


def _without_servers_own(body: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in body["metadata"].items() if name not in _SERVERS_OWN}
    return {**body, "metadata": metadata}


def _owner(body: Mapping[str, Any]) -> str:
    return next((str(owner["uid"]) for owner in body["metadata"].get("ownerReferences") or ()), "")
