"""The controller's metrics: under controller-runtime's names, so that existing dashboards fit, and what is ours alone.

A resource's own series are there from the first look at it until it is gone, whatever becomes of its pods: a counter
that is born at its first increment has no increase that Prometheus could see.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from detinf.controller.queue import KeyQueue

CONTROLLER = "deterministicinference"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STATUSES = ("True", "False", "Unknown")
RESOURCE = ["namespace", "name"]


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
        self.adds = Counter("workqueue_adds", "Keys that were added.", ["name"], registry=self.registry)
        self.retries = Counter("workqueue_retries", "Keys that were retried.", ["name"], registry=self.registry)
        self.requests = Counter(
            "rest_client_requests", "Requests to the API server.", ["code", "method"], registry=self.registry
        )
        self.leader = Gauge(
            "leader_election_master_status", "1 while this process leads.", ["name"], registry=self.registry
        )
        self.divergences = self._of_resources("detinf_divergences", "Divergences with evidence on record.")
        self.isolations = self._of_resources("detinf_isolations", "Replicas that were taken out of the Service.")
        self.replacements = self._of_resources("detinf_replica_replacements", "Pods deleted, to be made anew.")
        self.condition = Gauge(
            "detinf_resource_condition",
            "Conditions of a resource: 1 for the status that holds.",
            [*RESOURCE, "type", "status"],
            registry=self.registry,
        )
        self._queued = {"adds": 0, "retries": 0}
        self._seen: set[tuple[str, str]] = set()
        self._types: dict[tuple[str, str], set[str]] = {}
        self.errors.labels(CONTROLLER)
        self.adds.labels(CONTROLLER)
        self.retries.labels(CONTROLLER)
        for result in ("success", "requeue_after", "error"):
            self.total.labels(CONTROLLER, result)

    def _of_resources(self, name: str, words: str) -> Counter:
        return Counter(name, words, RESOURCE, registry=self.registry)

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

    def leads(self, lease: str, leading: bool) -> None:
        """Show whether this process leads."""
        self.leader.labels(lease).set(leading)

    def observe_queue(self, queue: KeyQueue[tuple[str, str]]) -> None:
        """Show the queue; there is one, and what it counts only grows."""
        self.depth.labels(CONTROLLER).set(len(queue))
        for name, counter, count in (("adds", self.adds, queue.adds), ("retries", self.retries, queue.retries)):
            counter.labels(CONTROLLER).inc(count - self._queued[name])
            self._queued[name] = count

    def seen(self, namespace: str, name: str) -> None:
        """Show a resource's counters, at 0 where they were not there yet."""
        self._seen.add((namespace, name))
        for counter in (self.divergences, self.isolations, self.replacements):
            counter.labels(namespace, name)

    def diverged(self, namespace: str, name: str, count: int = 1) -> None:
        """Count divergences whose evidence was put on record."""
        self.divergences.labels(namespace, name).inc(count)

    def isolated(self, namespace: str, name: str, count: int = 1) -> None:
        """Count replicas that were taken out of the Service."""
        self.isolations.labels(namespace, name).inc(count)

    def replaced(self, namespace: str, name: str, count: int = 1) -> None:
        """Count pods that were deleted, to be made anew."""
        self.replacements.labels(namespace, name).inc(count)

    def conditions(self, namespace: str, name: str, conditions: Sequence[Mapping[str, Any]]) -> None:
        """Show a resource's conditions, as its status has them; one that is no longer there is no longer shown."""
        held = {str(item["type"]): str(item["status"]) for item in conditions}
        for gone in self._types.get((namespace, name), set()) - held.keys():
            self.condition.remove_by_labels({"namespace": namespace, "name": name, "type": gone})
        for kind, holds in held.items():
            for status in STATUSES:
                # kube-state-metrics writes the status in lower case.
                self.condition.labels(namespace, name, kind, status.lower()).set(status == holds)
        self._types[namespace, name] = set(held)

    def forget(self, namespace: str, name: str) -> None:
        """Show a resource no longer: it is gone. One that is not known is no error."""
        resource = {"namespace": namespace, "name": name}
        for metric in (self.divergences, self.isolations, self.replacements, self.condition):
            metric.remove_by_labels(resource)
        self._types.pop((namespace, name), None)
        self._seen.discard((namespace, name))

    def forget_others(self, there: Collection[tuple[str, str]]) -> None:
        """Forget the resources that are not among those that are there: a watch may have lost their end."""
        for namespace, name in (self._seen | self._types.keys()) - set(there):
            self.forget(namespace, name)
