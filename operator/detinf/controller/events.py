"""Events: on transitions only, with a name that is derived from what they say, so that saying it twice is once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detinf.api import names
from detinf.api.conditions import Type
from detinf.cluster.port import Manifest
from detinf.controller.actions import Notice
from detinf.controller.observed import Observed
from detinf.controller.pods import format_time
from detinf.guard.canonical import digest, hex_of

NOTE_LENGTH = 1024
REPORTING_CONTROLLER = "detinf.io/controller"


TOLD = {
    (Type.READY, "True"): ("Ready", False),
    (Type.READY, "False"): ("NotReady", True),
    (Type.SPEC_VALID, "False"): ("InvalidSpec", True),
}
"""Conditions that flip, with the Event's reason and whether it warns."""


def transitions(
    old: Mapping[str, Any], new: Mapping[str, Any], isolated: Mapping[int, str] | None = None
) -> list[Notice]:
    """Return what changed between two statuses and is worth an Event, on the way up and on the way down.

    Args:
        old: the status that is there.
        new: the one that is to be written.
        isolated: by index, the boots whose pods have the label of isolated ones: also where another boot runs by now.
    """
    before = {item["type"]: item for item in old.get("conditions") or []}
    notices = []
    for item in new.get("conditions") or []:
        earlier = before.get(item["type"], {})
        if earlier.get("status") == item["status"] or (item["type"], item["status"]) not in TOLD:
            continue
        if item["type"] == Type.READY and item["status"] == "False" and not earlier:
            continue  # it was never Ready
        reason, warning = TOLD[item["type"], item["status"]]
        since = earlier.get("lastTransitionTime") or item["lastTransitionTime"]
        notices.append(Notice(reason, item["message"], f"{item['type']}/{item['status']}/{since}", warning=warning))
    return [*_agreed(old, new), *_replicas_changed(old, new, isolated or {}), *notices]


def _agreed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Notice]:
    """Return that answers were agreed, also where a controller was killed when it had stored them."""
    baseline = new.get("baseline") or {}
    if not baseline or baseline.get("fingerprint") == (old.get("baseline") or {}).get("fingerprint"):
        return []
    fingerprint, references = str(baseline["fingerprint"]), str(baseline["referencesDigest"])
    words = f"{baseline['lifetimes']} lifetime(s) agree on the answers of fingerprint {fingerprint[:23]}"
    return [Notice("RevisionQualified", words, names.baseline_key(fingerprint, references))]


def _replicas_changed(old: Mapping[str, Any], new: Mapping[str, Any], isolated: Mapping[int, str]) -> list[Notice]:
    """Return what happened to replicas that had diverged: they left the Service, and their pods went."""
    before = {item["index"]: item for item in old.get("replicaStates") or []}
    notices = []
    for item in new.get("replicaStates") or []:
        index, earlier = item["index"], before.get(item["index"], {})
        if index in isolated and earlier.get("state") != "Isolated":
            words = f"replica {index} left the Service: a peer passes what it diverged on"
            notices.append(Notice("ReplicaIsolated", words, isolated[index], warning=True))
        gone = earlier.get("podUID") is not None and item.get("podUID") != earlier["podUID"]
        if gone and earlier.get("state") in {"Isolated", "Failed"} and earlier.get("evidence"):
            words = f"replica {index} is restarted: only another boot that passes the gate clears a divergence"
            notices.append(Notice("ReplicaReplaced", words, str(earlier["podUID"])))
    return notices


def event(observed: Observed, notice: Notice, *, now: float, instance: str) -> Manifest:
    """Return the Event of a notice about the resource."""
    name = hex_of(digest([observed.uid, notice.reason, notice.key]))[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{observed.name}.{name}", "namespace": observed.namespace},
        "eventTime": format_time(now).replace("Z", ".000000Z"),
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": instance[:128],
        "action": notice.reason,
        "reason": notice.reason,
        "type": "Warning" if notice.warning else "Normal",
        "note": notice.message[:NOTE_LENGTH],
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "namespace": observed.namespace,
            "name": observed.name,
            "uid": observed.uid,
        },
    }
