"""What is asked of the hardware reaches the guard through the plan, and the scheduler through labels."""

from typing import Any

import pytest

from detinf.api.types import Spec
from detinf.documents import PlanTopology
from detinf.topology.expected import expected_topology, node_labels

WHOLE = {
    "chip": "910B3",
    "hbmGiB": 64,
    "serverClass": "module-910b-8",
    "driverVersion": "25.5.1",
    "firmwareVersion": "7.8.0.6.201",
}


def make_spec(tensor: int, topology: dict[str, Any]) -> Spec:
    source = {"persistentVolumeClaim": {"claimName": "models"}}
    return Spec.model_validate({"model": {"source": source}, "parallelism": {"tensor": tensor}, "topology": topology})


def test_a_whole_topology_is_expected_whole() -> None:
    assert expected_topology(make_spec(8, WHOLE), uses_devices=True) == PlanTopology(
        devices=8, chip="910B3", hbm_gi_b=64, driver_version="25.5.1", firmware_version="7.8.0.6.201", link="HCCS"
    )


def test_an_absent_topology_expects_the_devices_alone() -> None:
    assert expected_topology(make_spec(2, {}), uses_devices=True) == PlanTopology(devices=2)


@pytest.mark.parametrize(
    ("tensor", "server_class", "link"),
    [(1, "module-910b-8", None), (2, "module-910b-8", "HCCS"), (2, "module-910b-16", "HCCS"), (2, "half", None)],
)
def test_a_link_is_expected_where_all_pairs_of_the_class_have_the_same(
    tensor: int, server_class: str, link: str | None
) -> None:
    # One device has no pair; a server of 16 joins its two halves by another link than its pairs inside each.
    spec = make_spec(tensor, {"serverClass": server_class})
    assert expected_topology(spec, uses_devices=True).link == link


def test_an_engine_without_devices_expects_none() -> None:
    assert expected_topology(make_spec(1, {}), uses_devices=False) == PlanTopology(devices=0)


def test_labels_hold_what_nodes_are_labelled_with() -> None:
    assert node_labels(make_spec(8, WHOLE)) == {
        "node.kubernetes.io/npu.chip.name": "910B3",
        "accelerator-type": "module-910b-8",
        "huawei.com/driver.version": "25.5.1",
    }
    assert node_labels(make_spec(8, {"hbmGiB": 64, "firmwareVersion": "7.8.0.6.201"})) == {}
