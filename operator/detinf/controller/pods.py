"""What a pod says about itself, read from its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from detinf.api import names

Pod = Mapping[str, Any]


LAST_SECOND = 253_402_300_799
"""Of the year 9999: a document may say anything."""


def parse_time(text: str) -> float:
    """Return Unix seconds of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def format_time(now: float) -> str:
    """Return the RFC 3339 time of Unix seconds, as the API server writes it; what no year has is the nearest time."""
    return datetime.fromtimestamp(min(max(int(now), 0), LAST_SECOND), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def label(manifest: Mapping[str, Any], key: str) -> str | None:
    """Return a label of an object."""
    value = manifest["metadata"].get("labels", {}).get(key)
    return None if value is None else str(value)


def annotation(manifest: Mapping[str, Any], key: str) -> str | None:
    """Return an annotation of an object."""
    value = manifest["metadata"].get("annotations", {}).get(key)
    return None if value is None else str(value)


def index_of(manifest: Mapping[str, Any]) -> int | None:
    """Return the replica that a StatefulSet or pod belongs to."""
    value = label(manifest, names.LABEL_REPLICA)
    return int(value) if value is not None and value.isdigit() else None


def uid_of(manifest: Mapping[str, Any]) -> str:
    """Return an object's uid."""
    return str(manifest["metadata"]["uid"])


def controlled_by(manifest: Mapping[str, Any], owner_uids: Iterable[str]) -> bool:
    """Return whether the object's controller is one of these."""
    owners = manifest["metadata"].get("ownerReferences") or []
    wanted = set(owner_uids)
    return any(owner.get("controller") and owner.get("uid") in wanted for owner in owners)


def controller_of(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the reference to the object's controller, or None."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def is_terminating(pod: Pod) -> bool:
    """Return whether the pod is being deleted."""
    return pod["metadata"].get("deletionTimestamp") is not None


def condition(pod: Pod, kind: str) -> Mapping[str, Any]:
    """Return a condition of the pod; empty where it is not there."""
    conditions = pod.get("status", {}).get("conditions") or []
    return next((item for item in conditions if item.get("type") == kind), {})


def is_ready(pod: Pod) -> bool:
    """Return whether the Service sends requests to the pod."""
    return condition(pod, "Ready").get("status") == "True" and not is_terminating(pod)


def unready_since(pod: Pod) -> float | None:
    """Return since when the pod is unready, in Unix seconds; None while it is ready."""
    ready = condition(pod, "Ready")
    if ready.get("status") == "True":
        return None
    since = ready.get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
    return parse_time(since) if since else None


def container_status(pod: Pod, name: str) -> Mapping[str, Any]:
    """Return the status of a container, init containers included; empty where it is not there."""
    status = pod.get("status", {})
    listed = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    return next((item for item in listed if item.get("name") == name), {})


def engine_started(pod: Pod) -> float | None:
    """Return when the engine container that runs now was started, in Unix seconds with the kubelet's whole seconds."""
    running = container_status(pod, names.ENGINE_CONTAINER).get("state", {}).get("running", {})
    started = running.get("startedAt")
    return parse_time(started) if started else None


def engine_restarts(pod: Pod) -> int:
    """Return how many engine containers ran in the pod before the present one, as the kubelet counts."""
    return int(container_status(pod, names.ENGINE_CONTAINER).get("restartCount") or 0)
