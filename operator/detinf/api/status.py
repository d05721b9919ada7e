"""The status of a resource: written by the controller alone, and only when something changed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from detinf.api.rules import ApiModel


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


class TopologyStatus(ApiModel):
    """The hardware that the first baseline pinned; see ``spec.topology``."""

    chip: str | None = None
    """Chip name."""
    hbm_gi_b: Annotated[int | None, Field(alias="hbmGiB")] = None
    """Memory of one NPU in GiB."""
    driver_version: str | None = None
    """NPU driver."""
    firmware_version: str | None = None
    """NPU firmware."""
    link: str | None = None
    """What every pair of NPUs is joined by."""
    instruction_sets: str | None = None
    """Of the processor, where it does the arithmetic."""


class ReplicaStatus(ApiModel):
    """One replica, in a word."""

    index: int
    """Which replica."""
    state: str
    """Pending, Starting, Qualifying, Gating, Serving, Draining, Isolated, Diverged or Failed."""
    message: Annotated[str, Field(max_length=512)] = ""
    """Why it is not serving, or why it serves though it diverged."""
    pod: str | None = None
    """Its pod."""
    pod_uid: Annotated[str | None, Field(alias="podUID")] = None
    """The uid of its pod: another one is another pod of that name."""
    node: str | None = None
    """The node that its pod runs on."""
    boot: str | None = None
    """The boot of its engine, as its probe reports it."""
    image_id: Annotated[str | None, Field(alias="imageID", max_length=512)] = None
    """The image of its engine's container, as its kubelet tells it: what the tag in `spec.engine.image` stood for."""
    evidence: str | None = None
    """The ConfigMap with what it diverged on; named until it serves again."""


class LastValid(ApiModel):
    """The spec that is carried out while the present one cannot be."""

    generation: int
    """Its metadata.generation."""
    spec: Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
    """The spec as it was applied."""


class Status(ApiModel):
    """What is the case."""

    observed_generation: int | None = None
    """The metadata.generation that this status is about; -1 before the controller has looked."""
    replicas: int | None = None
    """Pods that exist."""
    ready_replicas: int | None = None
    """Replicas that serve."""
    selector: str | None = None
    """Label selector of the pods, for the scale subresource."""
    controller: str | None = None
    """Namespace and name of the Lease that tells who looks after this resource, and when it was renewed last."""
    revision: str | None = None
    """Digest of the plan that replicas are to run."""
    model: str | None = None
    """Name in the API (`--served-model-name`)."""
    mode: Annotated[str | None, Field(pattern=r"^(Enforce|Observe|Unknown)$")] = None
    """Whether a divergence is acted on (`Enforce`) or only reported (`Observe`); `Unknown` until an engine has attested
    which model it serves on which chip, and acted on meanwhile. `SpecValid` says why."""
    url: str | None = None
    """Where to send requests, inside the cluster."""
    last_valid: LastValid | None = None
    """The last spec that could be carried out: what runs is held to it."""
    baseline: BaselineStatus | None = None
    """The agreed answers that replicas are held to."""
    topology: TopologyStatus | None = None
    """The hardware that replicas are held to, as the first baseline pinned it."""
    replica_states: Annotated[list[ReplicaStatus], Field(max_length=256)] | None = None
    """Each replica, in a word."""
    conditions: (
        Annotated[
            list[Condition],
            Field(
                max_length=16,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
            ),
        ]
        | None
    ) = None
    """Ready rolls up SpecValid, TopologyPinned, BatchInvarianceEffective, Qualified, OutputsInvariant and
    ReplicasAvailable."""
