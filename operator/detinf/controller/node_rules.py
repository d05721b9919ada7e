"""Which nodes a pod may be on: labels, taints, and the anti-affinity of the pods that are there.

The rules are those of kube-scheduler's plug-ins NodeAffinity, TaintToleration, NodeUnschedulable and InterPodAffinity
(Kubernetes 1.36), which tests/cluster/test_place.py holds these against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detinf.cluster.port import Manifest
from detinf.controller.pods import Pod

Labels = Mapping[str, str]
Taint = Mapping[str, Any]
Domain = tuple[str, str]
"""A label and its value: the nodes that have it."""

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
KEEPS_AWAY = ("NoSchedule", "NoExecute")
CORDON: Taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
KUBERNETES = "node.kubernetes.io/"
"""Taints by which Kubernetes itself says that something is wrong with a node."""
WAITED_OUT = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
"""Taints whose NoExecute every pod tolerates for a while: the admission plug-in DefaultTolerationSeconds adds it."""
NAMESPACE_NAME = "kubernetes.io/metadata.name"


def labels_of(item: Mapping[str, Any]) -> Labels:
    """Return the labels of an object or a template."""
    return (item.get("metadata") or {}).get("labels") or {}


def has_labels(spec: Mapping[str, Any], node: Manifest) -> bool:
    """Return whether a node is one of those that a pod's node selector and required node affinity ask for."""
    labels = labels_of(node)
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    if required is None:
        return True
    return any(_term_matches(term, node) for term in required.get("nodeSelectorTerms") or [])


def tolerations_of(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a pod's tolerations, with those that the API server adds to every pod."""
    given = list(spec.get("tolerations") or [])
    for key in WAITED_OUT:
        said = (
            item
            for item in given
            if item.get("key") in {None, "", key} and item.get("effect") in {None, "", "NoExecute"}
        )
        if not any(said):
            given.append({"key": key, "operator": "Exists", "effect": "NoExecute"})
    return given


def untolerated(node: Manifest, tolerations: Sequence[Mapping[str, Any]]) -> Taint | None:
    """Return a node's first taint that keeps a pod with these tolerations away."""
    taints = (node.get("spec") or {}).get("taints") or []
    return next((item for item in taints if item["effect"] in KEEPS_AWAY and not tolerates(tolerations, item)), None)


def tolerates(tolerations: Iterable[Mapping[str, Any]], taint: Taint) -> bool:
    """Return whether one of the tolerations is for the taint; operators that compare numbers are not known."""
    return any(
        item.get("effect") in {None, "", taint["effect"]}
        and item.get("key") in {None, "", taint["key"]}
        and (
            item.get("operator") == "Exists"
            or (item.get("operator") in {None, "", "Equal"} and (item.get("value") or "") == (taint.get("value") or ""))
        )
        for item in tolerations
    )


def spelled(taint: Taint) -> str:
    """Return a taint as kubectl takes it."""
    value = taint.get("value")
    return f"{taint['key']}{f'={value}' if value else ''}:{taint['effect']}"


def is_cordoned(node: Manifest, tolerations: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a node is unschedulable for a pod with these tolerations."""
    return bool((node.get("spec") or {}).get("unschedulable")) and not tolerates(tolerations, CORDON)


def repelled(labels: Labels, namespace: str | None, others: Iterable[tuple[Pod, Manifest]]) -> set[Domain]:
    """Return the parts of the cluster where a pod may not be, since pods there do not want it beside them.

    Args:
        labels: the pod's.
        namespace: the pod's; None where it is not known, and then it may be the one that is meant.
        others: pods, each with its node.
    """
    domains: set[Domain] = set()
    for other, node in others:
        for term in ((other["spec"].get("affinity") or {}).get("podAntiAffinity") or {}).get(REQUIRED) or []:
            key = term["topologyKey"]
            if key in labels_of(node) and _means(term, other, labels, namespace):
                domains.add((key, labels_of(node)[key]))
    return domains


def _term_matches(term: Mapping[str, Any], node: Manifest) -> bool:
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    named = {"metadata.name": node["metadata"]["name"]}
    return all(_meets(labels_of(node), item) for item in expressions) and all(
        len(item.get("values") or []) == 1 and item["operator"] in {"In", "NotIn"} and _meets(named, item)
        for item in fields
    )


def _meets(labels: Labels, requirement: Mapping[str, Any]) -> bool:
    """Return whether labels meet one requirement; one that makes no sense is met by none, as kube-scheduler has it."""
    operator, values = requirement["operator"], requirement.get("values") or []
    value = labels.get(requirement["key"])
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator not in {"Gt", "Lt"} or len(values) != 1:
        return False
    left, right = _integer(value), _integer(values[0])
    if left is None or right is None:
        return False
    return left > right if operator == "Gt" else left < right


def _integer(text: str | None) -> int | None:
    """Return a number that a label can hold and 64 bits can; None where it is none."""
    number = int(text) if text is not None and text.isdecimal() else None
    return number if number is not None and number < 2**63 else None


def _selects(selector: Mapping[str, Any] | None, labels: Labels) -> bool:
    """Return whether a label selector selects; an absent one selects nothing, and an empty one everything."""
    if selector is None:
        return False
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(_meets(labels, item) for item in selector.get("matchExpressions") or [])


def _means(term: Mapping[str, Any], other: Pod, labels: Labels, namespace: str | None) -> bool:
    """Return whether another pod's term means a pod with these labels."""
    if not _selects(term.get("labelSelector"), labels):
        return False
    names, selector = term.get("namespaces") or [], term.get("namespaceSelector")
    if selector is None and not names:
        names = [other["metadata"].get("namespace")]
    if namespace is None or namespace in names:
        return True
    if selector is None:
        return False
    keys = {*(selector.get("matchLabels") or {}), *(item["key"] for item in selector.get("matchExpressions") or [])}
    # Of a namespace's labels its name alone is known here; by any other it may be meant.
    return not keys <= {NAMESPACE_NAME} or _selects(selector, {NAMESPACE_NAME: namespace})
