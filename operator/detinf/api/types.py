"""``DeterministicInference`` v1alpha1: the fields that work, in vLLM's and Kubernetes' own terms.

The CRD under ``crds/`` is generated from these models (``make generate``). A default written here becomes a schema
default; one that depends on the chart (profile, image) stays absent here and is filled in by the controller.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """A part of the resource. Unknown fields are ignored: a newer resource must not crash an older operator."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )


class Promise(StrEnum):
    """What users are promised to be equal."""

    TOKENS = "Tokens"
    TOKENS_AND_LOGPROBS = "TokensAndLogprobs"


class QuarantinePolicy(StrEnum):
    """What happens to a replica that diverged while a peer passes."""

    ISOLATE = "Isolate"
    REPORT = "Report"


ShortText = Annotated[str, Field(min_length=1, max_length=253)]
PathText = Annotated[str, Field(min_length=1, max_length=1024)]


class PersistentVolumeClaimSource(ApiModel):
    """A model folder in a PersistentVolumeClaim of the same namespace, mounted read-only."""

    claim_name: ShortText
    """Name of the claim."""
    path: Annotated[str, Field(max_length=1024)] = ""
    """Folder of the model inside the claim; empty for the claim's root."""


class HostPathSource(ApiModel):
    """A model folder on the node, under a prefix that the chart's owner allows."""

    path: PathText
    """Absolute path of the model's folder on the node."""


class ModelSource(ApiModel):
    """Where the model's files are; exactly one member is set."""

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A claim that holds the model."""
    host_path: HostPathSource | None = None
    """A folder of the node, under a prefix listed in the chart's `models.hostPathPrefixes`."""


class Model(ApiModel):
    """What is served."""

    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Name in the API (`--served-model-name`); metadata.name when absent."""
    source: ModelSource
    """Where the model's files are."""
    dtype: Annotated[str, Field(pattern=r"^(bfloat16|float16|float32)$")] = "bfloat16"
    """Data type of the weights and activations (`--dtype`); never `auto`, which follows the model's repository."""
    max_model_len: Annotated[int, Field(ge=64, le=1_048_576)] = 8192
    """Longest prompt and answer together, in tokens (`--max-model-len`)."""


class ResourceAmounts(ApiModel):
    """Amounts by resource name, as in a container's `resources`."""

    requests: dict[str, str] = Field(default_factory=dict, max_length=16)
    """What the scheduler sets aside."""
    limits: dict[str, str] = Field(default_factory=dict, max_length=16)
    """What the container may use at most."""


class Engine(ApiModel):
    """How the engine runs."""

    profile: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Engine profile, such as `simulated`; the chart's `engine.defaultProfile` when absent."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image of the engine; the profile's when absent."""
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

    chip: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,32}$")] | None = None
    """Chip name, such as `910B3`: node label `node.kubernetes.io/npu.chip.name`, read back with `npu-smi`."""
    hbm_gi_b: Annotated[int, Field(ge=1, le=1024)] | None = Field(default=None, alias="hbmGiB")
    """Memory of one NPU in GiB."""
    server_class: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,63}$")] | None = None
    """Node label `accelerator-type`, such as `module-910b-8`."""
    driver_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.]{1,63}$")] | None = None
    """NPU driver, such as `25.5.1`: node label `huawei.com/driver.version`, read back on the node."""
    firmware_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.]{1,63}$")] | None = None
    """NPU firmware, such as `7.8.0.6.201`; no label carries it, so it is read on the node alone."""


class Scheduling(ApiModel):
    """Where the pods may run."""

    resource_name: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9_.-]+$", max_length=253)] = (
        "huawei.com/Ascend910"
    )
    """Extended resource of a whole NPU."""
    node_selector: dict[str, str] = Field(default_factory=dict, max_length=32)
    """Labels that a node must have."""
    tolerations: Annotated[list[dict[str, Any]], Field(max_length=32)] = Field(default_factory=list)
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


class Condition(ApiModel):
    """A condition in Kubernetes' form."""

    type: Annotated[str, Field(max_length=63)]
    """Name of the condition."""
    status: Annotated[str, Field(pattern=r"^(True|False|Unknown)$")]
    """True, False or Unknown."""
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """One word for programs."""
    message: Annotated[str, Field(max_length=1024)]
    """A sentence for people, with the remedy where there is one."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When the status last changed."""
    observed_generation: int
    """The metadata.generation that this is about."""


class BaselineStatus(ApiModel):
    """The agreed answers that replicas are held to."""

    fingerprint: str
    """The numeric identity they belong to."""
    digest: str
    """Digest of the baseline record."""
    references_digest: str
    """Digest of the references that were answered."""
    lifetimes: int
    """How many engine lifetimes agreed."""


class ReplicaStatus(ApiModel):
    """One replica, in a word."""

    index: int
    """Which replica."""
    state: str
    """Pending, Starting, Qualifying, Gating, Serving, Isolated, Diverged or Failed."""
    message: Annotated[str, Field(max_length=512)] = ""
    """Why it is not serving."""


class Status(ApiModel):
    """What is the case."""

    observed_generation: int | None = None
    """The metadata.generation that this status is about."""
    replicas: int | None = None
    """Pods that exist."""
    ready_replicas: int | None = None
    """Replicas that serve."""
    selector: str | None = None
    """Label selector of the pods, for the scale subresource."""
    revision: str | None = None
    """Digest of the plan that replicas are to run."""
    url: str | None = None
    """Where to send requests, inside the cluster."""
    baseline: BaselineStatus | None = None
    """The agreed answers that replicas are held to."""
    replica_states: Annotated[list[ReplicaStatus], Field(max_length=256)] | None = None
    """Each replica, in a word."""
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = None
    """Ready rolls up SpecValid, Qualified, OutputsInvariant and ReplicasAvailable."""
