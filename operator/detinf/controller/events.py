"""Events: on transitions only, with a name that is derived from what they say, so that saying it twice is once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def transitions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Notice]:
    """Return what flipped between two statuses and is worth an Event."""
    before = {item["type"]: item for item in old.get("conditions") or []}
    notices = []
    for item in new.get("conditions") or []:
        earlier = before.get(item["type"], {})
        if earlier.get("status") == item["status"]:
            continue
        key = f"{item['type']}/{item['status']}/{earlier.get('lastTransitionTime', '')}"
        if item["type"] == Type.READY and item["status"] == "True":
            notices.append(Notice("Ready", item["message"], key))
        elif item["type"] == Type.SPEC_VALID and item["status"] == "False":
            notices.append(Notice("InvalidSpec", item["message"], key, warning=True))
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


def all_notices(old: Mapping[str, Any], new: Mapping[str, Any], *others: Iterable[Notice]) -> list[Notice]:
    """Return every notice of a decision, in the order in which things happen."""
    return [*(notice for group in others for notice in group), *transitions(old, new)]
