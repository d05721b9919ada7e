"""What ``/metrics`` of the controller shows: kinds that Prometheus can reckon with, and a resource while it is there.

``rate()`` of a Gauge that happens to grow takes every restart for a fall; that of a counter that is born at 1 sees
nothing.
"""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from detinf.controller.exported import CONTROLLER, Exported
from detinf.controller.queue import KeyQueue

A, B = ("ns", "a"), ("ns", "b")
LABELS = ("namespace", "name", "type", "status")


def page(exported: Exported) -> str:
    return generate_latest(exported.registry).decode()


def shown(exported: Exported, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a series by its label values."""
    return {
        tuple(sample.labels[label] for label in LABELS if label in sample.labels): sample.value
        for family in text_string_to_metric_families(page(exported))
        for sample in family.samples
        if sample.name == name
    }


def test_every_series_that_ends_with_total_is_a_counter_and_no_other_is() -> None:
    exported = Exported()
    exported.observe_queue(KeyQueue(lambda: 0.0))
    families = list(text_string_to_metric_families(page(exported)))
    kinds = {sample.name: family.type for family in families for sample in family.samples}
    assert {name for name, kind in kinds.items() if kind == "counter" and not name.endswith("_created")} == {
        name for name in kinds if name.endswith("_total")
    }
    assert {"workqueue_adds_total", "workqueue_retries_total"} <= kinds.keys()


def test_queue_that_is_observed_again_and_again_is_counted_once() -> None:
    exported, queue = Exported(), KeyQueue[tuple[str, str]](lambda: 0.0, jitter=lambda: 0.0)
    assert shown(exported, "workqueue_adds_total") == {(CONTROLLER,): 0}  # before anything was looked at
    queue.add(A)
    queue.add(B)
    for _ in range(3):
        exported.observe_queue(queue)
    assert shown(exported, "workqueue_adds_total") == {(CONTROLLER,): 2}
    assert shown(exported, "workqueue_retries_total") == {(CONTROLLER,): 0}
    assert shown(exported, "workqueue_depth") == {(CONTROLLER,): 2}
    key = queue.take()
    assert key is not None
    queue.failed(key)
    exported.observe_queue(queue)
    assert shown(exported, "workqueue_retries_total") == {(CONTROLLER,): 1}


def test_counters_of_a_resource_are_there_before_anything_happens_to_it() -> None:
    exported = Exported()
    exported.seen(*A)
    exported.diverged(*A)
    exported.isolated(*A)
    exported.replaced(*A, 2)
    exported.seen(*A)  # every pass says so
    exported.seen(*B)
    assert shown(exported, "detinf_divergences_total") == {A: 1, B: 0}
    assert shown(exported, "detinf_isolations_total") == {A: 1, B: 0}
    assert shown(exported, "detinf_replica_replacements_total") == {A: 2, B: 0}


def test_one_status_of_each_condition_holds() -> None:
    exported = Exported()
    exported.conditions(*A, [{"type": "Ready", "status": "Unknown"}])
    exported.conditions(*A, [{"type": "Ready", "status": "False", "reason": "Why", "message": "words"}])
    exported.conditions(*B, [{"type": "Ready", "status": "True"}])
    assert shown(exported, "detinf_resource_condition") == {
        (*A, "Ready", "true"): 0,
        (*A, "Ready", "false"): 1,
        (*A, "Ready", "unknown"): 0,
        (*B, "Ready", "true"): 1,
        (*B, "Ready", "false"): 0,
        (*B, "Ready", "unknown"): 0,
    }


def test_condition_that_left_the_status_is_no_longer_shown() -> None:
    exported = Exported()
    exported.conditions(*A, [{"type": "Ready", "status": "False"}, {"type": "Stalled", "status": "True"}])
    exported.conditions(*B, [{"type": "Stalled", "status": "True"}])
    exported.conditions(*A, [{"type": "Ready", "status": "True"}])
    assert {(name, kind) for _, name, kind, _ in shown(exported, "detinf_resource_condition")} == {
        ("a", "Ready"),
        ("b", "Stalled"),
    }


def test_resource_that_is_gone_leaves_no_series_and_its_neighbour_stays() -> None:
    exported = Exported()
    for resource in (A, B):
        exported.seen(*resource)
        exported.diverged(*resource)
        exported.conditions(*resource, [{"type": "Ready", "status": "True"}])
    exported.forget(*A)
    exported.forget("ns", "never seen")
    assert 'name="a"' not in page(exported)
    assert shown(exported, "detinf_divergences_total") == {B: 1}
    assert shown(exported, "detinf_resource_condition")[*B, "Ready", "true"] == 1
    # One of that name that comes later begins anew.
    exported.seen(*A)
    assert shown(exported, "detinf_divergences_total") == {A: 0, B: 1}


def test_resource_whose_end_nobody_told_goes_with_the_next_list() -> None:
    exported = Exported()
    for resource in (A, B):
        exported.seen(*resource)
    exported.conditions("ns", "c", [{"type": "Ready", "status": "True"}])
    exported.forget_others([B, ("ns", "new")])
    assert shown(exported, "detinf_divergences_total") == {B: 0}
    assert shown(exported, "detinf_resource_condition") == {}
