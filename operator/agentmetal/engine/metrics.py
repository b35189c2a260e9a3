"""Metrics, under controller-runtime's names where it has one, so that existing dashboards work. Passed around by `app`.

One `Metrics()` has its own registry: nothing is global, and tests make as many as they like. Callers say what happened
and how long it took by the event loop's clock; names and labels stand here only. `kube.health` shows `render()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agentmetal.core.resource import Key

PassResult = Literal["success", "requeue", "requeue_after", "error"]
"""controller-runtime's words. `requeue_after`: it comes again by a timer."""
NotifyResult = Literal["delivered", "retried", "failed", "dropped"]

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: passes and queues. The budgets are p95 in milliseconds."""
_SLOW = (0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds: steps on machines."""
_HUMAN = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, 259200.0, 604800.0)
"""Seconds: people who decide."""

GAUGES: Mapping[str, str] = {
    "agentmetal_host_disk_free_ratio": "Part of / that is free for everybody, 0 to 1.",
    "agentmetal_host_inodes_free_ratio": "Part of the inodes of / that is free, 0 to 1.",
    "agentmetal_host_memory_available_ratio": "Part of the memory that programs could get without swapping, 0 to 1.",
    "agentmetal_host_load_per_cpu": "Load of the last minute per processor.",
    "agentmetal_host_clock_offset_seconds": "How far the host's clock is ahead of the operator's, or behind.",
    "agentmetal_host_up_seconds": "Since the host booted.",
    "agentmetal_host_packages_age_seconds": "Since packages were last changed.",
    "agentmetal_host_kernel_age_seconds": "Since the running kernel was built.",
    "agentmetal_host_reboot_required": "1 when packages ask for a reboot.",
    "agentmetal_host_failed_units": "systemd units that failed; counted up to 8.",
}
"""What agents may say of an object in numbers that move. Each is one series per object, gone with the object."""


