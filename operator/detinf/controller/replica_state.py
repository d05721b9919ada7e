"""One replica in a word, a reason, and why it is not serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detinf.api import names
from detinf.api.conditions import Reason
from detinf.cluster.port import Manifest
from detinf.controller import pods
from detinf.controller.observed import Replica
from detinf.controller.trouble import pod_trouble, refused_pod
from detinf.documents import Phase

LOADING = frozenset({Phase.WAITING_FOR_ATTESTATION, Phase.WAITING_FOR_ENGINE})
PHASE_STATES = {
    Phase.WAITING_FOR_ATTESTATION: ("Starting", Reason.REPLICA_STARTING),
    Phase.WAITING_FOR_ENGINE: ("Starting", Reason.REPLICA_STARTING),
    Phase.WAITING_FOR_REFERENCES: ("Qualifying", Reason.REPLICA_QUALIFYING),
    Phase.ANSWERING: ("Qualifying", Reason.REPLICA_QUALIFYING),
    Phase.WAITING_FOR_BASELINE: ("Qualifying", Reason.REPLICA_QUALIFYING),
    Phase.GATING: ("Gating", Reason.REPLICA_GATING),
    Phase.GATE_FAILED: ("Failed", Reason.GATE_FAILED),
    Phase.PASSED: ("Gating", Reason.REPLICA_GATING),
}
"""Of a pod that is not ready; the kubelet needs a moment to see that its gate has passed."""


@dataclass(frozen=True)
class ReplicaState:
    """What status says of one replica."""

    state: str
    """As in ``status.replicaStates``."""
    reason: Reason
    words: str = ""
    """Why it is not serving."""

    @property
    def serves(self) -> bool:
        """Whether users are sent to it."""
        return self.state in {"Serving", "Diverged"}


def replica_state(
    replica: Replica,
    *,
    isolated: bool = False,
    draining: bool = False,
    foreign: str = "",
    why: str = "",
    events: Sequence[Manifest] = (),
) -> ReplicaState:
    """Return the state of one replica.

    Args:
        replica: its StatefulSet, pod and report.
        isolated: whether it was taken out of the Service because it diverged.
        draining: whether it is out of the Service to make way.
        foreign: why the image that it runs keeps it out of the Service; empty where it does not.
        why: why it goes on serving though it diverged.
        events: the Events about its pod, or about its StatefulSet where there is no pod.
    """
    pod, report = replica.pod, replica.report
    if pod is None:
        return _without_pod(replica, events)
    if isolated:
        words = "it diverged; only another boot that passes the gate serves again"
        return ReplicaState("Isolated", Reason.REPLICA_ISOLATED, words)
    if foreign and (report is None or report.phase is not Phase.GATE_FAILED):
        return ReplicaState("Failed", Reason.IMAGE_DRIFT, foreign)
    if draining:
        return ReplicaState("Draining", Reason.REPLICA_DRAINING, "it left the Service to make way, and is replaced")
    if replica.ready:
        if replica.evidence:
            return ReplicaState("Diverged", Reason.DIVERGENCE_DETECTED, f"it diverged and goes on serving: {why}")
        return ReplicaState("Serving", Reason.ALL_SERVING)
    if report is None or report.boot is None or report.phase in LOADING:
        # A probe whose engine is not there knows less than the kubelet, which has the guard's own words.
        found = pod_trouble(pod, events)
        if found is not None:
            return ReplicaState(found.state, found.reason, found.words)
    if report is None or report.boot is None:
        return _not_attested(pod)
    state, reason = PHASE_STATES[report.phase]
    words = "; ".join(report.reasons[:2]) if state in {"Failed", "Gating"} else ""
    return ReplicaState(state, reason, words)


def _without_pod(replica: Replica, events: Sequence[Manifest]) -> ReplicaState:
    """Return the state of a replica that has no pod, or one that ends."""
    if replica.ending is not None:
        node = replica.ending.get("spec", {}).get("nodeName")
        words = f"its pod ends, since {replica.ending['metadata']['deletionTimestamp']}"
        if node:
            words += f"; if that takes long, look at node {node}: on one that is gone nobody ends it"
        return ReplicaState("Pending", Reason.REPLICA_PENDING, words)
    if replica.unlabelled is not None:
        name = replica.unlabelled["metadata"]["name"]
        words = (
            f"pod {name} is there without the labels of this replica, or is somebody else's, and keeps its StatefulSet "
            f"from making it: kubectl delete pod {name}"
        )
        return ReplicaState("Failed", Reason.CHILD_CONFLICT, words)
    refused = refused_pod(events)
    if refused is not None:
        return ReplicaState(refused.state, refused.reason, refused.words)
    return ReplicaState("Pending", Reason.REPLICA_PENDING, "its pod is being created")


def _not_attested(pod: Manifest) -> ReplicaState:
    engine = pods.container_status(pod, names.ENGINE_CONTAINER)
    if engine.get("state", {}).get("running"):
        return ReplicaState("Starting", Reason.REPLICA_STARTING, "the engine is loading")
    ended = engine.get("state", {}).get("terminated") or engine.get("lastState", {}).get("terminated")
    if ended:
        words = f"its engine ended with exit code {ended.get('exitCode')} and is started again"
        return ReplicaState("Starting", Reason.REPLICA_STARTING, words)
    if pods.condition(pod, "PodScheduled"):
        return ReplicaState("Pending", Reason.REPLICA_PENDING, "its containers are being created")
    scheduler = pod.get("spec", {}).get("schedulerName", "default-scheduler")
    return ReplicaState("Pending", Reason.REPLICA_PENDING, f"scheduler {scheduler} has not looked at its pod yet")
