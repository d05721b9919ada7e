"""The group, the labels and every name that is derived from a resource.

Labels are the controller's memory: what is written here is read back after a restart.
"""

from __future__ import annotations

from detinf.guard.canonical import hex_of, short

GROUP = "detinf.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DeterministicInference"
PLURAL = "deterministicinferences"
SINGULAR = "deterministicinference"
SHORT_NAME = "detinf"
CATEGORY = "inference"

FIELD_MANAGER = "detinf-controller"
MAX_NAME_LENGTH = 40
"""A StatefulSet with a longer name makes no pods: the pod's revision label would exceed 63 bytes (measured)."""

LABEL_NAME = f"{GROUP}/name"
LABEL_REPLICA = f"{GROUP}/replica"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_RUNTIME = f"{GROUP}/runtime"
LABEL_SERVING = f"{GROUP}/serving"
LABEL_DIVERGED_BOOT = f"{GROUP}/diverged-boot"
LABEL_DOCUMENT = f"{GROUP}/document"
"""On ConfigMaps: plan, probe-settings, baselines, references, candidate, baseline, evidence."""
LABEL_BOOT = f"{GROUP}/boot"
"""On candidate and evidence records: the first 32 hexadecimal digits, which is the whole boot."""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "detinf"

ANNOTATION_NUDGE = f"{GROUP}/delivery"
"""Digest of the delivery ConfigMap's data: writing it makes the kubelet bring the new content within a second."""

ANNOTATION_AGAIN = f"{GROUP}/asked-again"
"""On pods: what a peer diverged on, for their probes to ask again (``documents.AskedAgain``)."""

ANNOTATION_RESTART = f"{GROUP}/restarted-at"
"""On the resource, by a person, as ``kubectl rollout restart`` does it: another value restarts the pods, one by one."""

ENGINE_CONTAINER = "engine"
PROBE_CONTAINER = "probe"
GUARD_INSTALL_CONTAINER = "guard-install"
USERS_CONTAINER = "users"


def common_labels(name: str) -> dict[str, str]:
    """Return the labels of every child of the resource."""
    return {
        "app.kubernetes.io/name": "deterministic-inference",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/part-of": "detinf",
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_NAME: name,
    }


def selector(name: str) -> dict[str, str]:
    """Return the labels that select the resource's pods."""
    return {LABEL_NAME: name, LABEL_MANAGED_BY: MANAGED_BY}


def replica_name(name: str, index: int) -> str:
    """Return the name of the StatefulSet of one replica."""
    return f"{name}-{index}"


def pod_name(name: str, index: int) -> str:
    """Return the name of the one pod of one replica."""
    return f"{name}-{index}-0"


def headless_service_name(name: str) -> str:
    """Return the name of the Service that governs the StatefulSets."""
    return f"{name}-pods"


def plan_name(name: str, revision: str) -> str:
    """Return the name of the plan's ConfigMap."""
    return f"{name}-plan-{revision}"


def settings_name(name: str) -> str:
    """Return the name of the probe-settings ConfigMap."""
    return f"{name}-probe-settings"


def delivery_name(name: str) -> str:
    """Return the name of the ConfigMap that carries references and baselines to the probes."""
    return f"{name}-baselines"


def references_name(name: str, digest: str) -> str:
    """Return the name of the immutable record of the references."""
    return f"{name}-references-{short(digest)}"


def baseline_name(name: str, digest: str) -> str:
    """Return the name of the immutable record of a baseline."""
    return f"{name}-baseline-{short(digest)}"


def candidate_name(name: str, revision: str, boot: str) -> str:
    """Return the name of the record of one lifetime's answers."""
    return f"{name}-candidate-{revision}-{boot}"


def evidence_name(name: str, digest: str) -> str:
    """Return the name of the record of one divergence."""
    return f"{name}-evidence-{short(digest)}"


def baseline_key(fingerprint: str, references_digest: str) -> str:
    """Return the key of a baseline in the delivery ConfigMap."""
    return f"baseline.{hex_of(fingerprint)}.{hex_of(references_digest)}"


REFERENCES_KEY = "references"
"""The key of the references in the delivery ConfigMap."""
