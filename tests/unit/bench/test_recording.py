"""The recording that the bare loop replays, and the figures read from /metrics."""

from __future__ import annotations

import json
from typing import Any

from bench.processes import parse
from bench.recording import Recording, differences, filled, writes_in

from agentmetal.core.operation import operation_name
from agentmetal.engine.metrics import Metrics

UID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


def _recording() -> Recording:
    recording = Recording(name="sample-0000")
    meta = {"name": "sample-0000", "namespace": "sample", "uid": UID}
    operation = {"name": operation_name(UID, 1), "namespace": "sample", "uid": "o", "resourceVersion": "4"}
    for status in ({"observedGeneration": 0}, {"phase": "Creating", "plan": {}}, {"phase": "Running"}):
        recording.see_instance({"metadata": meta, "status": status})
    for phase in ("Pending", "Running", "Succeeded"):
        recording.see_operation({"metadata": operation, "spec": {"uid": UID}, "status": {"phase": phase}})
    owned = {"name": "sample-0000-host-key", "namespace": "sample", "ownerReferences": [{"uid": UID}]}
    recording.see_secret({"metadata": owned})
    recording.see_secret({"metadata": {"name": "cloud-ssh", "ownerReferences": [{"uid": "another"}]}})
    return recording


def test_every_write_of_the_operator_is_made_once_for_another_object() -> None:
    template = _recording().template()
    other: dict[str, Any] = {"metadata": {"name": "web-0001", "namespace": "bare", "uid": "u-2"}}

    bodies = filled(json.dumps(template), other)

    assert writes_in(template) == 6
    assert bodies["operation"]["metadata"] == {"name": operation_name("u-2", 1), "namespace": "bare"}
    assert bodies["operation"]["spec"] == {"uid": "u-2"}
    assert [status["phase"] for status in bodies["operation_statuses"]] == ["Running", "Succeeded"]
    assert [secret["metadata"]["name"] for secret in bodies["secrets"]] == ["web-0001-host-key"]
    assert "sample" not in json.dumps(bodies)


def test_status_patches_hold_what_changed_and_take_away_what_went() -> None:
    states = [{"a": 0}, {"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 2}]

    assert list(differences(states)) == [{"a": 1, "b": 1}, {"b": None, "a": 2}]


def test_requests_are_read_from_our_own_metrics_without_housekeeping() -> None:
    metrics = Metrics()
    before = parse(metrics.render().decode())
    for verb, resource in (
        ("create", "operations"),
        ("patch", "instances"),
        ("patch", "instances"),
        ("patch", "leases"),
    ):
        metrics.api_wrote(verb, resource)
    metrics.api_answered("200", "get")
    metrics.api_answered("200", "patch")

    after = parse(metrics.render().decode()).since(before)

    assert after.writes == {("create", "operations"): 1, ("patch", "instances"): 2}
    assert (after.written, after.reads) == (3, 1)