class Metrics:
    """Everything that is counted. Labels are few and bounded: kinds, tools, verbs; names of objects only in GAUGES."""

    def __init__(self, queue: str = "agentmetal") -> None:
        self.registry = CollectorRegistry()
        self._queue = queue
        self._define_loop()
        self._define_queue()
        self._define_plans()
        self._define_api()
        self._shown: dict[Key, frozenset[str]] = {}
        self._gauges = {name: self._gauge(name, text, "namespace", "name") for name, text in GAUGES.items()}

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)

    @contextmanager
    def working(self, controller: str) -> Iterator[None]:
        """A worker is in a pass of that kind."""
        workers = self._active_workers.labels(controller)
        workers.inc()
        try:
            yield
        finally:
            workers.dec()

    def reconciled(self, controller: str, result: PassResult, seconds: float) -> None:
        """A pass ended."""
        self._reconcile_total.labels(controller, result).inc()
        self._reconcile_seconds.labels(controller).observe(seconds)
        if result == "error":
            self._reconcile_errors_total.labels(controller).inc()

    def gaps_open(self, count: int) -> None:
        """So many gaps of the audit trail has nobody acknowledged."""
        self._gaps_open.set(count)

    def queue_depth(self, waiting: int) -> None:
        """So many objects wait now."""
        self._queue_depth.labels(self._queue).set(waiting)

    def queue_added(self) -> None:
        """An object wants a pass."""
        self._queue_adds_total.labels(self._queue).inc()

    def queue_retried(self) -> None:
        """An object comes again after a failure."""
        self._queue_retries_total.labels(self._queue).inc()

    def queue_waited(self, seconds: float) -> None:
        """An object found its worker."""
        self._queue_seconds.labels(self._queue).observe(seconds)

    def queue_worked(self, seconds: float) -> None:
        """A worker is done with an object."""
        self._work_seconds.labels(self._queue).observe(seconds)

    def plan_opened(self, controller: str, risk: str, trigger: str) -> None:
        """A plan became an Operation."""
        self._plans_total.labels(controller, risk, trigger).inc()

    def decided(self, controller: str, verdict: str, via: str, waited: float) -> None:
        """A plan was approved or rejected. Only waiting for people is measured: all others answer at once."""
        self._decisions_total.labels(controller, verdict, via).inc()
        if via == "Annotation":
            self._decision_wait_seconds.observe(waited)

    def stepped(self, tool: str, result: str, seconds: float) -> None:
        """A step ended."""
        self._steps_total.labels(tool, result).inc()
        self._step_seconds.labels(tool).observe(seconds)

    def api_wrote(self, verb: str, resource: str) -> None:
        """The API took a write: `patch`, `instances/status`."""
        self._api_writes_total.labels(verb, resource).inc()

    def api_answered(self, code: str, method: str) -> None:
        """The API answered a request: `200`, `GET`. Without an answer: `<error>`, as client-go says."""
        self._api_requests_total.labels(code, method).inc()

    def notified(self, result: NotifyResult) -> None:
        """A notification was taken, will be tried again, was given up, or made room for newer ones."""
        self._notifications_total.labels(result).inc()

    def show(self, key: Key, gauges: Mapping[str, float]) -> None:
        """What was seen of an object in numbers; what is not known any more is not shown any more."""
        for name in self._shown.pop(key, frozenset()) - gauges.keys():
            self._gauges[name].remove(key.namespace, key.name)
        for name, value in gauges.items():
            self._gauges[name].labels(key.namespace, key.name).set(value)
        if gauges:
            self._shown[key] = frozenset(gauges)

    def hide(self, key: Key) -> None:
        """The object is gone."""
        self.show(key, {})

    def leads(self, held: Callable[[], bool]) -> None:
        """Whom to ask whether this process leads, whenever the metrics are read."""
        self._master_status.labels(self._queue).set_function(held)

    def model_called(self) -> None:
        """A language model was asked."""
        self._model_calls_total.inc()

    def _define_loop(self) -> None:
        self._reconcile_total = self._counter(
            "controller_runtime_reconcile_total",
            "Passes, by kind and result.",
            "controller",
            "result",
        )
        self._reconcile_errors_total = self._counter(
            "controller_runtime_reconcile_errors_total", "Passes that failed.", "controller"
        )
        self._reconcile_seconds = self._histogram(
            "controller_runtime_reconcile_time_seconds", "How long a pass takes.", _FAST, "controller"
        )
        self._active_workers = self._gauge(
            "controller_runtime_active_workers", "Workers in a pass right now.", "controller"
        )

    def _define_queue(self) -> None:
        self._queue_depth = self._gauge("workqueue_depth", "Objects that wait for a worker.", "name")
        self._queue_adds_total = self._counter("workqueue_adds_total", "Objects put into the queue.", "name")
        self._queue_seconds = self._histogram(
            "workqueue_queue_duration_seconds", "How long an object waits for a worker.", _FAST, "name"
        )
        self._work_seconds = self._histogram(
            "workqueue_work_duration_seconds", "How long a worker is busy with an object.", _FAST, "name"
        )
        self._queue_retries_total = self._counter(
            "workqueue_retries_total", "Objects put back after a failure.", "name"
        )

    def _define_plans(self) -> None:
        self._plans_total = self._counter(
            "agentmetal_plans_total", "Plans opened as Operations.", "controller", "risk", "trigger"
        )
        self._decisions_total = self._counter(
            "agentmetal_decisions_total", "Decisions about plans.", "controller", "verdict", "via"
        )
        self._decision_wait_seconds = self._histogram(
            "agentmetal_decision_wait_seconds", "How long a plan waited for a human.", _HUMAN
        )
        self._steps_total = self._counter("agentmetal_steps_total", "Steps that ended.", "tool", "result")
        self._step_seconds = self._histogram("agentmetal_step_seconds", "How long a step takes.", _SLOW, "tool")
        self._notifications_total = self._counter(
            "agentmetal_notifications_total", "Notifications, by what became of them.", "result"
        )
        self._model_calls_total = self._counter(
            "agentmetal_model_calls_total", "Calls of language models. Stays 0: everything works without one."
        )

    def _define_api(self) -> None:
        self._gaps_open = self._gauge(
            "agentmetal_audit_gaps_open", "Gaps of the audit trail that nobody has acknowledged: nothing risky begins."
        )
        self._master_status = self._gauge(
            "leader_election_master_status", "1 when this process leads, 0 when it stands by.", "name"
        )
        self._api_writes_total = self._counter(
            "agentmetal_api_writes_total", "Writes to the Kubernetes API.", "verb", "resource"
        )
        self._api_requests_total = self._counter(
            "rest_client_requests_total", "Requests to the Kubernetes API, by HTTP status and method.", "code", "method"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
