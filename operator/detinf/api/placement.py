"""Where a replica runs and on what: parallelism, topology, scheduling."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from detinf.api.rules import LABEL_KEY, LABEL_VALUE, ApiModel, ShortText, rule, ruled, spelled


class Parallelism(ApiModel):
    """How a replica is spread over devices."""

    tensor: Annotated[int, Field(ge=1, le=16)] = 1
    """Tensor parallel size (`--tensor-parallel-size`), which is the number of NPUs of a replica's node."""


class Topology(ApiModel):
    """What the hardware must be; an absent item is pinned by the first baseline."""

    chip: (
        Annotated[
            str,
            Field(
                max_length=32,
                json_schema_extra=spelled(
                    "^[0-9A-Za-z]([-0-9A-Za-z]*[0-9A-Za-z])?$",
                    "chip must be a chip's name as npu-smi prints it, such as 910B3",
                ),
            ),
        ]
        | None
    ) = None
    """Chip name, such as `910B3`: node label `node.kubernetes.io/npu.chip.name`, read back with `npu-smi`."""
    hbm_gi_b: Annotated[int, Field(ge=1, le=1024)] | None = Field(default=None, alias="hbmGiB")
    """Memory of one NPU in GiB."""
    server_class: (
        Annotated[
            str,
            Field(
                max_length=63,
                json_schema_extra=ruled(
                    rule(
                        "self.matches('^[0-9A-Za-z]([-0-9A-Za-z]*[0-9A-Za-z])?$')",
                        "serverClass must be the value of the node label accelerator-type, such as module-910b-8",
                    ),
                    rule(
                        "self != 'card-910b-infer'",
                        "serverClass card-910b-infer (Atlas 300I A2) has no strict deterministic collectives: use a "
                        "class such as module-910b-8",
                    ),
                ),
            ),
        ]
        | None
    ) = None
    """Node label `accelerator-type`, such as `module-910b-8`."""
    driver_version: (
        Annotated[
            str,
            Field(
                max_length=63,
                json_schema_extra=spelled(
                    "^[0-9A-Za-z]([0-9A-Za-z.]*[0-9A-Za-z])?$", "driverVersion must be a version, such as 25.5.1"
                ),
            ),
        ]
        | None
    ) = None
    """NPU driver, such as `25.5.1`: node label `huawei.com/driver.version`, read back on the node."""
    firmware_version: (
        Annotated[
            str,
            Field(
                max_length=63,
                json_schema_extra=spelled(
                    "^[0-9A-Za-z]([0-9A-Za-z.]*[0-9A-Za-z])?$",
                    "firmwareVersion must be a version, such as 7.8.0.6.201",
                ),
            ),
        ]
        | None
    ) = None
    """NPU firmware, such as `7.8.0.6.201`; no label carries it, so it is read on the node alone."""
    drift: Literal["Strict", "Warn"] = "Strict"
    """`Strict`: another driver, firmware or image behind a tag is another engine. `Warn`: they are only reported, and
    nodes may differ."""


class Toleration(ApiModel):
    """A toleration, as in a pod."""

    RULES = (
        rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "value must be absent where operator is Exists: remove the value, or use operator Equal",
        ),
        rule(
            "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
            "key must be set unless operator is Exists: name the taint's key, or use operator Exists for every taint",
        ),
        rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds needs effect NoExecute: set the effect, or remove tolerationSeconds",
        ),
    )

    key: (
        Annotated[
            str,
            Field(
                max_length=317,
                json_schema_extra=spelled(f"^({LABEL_KEY})?$", "key must be a taint's key, such as example.org/npu"),
            ),
        ]
        | None
    ) = None
    """Key of the taint; absent for every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """`Equal` (the default) compares the value, `Exists` does not."""
    value: (
        Annotated[
            str,
            Field(
                max_length=63,
                json_schema_extra=spelled(f"^{LABEL_VALUE}$", "value must be a taint's value, such as huawei-npu"),
            ),
        ]
        | None
    ) = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; absent for every effect."""
    toleration_seconds: int | None = None
    """How long a pod stays on a node with a `NoExecute` taint, in seconds."""


class Scheduling(ApiModel):
    """Where the pods may run."""

    resource_name: Annotated[
        str,
        Field(
            min_length=3,
            max_length=253,
            json_schema_extra=ruled(
                rule(
                    "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
                    "resourceName must be an extended resource with a domain, such as huawei.com/Ascend910",
                ),
                rule(
                    # HAMi's Ascend910B4-1 is a whole device; every other name with a hyphen is a part of one.
                    "!self.matches('/(Ascend[0-9]+[A-Z]*[0-9]*-.*|npu-.*|.*-core|.*-memory)$') || "
                    "self.endsWith('/Ascend910B4-1')",
                    "resourceName must be whole NPUs, such as huawei.com/Ascend910: collective communication does not "
                    "work on slices (vNPU templates, npu-core, -memory, -core)",
                ),
            ),
        ),
    ] = "huawei.com/Ascend910"
    """Extended resource of a whole NPU."""
    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]],
        Field(
            max_length=32,
            json_schema_extra=ruled(
                rule(
                    f"self.all(key, key.size() <= 317 && key.matches('^{LABEL_KEY}$') && "
                    f"self[key].matches('^{LABEL_VALUE}$'))",
                    "nodeSelector must be label values by label key, such as kubernetes.io/arch: arm64",
                )
            ),
        ),
    ] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Tolerations of the pods, as in a pod spec."""
    scheduler_name: ShortText | None = None
    """Scheduler of the pods."""
    runtime_class_name: ShortText | None = None
    """RuntimeClass of the pods, such as `ascend`."""
    priority_class_name: ShortText | None = None
    """PriorityClass of the pods."""
