"""``DeterministicInference`` v1alpha1: the fields that work, in vLLM's and Kubernetes' own terms.

The CRD under ``crds/`` is generated from these models (``make generate``). A default written here becomes a schema
default; one that depends on the chart (profile, image) stays absent here and is filled in by the controller. What a
field or a part must be beyond its type is a CEL rule beside it, whose message names the field and the remedy.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from detinf.api.names import MAX_NAME_LENGTH
from detinf.api.placement import Parallelism, Scheduling, Topology
from detinf.api.rules import (
    LABEL_KEY,
    NAME_RULE,
    NO_CLIMBING,
    QUANTITY,
    ApiModel,
    Quantity,
    Rule,
    rule,
    ruled,
    spelled,
)
from detinf.api.status import Status
from detinf.guard.hubs import COMMIT, REPOSITORY


class Promise(StrEnum):
    """What users are promised to be equal."""

    TOKENS = "Tokens"
    TOKENS_AND_LOGPROBS = "TokensAndLogprobs"


class QuarantinePolicy(StrEnum):
    """What happens to a replica that diverged while a peer passes."""

    ISOLATE = "Isolate"
    REPORT = "Report"


def _object_name(field: str, kind: str) -> Any:
    """Return the ``Field`` of a text that names an object of the namespace."""
    return Field(
        min_length=1,
        max_length=253,
        json_schema_extra=spelled(
            "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
            f"{field} must be the name of a {kind} of this namespace: lower-case letters, digits, '-' and '.'",
        ),
    )


class ProbeMode(StrEnum):
    """What follows from a divergence."""

    ENFORCE = "Enforce"
    OBSERVE = "Observe"


class PersistentVolumeClaimSource(ApiModel):
    """A model folder in a PersistentVolumeClaim of the same namespace, mounted read-only."""

    claim_name: Annotated[str, _object_name("claimName", "PersistentVolumeClaim")]
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


class SecretKey(ApiModel):
    """A key of a Secret of the same namespace."""

    name: Annotated[str, _object_name("name", "Secret")]
    """Name of the Secret."""
    key: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            json_schema_extra=spelled(
                "^[-._a-zA-Z0-9]+$", "key must be a key of the Secret: letters, digits, '-', '_' and '.'"
            ),
        ),
    ]
    """Key of the Secret that holds the token."""


class HubSource(ApiModel):
    """One commit of a repository, downloaded by the engine image's own library before the engine starts."""

    repository: Annotated[
        str,
        Field(
            min_length=3,
            max_length=193,
            json_schema_extra=ruled(
                rule(
                    f"self.matches('^{REPOSITORY}/{REPOSITORY}$') && !self.contains('--') && !self.contains('..') && "
                    "!self.endsWith('.git')",
                    "repository must be OWNER/NAME, such as Qwen/Qwen3-8B: letters, digits, '_', '-' and '.', without "
                    "'--', '..' and '.git'",
                )
            ),
        ),
    ]
    """Owner and name of the repository, such as `Qwen/Qwen3-8B`."""
    revision: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            json_schema_extra=spelled(
                f"^{COMMIT}$",
                "revision must be a full commit, 40 hexadecimal digits in lower case: a branch or a tag moves, and "
                "replicas would serve different models",
            ),
        ),
    ]
    """Full commit, 40 hexadecimal digits; never a branch or a tag, which move."""
    cache_claim_name: Annotated[str, _object_name("cacheClaimName", "PersistentVolumeClaim")]
    """PersistentVolumeClaim that the files are downloaded into; ReadWriteMany where replicas run on several nodes."""
    token_secret_ref: SecretKey | None = None
    """Where the hub's token is; absent where the repository is public."""


class HuggingFaceSource(HubSource):
    """One commit of a repository on Hugging Face."""


class ModelScopeSource(HubSource):
    """One commit of a repository on ModelScope."""


