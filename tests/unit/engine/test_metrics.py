"""The names that dashboards know, and nothing global."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentmetal.core.resource import Key
from agentmetal.engine.metrics import Metrics


def samples(metrics: Metrics) -> dict[str, set[tuple[str, ...]]]:
    """Every sample's name with its labels."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).add(tuple(name for name in sample.labels if name != "le"))
    return found


@pytest.fixture
def used() -> Metrics:
    metrics = Metrics()
    with metrics.working("Instance"):
        metrics.reconciled("Instance", "success", 0.01)
    metrics.reconciled("Instance", "error", 0.01)
    metrics.queue_depth(3)
    metrics.queue_added()
    metrics.queue_retried()
    metrics.queue_waited(0.1)
    metrics.queue_worked(0.1)
    metrics.plan_opened("Instance", "Dangerous", "Deletion")
    metrics.decided("Instance", "Approved", "Annotation", 60.0)
    metrics.stepped("provision_server", "Result", 3.0)
    metrics.notified("delivered")
    metrics.api_wrote("patch", "instances/status")
    metrics.api_answered("200", "GET")
    return metrics


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("controller_runtime_reconcile_total", ("controller", "result")),
        ("controller_runtime_reconcile_errors_total", ("controller",)),
        ("controller_runtime_reconcile_time_seconds_bucket", ("controller",)),
        ("controller_runtime_active_workers", ("controller",)),
        ("workqueue_depth", ("name",)),
        ("workqueue_adds_total", ("name",)),
        ("workqueue_queue_duration_seconds_bucket", ("name",)),
        ("workqueue_work_duration_seconds_bucket", ("name",)),
        ("workqueue_retries_total", ("name",)),
        ("agentmetal_plans_total", ("controller", "risk", "trigger")),
        ("agentmetal_decisions_total", ("controller", "verdict", "via")),
        ("agentmetal_decision_wait_seconds_bucket", ()),
        ("agentmetal_steps_total", ("tool", "result")),
        ("agentmetal_step_seconds_bucket", ("tool",)),
        ("agentmetal_notifications_total", ("result",)),
        ("agentmetal_api_writes_total", ("verb", "resource")),
        ("agentmetal_model_calls_total", ()),
        ("rest_client_requests_total", ("code", "method")),
    ],
)
def test_names_and_labels_are_those_that_dashboards_know(used: Metrics, name: str, labels: tuple[str, ...]) -> None:
    assert {tuple(sorted(found)) for found in samples(used)[name]} == {tuple(sorted(labels))}


def test_model_calls_are_shown_as_zero_from_the_start() -> None:
    assert Metrics().registry.get_sample_value("agentmetal_model_calls_total") == 0


def test_two_instances_share_nothing(used: Metrics) -> None:
    assert used.registry.get_sample_value("workqueue_adds_total", {"name": "agentmetal"}) == 1
    assert Metrics().registry.get_sample_value("workqueue_adds_total", {"name": "agentmetal"}) is None


def test_a_worker_that_fails_is_no_longer_active() -> None:
    metrics = Metrics()
    with pytest.raises(ZeroDivisionError), metrics.working("Instance"):
        assert metrics.registry.get_sample_value("controller_runtime_active_workers", {"controller": "Instance"}) == 1
        raise ZeroDivisionError
    assert metrics.registry.get_sample_value("controller_runtime_active_workers", {"controller": "Instance"}) == 0


def test_errors_are_counted_beside_all_passes(used: Metrics) -> None:
    labels = {"controller": "Instance"}
    assert used.registry.get_sample_value("controller_runtime_reconcile_errors_total", labels) == 1
    assert used.registry.get_sample_value("controller_runtime_reconcile_time_seconds_count", labels) == 2


def test_only_waiting_for_people_is_measured() -> None:
    metrics = Metrics()
    metrics.decided("Instance", "Approved", "Risk", 0.0)
    metrics.decided("Instance", "Rejected", "Annotation", 90.0)
    assert metrics.registry.get_sample_value("agentmetal_decision_wait_seconds_count") == 1


def test_numbers_of_an_object_go_when_they_are_not_known_any_more_and_with_the_object() -> None:
    metrics, web = Metrics(), Key("Instance", "shop", "web")
    disk, load = "agentmetal_host_disk_free_ratio", "agentmetal_host_load_per_cpu"
    labels = {"namespace": "shop", "name": "web"}
    metrics.show(web, {disk: 0.5, load: 2.0})
    metrics.show(web, {disk: 0.4})
    assert metrics.registry.get_sample_value(disk, labels) == 0.4
    assert metrics.registry.get_sample_value(load, labels) is None
    metrics.hide(web)
    metrics.hide(web)
    assert b"shop" not in metrics.render()


def test_every_metric_stands_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    families = {family.name: family.type for family in Metrics().registry.collect()}
    names = {f"{name}_total" if type == "counter" else name for name, type in families.items()}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == [], "say in docs/metrics.md what it is"
