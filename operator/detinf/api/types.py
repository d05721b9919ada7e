"""``DeterministicInference`` v1alpha1: the fields that work, in vLLM's and Kubernetes' own terms.

The CRD under ``crds/`` is generated from these models (``make generate``). A default written here becomes a schema
default; one that depends on the chart (profile, image) stays absent here and is filled in by the controller. What a
field or a part must be beyond its type is a CEL rule beside it, whose message names the field and the remedy.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from detinf.api.names import MAX_NAME_LENGTH
from detinf.api.rules import (
    LABEL_KEY,
    LABEL_VALUE,
    NO_CLIMBING,
    ApiModel,
    Quantity,
    Rule,
    ShortText,
    rule,
    ruled,
    spelled,
)
from detinf.api.status import Status


class Promise(StrEnum):
    """What users are promised to be equal."""

    TOKENS = "Tokens"
    TOKENS_AND_LOGPROBS = "TokensAndLogprobs"


class QuarantinePolicy(StrEnum):
    """What happens to a replica that diverged while a peer passes."""

    ISOLATE = "Isolate"
    REPORT = "Report"


class PersistentVolumeClaimSource(ApiModel):
    """A model folder in a PersistentVolumeClaim of the same namespace, mounted read-only."""

    claim_name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            json_schema_extra=spelled(
                "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
                "claimName must be the name of a PersistentVolumeClaim of this namespace: lower-case letters, "
                "digits, '-' and '.'",
            ),
        ),
    ]
    """Name of the claim."""
    path: Annotated[
        str,
        Field(
            max_length=1024,
            json_schema_extra=ruled(
                rule(
                    f"!self.startsWith('/') && !self.contains(':') && {NO_CLIMBING}",
                    "path must be relative to the claim's root, such as Qwen3-8B, without '.', '..', '//' or ':'",
                )
            ),
        ),
    ] = ""
    """Folder of the model inside the claim; empty for the claim's root."""


class HostPathSource(ApiModel):
    """A model folder on the node, under a prefix that the chart's owner allows."""

    path: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            json_schema_extra=ruled(
                rule(
                    f"self.startsWith('/') && self != '/' && !self.contains(':') && {NO_CLIMBING}",
                    "path must be the absolute path of the model's folder on the node, such as "
                    "/data/models/Qwen3-8B, without '.', '..', '//' or ':'",
                )
            ),
        ),
    ]
    """Absolute path of the model's folder on the node."""


class ModelSource(ApiModel):
    """Where the model's files are; exactly one member is set."""

    RULES = (
        rule(
            "(has(self.persistentVolumeClaim) ? 1 : 0) + (has(self.hostPath) ? 1 : 0) == 1",
            "source must have exactly one of persistentVolumeClaim and hostPath: set one, remove the other",
        ),
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A claim that holds the model."""
    host_path: HostPathSource | None = None
    """A folder of the node, under a prefix listed in the chart's `models.hostPathPrefixes`."""


class Model(ApiModel):
    """What is served."""

    name: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=128,
                json_schema_extra=spelled(
                    "^[0-9A-Za-z][0-9A-Za-z._/:-]*$",
                    "name must be the model's name in the API, such as qwen3-8b or Qwen/Qwen3-8B: letters, digits, "
                    "'.', '_', '/', ':' and '-', a letter or a digit first",
                ),
            ),
        ]
        | None
    ) = None
    """Name in the API (`--served-model-name`); metadata.name when absent."""
    source: ModelSource
    """Where the model's files are."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Data type of the weights and activations (`--dtype`); never `auto`, which follows the model's repository."""
    max_model_len: Annotated[int, Field(ge=64, le=1_048_576)] = 8192
    """Longest prompt and answer together, in tokens (`--max-model-len`)."""


def _quantities(field: str) -> Rule:
    """Return the rule that a map holds resource names and quantities."""
    value = f"string(self.{field}[name])"
    return rule(
        f"!has(self.{field}) || self.{field}.all(name, name.size() <= 317 && name.matches('^{LABEL_KEY}$') && "
        f"isQuantity({value}) && !{value}.startsWith('-'))",
        f"{field} must be quantities by resource name, such as memory: 16Gi or cpu: 500m",
        at=f".{field}",
    )


