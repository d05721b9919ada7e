"""What a pod takes of its node; tests/cluster/test_place.py holds the formula against the real kube-scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from detinf.controller.pod_requests import allocatable, clash, host_ports, requested

NPU = "huawei.com/Ascend910"
Json = dict[str, Any]


def container(name: str = "engine", limits: Json | None = None, **requests: str) -> Json:
    return {"name": name, "resources": {"requests": requests, "limits": limits or {}}}


def sidecar(**requests: str) -> Json:
    return container("probe", **requests) | {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [container("a", cpu="1"), container("b", cpu="500m")]}, 1500),
        ({"containers": [container(cpu="1")], "initContainers": [container("i", cpu="3")]}, 3000),
        ({"containers": [container(cpu="4")], "initContainers": [container("i", cpu="3")]}, 4000),
        ({"containers": [container(cpu="1")], "initContainers": [sidecar(cpu="1")]}, 2000),
        ({"containers": [container(cpu="1")], "initContainers": [sidecar(cpu="1"), container("i", cpu="3")]}, 4000),
        ({"containers": [container(cpu="1")], "initContainers": [container("i", cpu="3"), sidecar(cpu="1")]}, 3000),
        ({"containers": [container(cpu="1")], "initContainers": [sidecar(cpu="1"), sidecar(cpu="2")]}, 4000),
        ({"containers": [container(cpu="1")], "overhead": {"cpu": "250m"}}, 1250),
        ({"containers": [container(cpu="1")], "resources": {"requests": {"cpu": "3"}}}, 3000),
        ({"containers": [container(cpu="1")], "resources": {"limits": {"cpu": "3"}}}, 1000),
        ({"containers": [container(limits={"cpu": "2"})]}, 2000),
        ({"containers": [container(limits={"cpu": "2"}, cpu="1")]}, 1000),
        ({"containers": [container("a", cpu="0.1m"), container("b", cpu="0.1m")]}, 1),
        ({"containers": [{"name": "bare"}]}, 0),
    ],
)
def test_request_is_the_most_that_runs_together(spec: Json, cpu: int) -> None:
    assert requested({"spec": spec}).get("cpu", 0) == cpu


def test_amounts_are_whole_units_and_thousandths_of_processors() -> None:
    pod = {"spec": {"containers": [container(memory="1500m", cpu="1.5", **{NPU: "8"})]}}
    assert requested(pod) == {"memory": 2, "cpu": 1500, NPU: 8}
    assert allocatable({"status": {"allocatable": {"cpu": "1.5", "pods": "20", "memory": "1e3"}}}) == {
        "cpu": 1500,
        "pods": 20,
        "memory": 1000,
    }
    assert allocatable({}) == {}


@pytest.mark.parametrize(
    ("asked", "actual", "allocated", "infeasible", "held"),
    [
        ("1", "4", "4", False, 4000),
        ("8", "1", "1", False, 8000),
        ("8", "1", "1", True, 1000),
        ("8", "1", "2", True, 2000),
        ("1", "2", "4", False, 4000),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_container_that_is_resized_holds_what_it_had_and_what_it_gets(
    kind: str, asked: str, actual: str, allocated: str, infeasible: bool, held: int
) -> None:
    one = container(cpu=asked) | ({"restartPolicy": "Always"} if kind == "initContainers" else {})
    told = {"name": "engine", "resources": {"requests": {"cpu": actual}}, "allocatedResources": {"cpu": allocated}}
    conditions = [{"type": "PodResizePending", "reason": "Infeasible" if infeasible else "Deferred"}]
    listed = "containerStatuses" if kind == "containers" else "initContainerStatuses"
    assert requested({"spec": {kind: [one]}, "status": {listed: [told], "conditions": conditions}}) == {"cpu": held}


def test_pod_that_is_resized_as_a_whole_holds_what_it_had() -> None:
    spec = {"containers": [container(cpu="1")], "resources": {"requests": {"cpu": "2"}}}
    status = {"resources": {"requests": {"cpu": "4"}}, "allocatedResources": {"cpu": "3"}}
    assert requested({"spec": spec, "status": status}) == {"cpu": 4000}
    refused = status | {"conditions": [{"type": "PodResizePending", "reason": "Infeasible"}]}
    both = spec | {"resources": {"requests": {"cpu": "8", "memory": "1Gi"}}}
    assert requested({"spec": both, "status": refused}) == {"cpu": 4000, "memory": 0}
    # A kubelet may tell of it where nothing was asked for the whole.
    assert requested({"spec": {"containers": [container(cpu="1")]}, "status": status}) == {"cpu": 1000}


def test_port_of_the_node_is_held_by_what_runs_all_the_time() -> None:
    ports = [{"hostPort": 80}, {"containerPort": 1}, {"hostPort": 81, "protocol": "UDP", "hostIP": "10.0.0.1"}]
    spec = {
        "containers": [{"name": "a", "ports": ports}],
        "initContainers": [
            {"name": "b", "ports": [{"hostPort": 82}], "restartPolicy": "Always"},
            {"name": "c", "ports": [{"hostPort": 83}]},
        ],
    }
    assert host_ports({"spec": spec}) == {("0.0.0.0", "TCP", 80), ("10.0.0.1", "UDP", 81), ("0.0.0.0", "TCP", 82)}


@pytest.mark.parametrize(
    ("wanted", "taken", "clashes"),
    [
        (("0.0.0.0", "TCP", 80), ("0.0.0.0", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("0.0.0.0", "TCP", 80), True),
        (("0.0.0.0", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("10.0.0.2", "TCP", 80), False),
        (("0.0.0.0", "TCP", 80), ("0.0.0.0", "UDP", 80), False),
        (("0.0.0.0", "TCP", 80), ("0.0.0.0", "TCP", 81), False),
    ],
)
def test_port_clashes_on_its_address_and_on_all(
    wanted: tuple[str, str, int], taken: tuple[str, str, int], clashes: bool
) -> None:
    assert clash({wanted}, {taken}) is clashes
    assert clash({wanted, ("0.0.0.0", "TCP", 1)}, {taken, ("0.0.0.0", "TCP", 2)}) is clashes
