"""What the hardware is to be: for the guard through the plan, and for the scheduler through node labels."""

from __future__ import annotations

from dataclasses import dataclass

from detinf.api.types import Spec
from detinf.documents import PlanTopology

LABEL_CHIP = "node.kubernetes.io/npu.chip.name"
LABEL_SERVER_CLASS = "accelerator-type"
LABEL_DRIVER = "huawei.com/driver.version"

LINKS = {"module-910b-8": "HCCS", "module-910b-16": "HCCS"}
"""Server class to the link between each pair of a replica's NPUs (Atlas A2: full mesh; of 16 in each group of 8)."""


@dataclass(frozen=True)
class LabelNames:
    """Labels that say what a node's NPUs are; MindCluster's, where the chart names no others. Empty: there is none."""

    chip: str = LABEL_CHIP
    server_class: str = LABEL_SERVER_CLASS
    driver: str = LABEL_DRIVER


MIND_CLUSTER = LabelNames()


def expected_topology(spec: Spec, *, uses_devices: bool) -> PlanTopology:
    """Return what the guard must find."""
    if not uses_devices:
        return PlanTopology(devices=0)
    wanted, devices = spec.topology, spec.parallelism.tensor
    strict = wanted.drift == "Strict"
    return PlanTopology(
        devices=devices,
        chip=wanted.chip,
        hbm_gi_b=wanted.hbm_gi_b,
        driver_version=wanted.driver_version if strict else None,
        firmware_version=wanted.firmware_version if strict else None,
        drift=None if strict else wanted.drift,
        link=LINKS.get(wanted.server_class or "") if devices > 1 else None,
    )


def node_labels(spec: Spec, names: LabelNames = MIND_CLUSTER) -> dict[str, str]:
    """Return the labels that a node of this topology carries; firmware and HBM have none that can be relied on."""
    wanted = spec.topology
    driver = wanted.driver_version if wanted.drift == "Strict" else None
    labels = {names.chip: wanted.chip, names.server_class: wanted.server_class, names.driver: driver}
    return {label: value for label, value in labels.items() if label and value is not None}
