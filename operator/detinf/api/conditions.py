"""Conditions and reasons, and how a list of conditions is carried forward.

``Reason`` holds every reason that is ever set, and docs/operations/failures.md what to do about each: a test holds the
two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Type(StrEnum):
    """Condition types. All are normal-True, but ``Degraded``, ``Stalled`` and ``Reconciling``."""

    READY = "Ready"
    SPEC_VALID = "SpecValid"
    TOPOLOGY_PINNED = "TopologyPinned"
    BATCH_INVARIANCE_EFFECTIVE = "BatchInvarianceEffective"
    QUALIFIED = "Qualified"
    OUTPUTS_INVARIANT = "OutputsInvariant"
    REPLICAS_AVAILABLE = "ReplicasAvailable"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    STALLED = "Stalled"
    """Only there while True: waiting does not help, a person has to act. kstatus (Flux, kpt) calls that Failed."""
    RECONCILING = "Reconciling"
    """Only there while True: Progressing and not Stalled. kstatus calls that InProgress."""


class Reason(StrEnum):
    """Every reason of every condition."""

    READY = "Ready"

    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    CHILD_REFUSED = "ChildRefused"
    CHILD_CONFLICT = "ChildConflict"
    LEFT_BY_NAMESAKE = "LeftByNamesake"
    CHILDREN_UNREAD = "ChildrenUnread"
    RECORD_UNREADABLE = "RecordUnreadable"

    PINNED = "Pinned"
    NOT_PINNED_YET = "NotPinnedYet"
    TOPOLOGY_DRIFT = "TopologyDrift"
    IDENTITY_DRIFT = "IdentityDrift"
    IMAGE_DRIFT = "ImageDrift"

    ATTESTED = "Attested"
    NOT_ATTESTED_YET = "NotAttestedYet"
    NOT_ATTESTED = "NotAttested"

    BASELINE_AGREED = "BaselineAgreed"
    WAITING_FOR_REFERENCES = "WaitingForReferences"
    QUALIFYING = "Qualifying"
    CANDIDATES_DIFFER = "CandidatesDiffer"
    BASELINE_LOST = "BaselineLost"

    FRESH_PROOF = "FreshProof"
    EVIDENCE_STALE = "EvidenceStale"
    NO_REPLICA_SERVES = "NoReplicaServes"
    SCALED_TO_ZERO = "ScaledToZero"
    DIVERGENCE_DETECTED = "DivergenceDetected"
    COMMON_MODE_DIVERGENCE = "CommonModeDivergence"
    DIVERGING_REPLICA_SERVES = "DivergingReplicaServes"

    ALL_SERVING = "AllServing"
    REPLICA_PENDING = "ReplicaPending"
    REPLICA_STARTING = "ReplicaStarting"
    REPLICA_QUALIFYING = "ReplicaQualifying"
    REPLICA_GATING = "ReplicaGating"
    REPLICA_DRAINING = "ReplicaDraining"
    REPLICA_ISOLATED = "ReplicaIsolated"
    GATE_FAILED = "GateFailed"

    POD_REFUSED = "PodRefused"
    UNSCHEDULABLE = "Unschedulable"
    NO_NODE_MATCHES = "NoNodeMatches"
    CLAIM_MISSING = "ClaimMissing"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONFIG_MISSING = "ConfigMissing"
    MOUNT_FAILED = "MountFailed"
    CONTAINER_FAILED = "ContainerFailed"
    GUARD_REFUSED = "GuardRefused"
    DOWNLOAD_FAILED = "DownloadFailed"
    ENGINE_CRASHES = "EngineCrashes"
    OUT_OF_MEMORY = "OutOfMemory"
    EVICTED = "Evicted"
    POD_FAILED = "PodFailed"

    SETTLED = "Settled"
    ROLLING_OUT = "RollingOut"
    NO_PLACE = "NoPlace"
    REPLICAS_STARTING = "ReplicasStarting"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"

    AS_EXPECTED = "AsExpected"


CONSEQUENCES = frozenset(
    {
        Reason.NOT_PINNED_YET,
        Reason.NOT_ATTESTED_YET,
        Reason.WAITING_FOR_REFERENCES,
        Reason.QUALIFYING,
        Reason.NO_REPLICA_SERVES,
    }
)
"""What follows from replicas that do not serve: ``Ready`` names the cause where there is one."""

ONLY_A_PERSON_HELPS = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.CHILD_REFUSED,
        Reason.CHILD_CONFLICT,
        Reason.CANDIDATES_DIFFER,
        Reason.BASELINE_LOST,
        Reason.COMMON_MODE_DIVERGENCE,
        Reason.DIVERGING_REPLICA_SERVES,
        Reason.GUARD_REFUSED,
        Reason.NOT_ATTESTED,
        Reason.TOPOLOGY_DRIFT,
        Reason.IDENTITY_DRIFT,
        Reason.IMAGE_DRIFT,
        Reason.NO_PLACE,
        Reason.PROGRESS_DEADLINE_EXCEEDED,
        Reason.POD_REFUSED,
        Reason.NO_NODE_MATCHES,
        Reason.CLAIM_MISSING,
        Reason.IMAGE_PULL_FAILED,
        Reason.CONFIG_MISSING,
        Reason.MOUNT_FAILED,
    }
)
"""Reasons that make ``Stalled``: the same would be found again until somebody changes something."""


@dataclass(frozen=True)
class Finding:
    """What one condition is to say now, before its transition time is known."""

    type: Type
    status: str
    """True, False or Unknown."""
    reason: Reason
    message: str


def carry_forward(
    findings: Iterable[Finding], previous: Sequence[Mapping[str, Any]], *, generation: int, now: str
) -> list[dict[str, Any]]:
    """Return conditions for the status; the transition time changes only where the status does.

    Args:
        findings: what each condition says now.
        previous: the conditions in the resource's status.
        generation: the ``metadata.generation`` that the findings are about.
        now: RFC 3339 time for those that flip.
    """
    before = {str(condition.get("type")): condition for condition in previous}
    conditions = []
    for finding in findings:
        old = before.get(finding.type)
        same = old is not None and old.get("status") == finding.status
        conditions.append(
            {
                "type": str(finding.type),
                "status": finding.status,
                "reason": str(finding.reason),
                "message": finding.message,
                "lastTransitionTime": old["lastTransitionTime"] if same and old else now,
                "observedGeneration": generation,
            }
        )
    return conditions
