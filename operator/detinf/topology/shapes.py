"""Shapes of a replica that no node can have, or that would add in another order; refused with the arithmetic."""

from __future__ import annotations

from detinf.api.reading import Problem
from detinf.api.types import Spec
from detinf.topology.expected import MIND_CLUSTER, LabelNames, node_labels

MESH = 8
"""NPUs of an Atlas A2 server that are joined by HCCS, each with each."""
BOX16 = "module-910b-16"


def problems(spec: Spec, names: LabelNames = MIND_CLUSTER) -> list[Problem]:
    """Return what is impossible about a replica on NPUs."""
    found = []
    tensor = spec.parallelism.tensor
    if tensor > MESH:
        if spec.topology.server_class == BOX16:
            words = f"16 NPUs are 2 groups of {MESH}, joined by PCIe: {tensor} ranks would span both, in another order"
        else:
            words = f"an Atlas A2 server joins {MESH} NPUs by HCCS, and {tensor} are {tensor - MESH} more"
        remedy = f"{words}; use {MESH} or fewer"
        found.append(Problem("spec.parallelism.tensor", str(tensor), remedy))
    asked = spec.scheduling.node_selector
    for label, value in node_labels(spec, names).items():
        if asked.get(label, value) != value:
            remedy = (
                f"spec.topology makes it {value}, and a node has one of the two; remove it, or change spec.topology"
            )
            found.append(Problem(f"spec.scheduling.nodeSelector[{label}]", repr(asked[label]), remedy))
    return found
