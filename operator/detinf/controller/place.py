"""Whether the cluster has a place for a pod, before the one that it replaces is deleted.

What kube-scheduler asks of a node is asked here of all nodes, in its order and its words: is it cordoned, does the pod
tolerate its taints, has it the labels, are the ports free; are its devices, processors, memory and number of pods
enough, once the replaced pod is gone; and do the pods on it want the new one beside them. One thing more: a node that
is not ready is no place, even for a pod that tolerates everything. Pods that a scheduler has nominated for a node count
as if they were there.

Not looked at, each for a reason in docs/decisions/0021: where volumes can be attached; what admission adds to a pod;
devices that are claimed (DRA); preemption; what another scheduler than kube-scheduler asks beyond this; and who else
waits for the place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detinf.cluster.port import Manifest
from detinf.controller import node_rules, pods
from detinf.controller.node_rules import Domain, Labels
from detinf.controller.pod_requests import Port, allocatable, clash, host_ports, requested
from detinf.controller.pods import Pod

CORDONED = "node(s) were unschedulable"
OTHER_NAME = "node(s) didn't match the requested node name"
TAINTED = "node(s) had untolerated taint(s)"
UNLABELLED = "node(s) didn't match Pod's node affinity/selector"
PORTS = "node(s) didn't have free ports for the requested pod ports"
TOO_MANY = "Too many pods"
INSUFFICIENT = "Insufficient "
REPELLED = "node(s) didn't satisfy existing pods anti-affinity rules"
NOT_READY = "node(s) were not ready"
"""Ours: kube-scheduler goes by taints alone, and a new pod would not start there."""

DEFAULT_SCHEDULER = "default-scheduler"
FINISHED = ("Succeeded", "Failed")
NAMED = 3
"""So many labels, values or taints are named; the words go into a condition."""


def no_place(
    template: Mapping[str, Any],
    replaced: Pod | None,
    nodes: Sequence[Manifest],
    running: Sequence[Pod],
    *,
    namespace: str | None = None,
) -> str | None:
    """Return why no node takes a pod and what would help, in one sentence; None where at least one does.

    Args:
        template: the wanted pod: ``metadata.labels`` and ``spec``.
        replaced: the pod that goes before it comes, whose node gets back what it held; None where there is none.
        nodes: all nodes.
        running: all pods of the cluster; those that have ended or have no node hold nothing.
        namespace: the pod's, where ``replaced`` does not say it; unknown, it is the one that other pods' rules mean.

    Raises:
        ValueError: for a manifest with an amount that is no quantity.
    """
    wanted = _wanted(template, replaced, namespace)
    there: dict[str, list[Pod]] = defaultdict(list)
    for pod in running:
        if (name := _node_of(pod)) is not None and not _is_same(pod, replaced):
            there[name].append(pod)
    pairs = ((pod, node) for node in nodes for pod in there[node["metadata"]["name"]])
    repelled = node_rules.repelled(wanted.labels, wanted.namespace, pairs)
    against: list[tuple[Manifest, list[str]]] = []
    for node in nodes:
        reasons = _reasons(wanted, node, there[node["metadata"]["name"]], repelled)
        if not reasons:
            return None
        against.append((node, reasons))
    return "; ".join([_summary(against), *_help(wanted, against)])


def not_read(words: str) -> str:
    """Return what is said where nodes or pods could not be read: then no place is known, and nothing may go.

    Args:
        words: the API server's.
    """
    return (
        f"nodes cannot be read: {words.strip().rstrip('.;')}; grant list of nodes and of all pods to the operator's "
        "account, as the chart does, or set the chart's topology.readNodes to false: then pods are replaced without a "
        "look at nodes"
    )


@dataclass(frozen=True)
class _Wanted:
    """The pod that is to come, as admission makes it of its template, as far as that is known."""

    spec: Mapping[str, Any]
    labels: Labels
    namespace: str | None
    tolerations: list[Mapping[str, Any]]
    requests: Mapping[str, int]
    ports: set[Port]


def _wanted(template: Mapping[str, Any], replaced: Pod | None, namespace: str | None) -> _Wanted:
    spec = template["spec"]
    if replaced is not None:
        namespace = replaced["metadata"].get("namespace") or namespace
        if (runtime := spec.get("runtimeClassName")) and replaced["spec"].get("runtimeClassName") == runtime:
            # Admission writes a RuntimeClass' overhead into pods; their templates do not have it.
            spec = {"overhead": replaced["spec"].get("overhead")} | spec
    pod = {"spec": spec}
    return _Wanted(
        spec=spec,
        labels=node_rules.labels_of(template),
        namespace=namespace,
        tolerations=node_rules.tolerations_of(spec),
        requests=requested(pod),
        ports=host_ports(pod),
    )


def _node_of(pod: Pod) -> str | None:
    """Return the node of which a pod holds something; a pod that terminates does, until it is gone."""
    status = pod.get("status") or {}
    if status.get("phase") in FINISHED:
        return None
    return pod["spec"].get("nodeName") or status.get("nominatedNodeName") or None


def _is_same(pod: Pod, other: Pod | None) -> bool:
    return other is not None and pods.uid_of(pod) == pods.uid_of(other)


def _reasons(wanted: _Wanted, node: Manifest, there: Sequence[Pod], repelled: set[Domain]) -> list[str]:
    """Return why a node does not take the pod: what the first of kube-scheduler's filters that fails says."""
    if node_rules.is_cordoned(node, wanted.tolerations):
        return [CORDONED]
    if wanted.spec.get("nodeName") not in {None, "", node["metadata"]["name"]}:
        return [OTHER_NAME]
    if node_rules.untolerated(node, wanted.tolerations) is not None:
        return [TAINTED]
    if not node_rules.has_labels(wanted.spec, node):
        return [UNLABELLED]
    if wanted.ports and clash(wanted.ports, {port for pod in there for port in host_ports(pod)}):
        return [PORTS]
    if too_little := _too_little(wanted, node, there):
        return too_little
    if repelled and not repelled.isdisjoint(node_rules.labels_of(node).items()):
        return [REPELLED]
    return [] if pods.condition(node, "Ready").get("status") == "True" else [NOT_READY]


