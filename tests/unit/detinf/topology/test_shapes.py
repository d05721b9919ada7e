"""Shapes that no node has are refused with the arithmetic, and labels are whatever the chart calls them."""

from typing import Any

import pytest

from detinf.api.types import Spec
from detinf.topology.expected import LabelNames, node_labels
from detinf.topology.shapes import problems

SOURCE = {"persistentVolumeClaim": {"claimName": "models"}}


def spec_of(**parts: Any) -> Spec:
    return Spec.model_validate({"model": {"source": SOURCE}} | parts)


@pytest.mark.parametrize("tensor", [1, 2, 3, 8])
@pytest.mark.parametrize("server_class", ["module-910b-8", "module-910b-16"])
def test_a_replica_inside_one_mesh_is_possible(tensor: int, server_class: str) -> None:
    assert problems(spec_of(parallelism={"tensor": tensor}, topology={"serverClass": server_class})) == []


NODE_LABEL = "node.kubernetes.io/npu.chip.name"
IMPOSSIBLE: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"parallelism": {"tensor": 12}, "topology": {"serverClass": "module-910b-16"}},
        ["spec.parallelism.tensor is 12: 16 NPUs are 2 groups of 8", "12 ranks would span both", "use 8 or fewer"],
    ),
    ({"parallelism": {"tensor": 10}}, ["joins 8 NPUs by HCCS, and 10 are 2 more; use 8 or fewer"]),
    (
        {"topology": {"chip": "910B3"}, "scheduling": {"nodeSelector": {NODE_LABEL: "910B4"}}},
        [f"nodeSelector[{NODE_LABEL}] is '910B4': spec.topology makes it 910B3", "remove it, or change spec.topology"],
    ),
]


@pytest.mark.parametrize(("parts", "words"), IMPOSSIBLE)
def test_an_impossible_shape_is_refused_with_the_arithmetic(parts: dict[str, Any], words: list[str]) -> None:
    (problem,) = problems(spec_of(**parts))
    assert [word for word in words if word not in str(problem)] == []


def test_labels_are_called_as_the_chart_says_and_an_empty_name_is_none() -> None:
    spec = spec_of(topology={"chip": "910B3", "serverClass": "module-910b-8", "driverVersion": "25.5.1"})
    names = LabelNames(chip="example.org/chip", server_class="", driver="example.org/driver")
    assert node_labels(spec, names) == {"example.org/chip": "910B3", "example.org/driver": "25.5.1"}
    conflict = spec_of(topology={"chip": "910B3"}, scheduling={"nodeSelector": {"example.org/chip": "910B4"}})
    assert len(problems(conflict, names)) == 1
    assert problems(conflict) == []
