"""What the hardware is to be: for the guard through the plan, and for the scheduler through node labels."""

from __future__ import annotations

from detinf.api.types import Spec
from detinf.documents import PlanTopology

LABEL_CHIP = "node.kubernetes.io/npu.chip.name"
LABEL_SERVER_CLASS = "accelerator-type"
LABEL_DRIVER = "huawei.com/driver.version"

LINKS = {"module-910b-8": "HCCS"}
"""Server class to the link between each pair of its NPUs, where all pairs have the same (Atlas A2: full mesh)."""


def expected_topology(spec: Spec, *, uses_devices: bool) -> PlanTopology:
    """Return what the guard must find."""
    if not uses_devices:
        return PlanTopology(devices=0)
    wanted, devices = spec.topology, spec.parallelism.tensor
    return PlanTopology(
        devices=devices,
        chip=wanted.chip,
        hbm_gi_b=wanted.hbm_gi_b,
        driver_version=wanted.driver_version,
        firmware_version=wanted.firmware_version,
        link=LINKS.get(wanted.server_class or "") if devices > 1 else None,
    )


def node_labels(spec: Spec) -> dict[str, str]:
    """Return the labels that a node of this topology carries; firmware and HBM have none that can be relied on."""
    wanted = spec.topology
    labels = {LABEL_CHIP: wanted.chip, LABEL_SERVER_CLASS: wanted.server_class, LABEL_DRIVER: wanted.driver_version}
    return {label: value for label, value in labels.items() if value is not None}