class ResourceAmounts(ApiModel):
    """Amounts by resource name, as in a container's `resources`."""

    RULES = (
        _quantities("requests"),
        _quantities("limits"),
        rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
            "!isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) || "
            "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            "requests must not exceed limits: lower the request or raise the limit of the same name",
            at=".requests",
        ),
    )

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the scheduler sets aside; the profile's requests when empty."""
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the container may use at most."""


class Engine(ApiModel):
    """How the engine runs."""

    profile: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Engine profile, such as `simulated`; the chart's `engine.defaultProfile` when absent."""
    image: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=512,
                json_schema_extra=spelled(
                    "^[^[:space:]]+$",
                    "image must be an image reference without white space, such as registry.example/vllm:v0.23.0",
                ),
            ),
        ]
        | None
    ) = None
    """Image of the engine; the chart's `engine.images` or the profile's when absent."""
    max_num_seqs: Annotated[int, Field(ge=1, le=1024)] = 32
    """Requests in one step at most (`--max-num-seqs`)."""
    resources: ResourceAmounts = ResourceAmounts()
    """Requests and limits of the engine container, beside the NPUs."""
    startup_timeout_seconds: Annotated[int, Field(ge=30, le=86_400)] = 3600
    """How long the engine may load before the kubelet restarts it, in seconds."""


class Parallelism(ApiModel):
    """How a replica is spread over devices."""

    tensor: Annotated[int, Field(ge=1, le=16)] = 1
    """Tensor parallel size (`--tensor-parallel-size`), which is the number of NPUs of a replica's node."""


class Topology(ApiModel):
    """What the hardware must be; an absent item is recorded and not required."""

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


class Quarantine(ApiModel):
    """What happens to a replica that diverged."""

    policy: QuarantinePolicy = QuarantinePolicy.ISOLATE
    """`Isolate` takes a replica out of the Service while a peer passes the same cell; `Report` only says so."""


class Spec(ApiModel):
    """What is asked for."""

    RULES = (
        rule(
            "!(self.scheduling.resourceName in self.engine.resources.requests) && "
            "!(self.scheduling.resourceName in self.engine.resources.limits)",
            "engine.resources must not name the NPU resource: spec.parallelism.tensor says how many there are",
            at=".engine.resources",
        ),
        rule(
            "!has(self.topology.serverClass) || self.topology.serverClass != 'module-910b-8' || "
            "self.parallelism.tensor <= 8",
            "parallelism.tensor must be at most 8 where topology.serverClass is module-910b-8: such a node has 8 NPUs",
            at=".parallelism.tensor",
        ),
    )

    promise: Promise = Promise.TOKENS_AND_LOGPROBS
    """What is equal for equal requests: token ids, or token ids and the bits of their logprobs."""
    model: Model
    """What is served."""
    engine: Engine = Engine()
    """How the engine runs."""
    parallelism: Parallelism = Parallelism()
    """How a replica is spread over devices."""
    replicas: Annotated[int, Field(ge=0, le=256)] = 1
    """Engines that serve the same outputs."""
    topology: Topology = Topology()
    """What the hardware must be."""
    scheduling: Scheduling = Scheduling()
    """Where the pods may run."""
    quarantine: Quarantine = Quarantine()
    """What happens to a replica that diverged."""


class DeterministicInference(ApiModel):
    """Deterministic inference: engines that give the same answer to the same request, attested and probed."""

    RULES = (
        rule(
            f"self.metadata.name.size() <= {MAX_NAME_LENGTH} && "
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            f"metadata.name must be at most {MAX_NAME_LENGTH} characters, a letter first, then lower-case letters, "
            "digits and '-': Services and pods are named after it",
        ),
    )

    spec: Spec
    """What is asked for."""
    status: Status | None = None
    """What is the case."""
