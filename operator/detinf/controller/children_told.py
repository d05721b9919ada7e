"""What is said of children that could not be made or changed: in whose way they are, and what helps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from detinf.api import names
from detinf.api.conditions import Finding, Reason, Type
from detinf.cluster.port import ForbiddenError, InvalidError, Manifest
from detinf.controller import pods
from detinf.controller.actions import Outcome, Undone
from detinf.controller.observed import Observed

SHOWN = 3
TOLD_AFTER = 3
"""Looks in a row in which a kind could not be listed: one is a moment, and nobody's alarm."""
OUR_OWN = frozenset({names.FIELD_MANAGER, "kube-controller-manager"})
DELETE = {
    "StatefulSet": "kubectl delete statefulset {name} --cascade=orphan",
    "Service": "kubectl delete service {name}",
    "PodDisruptionBudget": "kubectl delete poddisruptionbudget {name}",
    "ConfigMap": "kubectl delete configmap {name}",
}
"""What lets the controller make a child anew; a StatefulSet's pod stays, and belongs to the new one."""


@dataclass(frozen=True)
class ChildrenTold:
    """Why children are not as they are wanted."""

    finding: Finding | None = None
    """For ``Ready``, ``Degraded`` and ``Stalled``."""
    blames_spec: bool = False
    """Whether a field of the spec is to be corrected."""


def children_told(observed: Observed, outcome: Outcome) -> ChildrenTold:
    """Return what is to be said of children that exist and are not this resource's, or that the API server refuses."""
    refused = list(outcome.refused.values())
    conflicts = {(item["kind"], item["metadata"]["name"]): item for item in observed.strangers}
    conflicts |= {about: item.owner for about, item in outcome.undone.items() if item.owner is not None}
    if conflicts:
        lasting = [item for item in conflicts.values() if not _of_a_namesake(observed, item)]
        reason = Reason.CHILD_CONFLICT if lasting else Reason.LEFT_BY_NAMESAKE
        return ChildrenTold(_finding(reason, (_conflict(observed, item) for item in lasting or conflicts.values())))
    said = [item for item in refused if isinstance(item.error, (InvalidError, ForbiddenError))]
    if not said and observed.unread and observed.unread_looks >= TOLD_AFTER:
        unread = (f"{kind}s cannot be listed, and stay as they are: {why}" for kind, why in observed.unread.items())
        return ChildrenTold(_finding(Reason.CHILDREN_UNREAD, unread))
    if not said and observed.unreadable:
        unreadable = (
            f"ConfigMap {name} holds no record that can be read, and counts for nothing: {why}; "
            f"kubectl delete configmap {name}"
            for name, why in sorted(observed.unreadable.items())
        )
        return ChildrenTold(_finding(Reason.RECORD_UNREADABLE, unreadable))
    if not said:
        return ChildrenTold()
    blamed = any(isinstance(item.error, InvalidError) and not _hands(observed, item) for item in said)
    words = (_refused(observed, item) for item in said)
    return ChildrenTold(_finding(Reason.CHILD_REFUSED, words), blames_spec=blamed)


def _finding(reason: Reason, words: Iterable[str]) -> Finding:
    listed = list(dict.fromkeys(words))
    more = f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return Finding(Type.DEGRADED, "True", reason, "; ".join(listed[:SHOWN]) + more)


def _of_a_namesake(observed: Observed, item: Manifest) -> bool:
    """Return whether an object is left of an earlier resource of this name: the garbage collector deletes it."""
    owner = pods.controller_of(item) or {}
    return owner.get("kind") == names.KIND and owner.get("name") == observed.name


def _conflict(observed: Observed, item: Manifest) -> str:
    kind, name = item["kind"], item["metadata"]["name"]
    owner = pods.controller_of(item)
    if owner is None:
        return (
            f"{kind} {name} exists and no resource controls it, so it is left alone: delete it "
            f"(kubectl delete {kind.lower()} {name}) or give this resource another name"
        )
    if _of_a_namesake(observed, item):
        return (
            f"{kind} {name} is left of an earlier {observed.name} (uid {owner.get('uid')}): the garbage collector "
            f"deletes it; if it does not, kubectl delete {kind.lower()} {name}"
        )
    return (
        f"{kind} {name} belongs to {owner.get('kind')} {owner.get('name')}, so it is left alone: give one of the two "
        "another name"
    )


def _hands(observed: Observed, item: Undone) -> list[str]:
    """Return who else has written to a child that is there."""
    live = observed.children.get(item.action.about)
    fields = [] if live is None else live["metadata"].get("managedFields") or []
    return sorted(
        {
            str(entry.get("manager"))
            for entry in fields
            if entry.get("manager") not in OUR_OWN and not entry.get("subresource")
        }
    )


def _refused(observed: Observed, item: Undone) -> str:
    kind, name = item.action.about
    words = f"the API server refuses {kind} {name}: {item.error.words if item.error else ''}"
    if not isinstance(item.error, InvalidError):
        return words
    hands = _hands(observed, item)
    if hands and kind in DELETE:
        remedy = DELETE[kind].format(name=name)
        return f"{words}; {', '.join(hands)} changed it by hand: {remedy}, and it is made anew"
    return f"{words}; correct the field of the resource that this comes from"