class ModelSource(ApiModel):
    """Where the model's files are; exactly one member is set."""

    RULES = (
        rule(
            "[has(self.persistentVolumeClaim), has(self.hostPath), has(self.huggingFace), has(self.modelScope)]"
            ".filter(given, given).size() == 1",
            "source must have exactly one of persistentVolumeClaim, hostPath, huggingFace and modelScope: set one, "
            "remove the others",
        ),
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A claim that holds the model."""
    host_path: HostPathSource | None = None
    """A folder of the node, under a prefix listed in the chart's `models.hostPathPrefixes`."""
    hugging_face: HuggingFaceSource | None = None
    """A repository on Hugging Face, at one commit."""
    model_scope: ModelScopeSource | None = None
    """A repository on ModelScope, at one commit; the engine's image needs modelscope 1.38 or newer."""

    @property
    def hub(self) -> tuple[str, HubSource] | None:
        """The hub to download from, by its name in `guard.hubs.HUBS`; None for files that are there."""
        if self.hugging_face is not None:
            return "huggingFace", self.hugging_face
        if self.model_scope is not None:
            return "modelScope", self.model_scope
        return None


class Model(ApiModel):
    """What is served."""

    RULES = (
        rule(
            "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",
            "name cannot change: users, engines and probes know the model by it; create another resource for another "
            "name",
            at=".name",
        ),
    )

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
    """Name in the API (`--served-model-name`); metadata.name when absent. It cannot change."""
    source: ModelSource
    """Where the model's files are."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Data type of the weights and activations (`--dtype`); never `auto`, which follows the model's repository."""
    max_model_len: Annotated[int, Field(ge=64, le=1_048_576)] = 8192
    """Longest prompt and answer together, in tokens (`--max-model-len`)."""
    manifest_digest: (
        Annotated[
            str,
            Field(
                max_length=71,
                json_schema_extra=spelled(
                    "^sha256:[0-9a-f]{64}$", "manifestDigest must be sha256:<64 hex>, as `detinf manifest` prints it"
                ),
            ),
        ]
        | None
    ) = None
    """Digest of the model's files; an engine with others does not start. They are not digested when absent."""


def _quantities(field: str) -> Rule:
    """Return the rule that a map holds resource names and quantities."""
    return rule(
        f"!has(self.{field}) || self.{field}.all(name, name.size() <= 317 && name.matches('^{LABEL_KEY}$') && "
        f"string(self.{field}[name]).matches('^{QUANTITY}$') && isQuantity(string(self.{field}[name])))",
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


class EnvironmentVariable(ApiModel):
    """An environment variable of the engine."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=128,
            json_schema_extra=spelled(
                "^[A-Za-z_][A-Za-z0-9_]*$", "name must be a variable's name, such as VLLM_LOGGING_LEVEL"
            ),
        ),
    ]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value, as it is."""


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
    extra_args: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=64)] = Field(
        default_factory=list
    )
    """Further arguments of `vllm serve`, of those that the profile allows; each is part of the plan."""
    env: Annotated[list[EnvironmentVariable], Field(max_length=64)] = Field(default_factory=list)
    """Further variables of the engine, of those that the profile allows; each is part of the plan."""
    resources: ResourceAmounts = ResourceAmounts()
    """Requests and limits of the engine container, beside the NPUs."""
    startup_timeout_seconds: Annotated[int, Field(ge=30, le=86_400)] = 3600
    """How long the engine may load before the kubelet restarts it, in seconds."""


class Quarantine(ApiModel):
    """What happens to a replica that diverged."""

    policy: QuarantinePolicy = QuarantinePolicy.ISOLATE
    """`Isolate` takes a replica out of the Service while a peer passes the same cell; `Report` only says so."""


class Probe(ApiModel):
    """How the probes go about their work."""

    mode: ProbeMode | None = None
    """`Enforce`: what fails its gate does not serve, what diverges is isolated. `Observe`: both are only reported, and
    attestation is needed all the same. Absent: `Observe` where an engine attests a model, by its config.json, and a
    chip that nobody validated together; `status.mode` tells which it is."""


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
    probe: Probe = Probe()
    """How the probes go about their work."""
    quarantine: Quarantine = Quarantine()
    """What happens to a replica that diverged."""


class DeterministicInference(ApiModel):
    """Deterministic inference: engines that give the same answer to the same request, attested and probed."""

    RULES = (
        rule(
            f"self.metadata.name.size() <= {MAX_NAME_LENGTH} && " + NAME_RULE.replace("self", "self.metadata.name"),
            f"metadata.name must be at most {MAX_NAME_LENGTH} characters, a letter first, then lower-case letters, "
            "digits and '-', and not end in -pods: Services and pods are named after it",
        ),
    )

    spec: Spec
    """What is asked for."""
    status: Status | None = None
    """What is the case."""