def _too_little(wanted: _Wanted, node: Manifest, there: Sequence[Pod]) -> list[str]:
    has = allocatable(node)
    taken: Counter[str] = Counter()
    for pod in there:
        taken.update(requested(pod))
    short = [name for name, asked in wanted.requests.items() if asked > 0 and asked > has.get(name, 0) - taken[name]]
    crowded = len(there) + 1 > has.get("pods", 0)
    return [*([TOO_MANY] if crowded else []), *(INSUFFICIENT + name for name in short)]


def _summary(against: Sequence[tuple[Manifest, list[str]]]) -> str:
    """Return what kube-scheduler would say."""
    if not against:
        return "no nodes available to schedule pods"
    counts = Counter(reason for _, reasons in against for reason in reasons)
    told = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    return f"0/{len(against)} nodes are available: {told}"


def _help(wanted: _Wanted, against: Sequence[tuple[Manifest, list[str]]]) -> list[str]:
    """Return what would help, in the resource's terms.

    It is about the nodes that have the labels: those for other chips are no help, whatever else is in the way there.
    The words hold no amounts that change as other pods come and go: each change is a write of the status.
    """
    meant = [(node, reasons) for node, reasons in against if node_rules.has_labels(wanted.spec, node)]
    if not against:
        words = ["add a node"]
    elif not meant:
        words = _about_labels(wanted, [node for node, _ in against])
    else:
        found = sorted({reason for _, reasons in meant for reason in reasons})
        words = [_about(reason, wanted, [node for node, reasons in meant if reason in reasons]) for reason in found]
    scheduler = wanted.spec.get("schedulerName") or DEFAULT_SCHEDULER
    if scheduler != DEFAULT_SCHEDULER:
        words.append(f"what {scheduler} itself asks of a node is not known here")
    return words


def _about(reason: str, wanted: _Wanted, nodes: Sequence[Manifest]) -> str:
    if reason.startswith(INSUFFICIENT):
        return _about_amounts(reason.removeprefix(INSUFFICIENT), wanted, nodes)
    if reason == TAINTED:
        return _about_taints(wanted, nodes)
    return PLAIN_HELP[reason]


PLAIN_HELP = {
    CORDONED: "uncordon a node",
    OTHER_NAME: "no node has the name that the pod asks for",
    PORTS: "free the node's port",
    TOO_MANY: "free a node of some pods, or add nodes",
    REPELLED: "another pod's podAntiAffinity keeps it away: change that pod, or add nodes",
    NOT_READY: "mend a node, or add one",
}


def _about_labels(wanted: _Wanted, nodes: Sequence[Manifest]) -> list[str]:
    selector: Mapping[str, str] = wanted.spec.get("nodeSelector") or {}
    seen = {key: {value for node in nodes if (value := node_rules.labels_of(node).get(key))} for key in selector}
    missing = [key for key, value in sorted(selector.items()) if value not in seen[key]]
    words = [
        f"no node has {key}={selector[key]} ({f'they have {_few(seen[key])}' if seen[key] else 'none has that label'})"
        for key in missing[:NAMED]
    ]
    if selector and not missing:
        words.append(f"no node has all of {', '.join(f'{key}={value}' for key, value in sorted(selector.items()))}")
    return [*words, "correct spec.topology and spec.scheduling.nodeSelector, or label a node"]


def _about_taints(wanted: _Wanted, nodes: Sequence[Manifest]) -> str:
    found = [taint for node in nodes if (taint := node_rules.untolerated(node, wanted.tolerations)) is not None]
    theirs = [taint for taint in found if not taint["key"].startswith(node_rules.KUBERNETES)]
    told = _few(node_rules.spelled(taint) for taint in theirs or found)
    if not theirs:
        return f"mend the nodes that have the taint {told}"
    return f"tolerate {told} in spec.scheduling.tolerations, or take the taints from a node"


def _about_amounts(name: str, wanted: _Wanted, nodes: Sequence[Manifest]) -> str:
    most = max(allocatable(node).get(name, 0) for node in nodes)
    asked = wanted.requests[name]
    lower = "lower spec.parallelism.tensor or spec.engine.resources"
    if asked <= most:
        return f"free some {name}, add nodes, or {lower}"
    if "/" in name:
        return f"{asked} {name} are asked of one node and none has more than {most}: {lower}"
    return f"no node has so much {name}: {lower}"


def _few(items: Iterable[str]) -> str:
    """Return some of the different items; which ones does not depend on their order."""
    different = sorted(set(items))
    return ", ".join(different[:NAMED]) + (" and others" if len(different) > NAMED else "")
