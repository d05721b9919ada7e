"""The controller's metrics, under controller-runtime's names, so that existing dashboards fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from detinf.controller.queue import KeyQueue

CONTROLLER = "deterministicinference"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Exported:
    """What ``/metrics`` shows."""

    def __init__(self) -> None:
        """Register everything."""
        self.registry = CollectorRegistry()
        self.total = Counter(
            "controller_runtime_reconcile", "Reconciliations.", ["controller", "result"], registry=self.registry
        )
        self.errors = Counter(
            "controller_runtime_reconcile_errors", "Failed reconciliations.", ["controller"], registry=self.registry
        )
        self.seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time of a reconciliation.",
            ["controller"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.depth = Gauge("workqueue_depth", "Keys that wait.", ["name"], registry=self.registry)
        self.adds = Gauge("workqueue_adds_total", "Keys that were added.", ["name"], registry=self.registry)
        self.retries = Gauge("workqueue_retries_total", "Keys that were retried.", ["name"], registry=self.registry)
        self.requests = Counter(
            "rest_client_requests", "Requests to the API server.", ["code", "method"], registry=self.registry
        )
        self.errors.labels(CONTROLLER)
        for result in ("success", "requeue_after", "error"):
            self.total.labels(CONTROLLER, result)

    def reconciled(self, result: str, seconds: float) -> None:
        """Count a reconciliation."""
        self.total.labels(CONTROLLER, result).inc()
        self.seconds.labels(CONTROLLER).observe(seconds)
        if result == "error":
            self.errors.labels(CONTROLLER).inc()

    def failed(self) -> None:
        """Count a reconciliation of which something was refused, and the rest was done."""
        self.errors.labels(CONTROLLER).inc()

    def requested(self, code: str, method: str) -> None:
        """Count a request to the API server."""
        self.requests.labels(code, method).inc()

    def observe_queue(self, queue: KeyQueue[tuple[str, str]]) -> None:
        """Show the queue."""
        self.depth.labels(CONTROLLER).set(len(queue))
        self.adds.labels(CONTROLLER).set(queue.adds)
        self.retries.labels(CONTROLLER).set(queue.retries)
