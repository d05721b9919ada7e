"""What the real kube-scheduler makes of pods on nodes that are objects alone, and what ``no_place`` says beforehand.

Cases share one cluster: each has nodes of its own, which carry its label, and a taint that keeps everybody else's pods
away; its pod asks for that label and tolerates that taint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detinf.controller.place import no_place

Ask = Callable[..., tuple[int, dict[str, Any]]]
Json = dict[str, Any]

CASE = "test.detinf.io/case"
ALONE: Json = {"key": "test.detinf.io/alone", "operator": "Exists"}
NPU = "huawei.com/Ascend910"
ZONE = "topology.kubernetes.io/zone"
KUBERNETES = "node.kubernetes.io/"
BY_CONDITION = {
    ("Ready", "False"): "not-ready",
    ("Ready", "Unknown"): "unreachable",
    ("MemoryPressure", "True"): "memory-pressure",
}
"""Taints that the node lifecycle controller makes of conditions; those of NoExecute come later, one node in 10 s."""
LIMIT = 90


@dataclass(frozen=True)
class Case:
    """Nodes, pods on them, and a pod that is to come."""

    nodes: Sequence[Json]
    template: Json
    pods: Sequence[Json] = ()
    replaced: int | None = None
    """Which of the pods goes before the new one comes."""
    differs: str = ""
    """Why ``no_place`` finds none where kube-scheduler does; never the other way round."""
    other_words: str = ""
    """Why it says it with other words than kube-scheduler."""


@dataclass(frozen=True)
class Verdict:
    """What both said of one case."""

    case: Case
    ours: str | None
    theirs: str | None
    """kube-scheduler's message; None where it found a node."""

    def disagreement(self) -> str:
        """Return how they disagree; empty where they do not, or not but for what the case lists."""
        if self.theirs is not None and self.ours is None:
            return f"DANGER: a place is promised, and there is none: {self.theirs}"
        if (self.theirs is None) != (self.ours is None):
            return "" if self.case.differs else f"kube-scheduler has a place, and we say: {self.ours}"
        if self.case.differs:
            return f"they agree by now, so this is no reason any more: {self.case.differs}"
        if self.ours is None or self.theirs is None or self.case.other_words:
            return ""
        told, ours = self.theirs.partition(". ")[0].rstrip("."), self.ours.partition("; ")[0]
        return "" if told == ours else f"kube-scheduler says {told!r}, and we {ours!r}"


def node(
    *,
    labels: dict[str, str] | None = None,
    taints: Sequence[Json] = (),
    cordoned: bool = False,
    conditions: dict[str, str] | None = None,
    **allocatable: str,
) -> Json:
    """Return a node with 8 CPUs, 64 GiB, 8 NPUs and 20 pods, or what is given; ``npu`` and ``storage`` are short."""
    amounts = {"cpu": "8", "memory": "64Gi", "pods": "20", "npu": "8"} | allocatable
    names = {"npu": NPU, "storage": "ephemeral-storage", "huge": "hugepages-2Mi"}
    amounts = {names.get(name, name): amount for name, amount in amounts.items() if amount}
    told = {"Ready": "True"} | (conditions or {})
    spec: Json = {"taints": list(taints)} | ({"unschedulable": True} if cordoned else {})
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [_condition(*item) for item in told.items()]}
    return {"metadata": {"labels": labels or {}}, "spec": spec, "status": status}


def _condition(kind: str, status: str) -> Json:
    return {"type": kind, "status": status, "reason": "Test", "message": ""}


def container(name: str = "engine", limits: Json | None = None, **requests: str) -> Json:
    """Return a container with requests; ``npu`` is short, and devices have limits too, as Kubernetes wants it."""
    amounts = {{"npu": NPU, "storage": "ephemeral-storage"}.get(key, key): value for key, value in requests.items()}
    devices = {key: value for key, value in amounts.items() if "/" in key}
    resources = {"requests": amounts, "limits": devices | (limits or {})}
    return {"name": name, "image": "none", "resources": {key: value for key, value in resources.items() if value}}


def template(*containers: Json, labels: dict[str, str] | None = None, **spec: Any) -> Json:
    """Return a pod's template; without containers, one that asks for nothing."""
    return {"metadata": {"labels": labels or {}}, "spec": {"containers": list(containers) or [container()]} | spec}


def pod(
    on: int,
    *containers: Json,
    labels: dict[str, str] | None = None,
    status: Json | None = None,
    ends: bool = False,
    **spec: Any,
) -> Json:
    """Return a pod on one of the case's nodes, with the status that a kubelet would write; ``ends``: it terminates."""
    return template(*containers, labels=labels, **spec) | {"on": on, "status": status or {}, "ends": ends}


def affinity(*terms: Json) -> Json:
    """Return a required affinity for nodes, of terms that are alternatives."""
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


def expression(key: str, operator: str, *values: str) -> Json:
    """Return a term of one requirement of labels."""
    return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": list(values)} if values else {})]}


def named(operator: str, value: str) -> Json:
    """Return a term about the node's name; ``NODE0`` is that of the case's first."""
    return {"matchFields": [{"key": "metadata.name", "operator": operator, "values": [value]}]}


def away(selector: Json | None, key: str = "kubernetes.io/hostname", **term: Any) -> Json:
    """Return a required anti-affinity for pods."""
    terms = [{"labelSelector": selector, "topologyKey": key} | term]
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def port(number: int, **more: str) -> Json:
    """Return a container with a port of the node."""
    return container() | {"ports": [{"containerPort": number, "hostPort": number} | more]}


def sidecar(**requests: str) -> Json:
    """Return a native sidecar."""
    return container("probe", **requests) | {"restartPolicy": "Always"}


def resized(requests: Json, **more: Any) -> Json:
    """Return the status of a pod whose engine has these requests, whatever its spec says by now."""
    named = {"name": "engine", "image": "none", "imageID": "", "ready": True, "restartCount": 0}
    held = {"resources": {"requests": requests}, "allocatedResources": requests}
    return {"phase": "Running", "containerStatuses": [named | held]} | more


@dataclass
class Scheduling:
    """Cases, held against the scheduler in one go."""

    ask: Ask
    namespace: str
    made: list[str] = field(default_factory=list)
    count: int = 0

    def verdicts(self, cases: Sequence[Case]) -> list[Verdict]:
        """Return what both say of each case; nodes and pods are gone afterwards."""
        try:
            return self._verdicts(cases)
        finally:
            self._clear()

    def _verdicts(self, cases: Sequence[Case]) -> list[Verdict]:
        self.until(self._has_account)
        names = [self._make_nodes(case) for case in cases]
        occupants = [self._make_pods(case, mine) for case, mine in zip(cases, names, strict=True)]
        self.until(self._are_settled)
        self._let_the_scheduler_see()
        nodes, running = self._items("nodes"), self._items("pods")
        by_uid = {item["metadata"]["uid"]: item for item in running}
        ours, subjects = [], []
        for case, mine, uids in zip(cases, names, occupants, strict=True):
            wanted = self._wanted(case, mine)
            replaced = None if case.replaced is None else by_uid[uids[case.replaced]]
            ours.append(no_place(wanted, replaced, nodes, running, namespace=self.namespace))
            if replaced is not None:
                self._delete(f"/api/v1/namespaces/{self.namespace}/pods/{replaced['metadata']['name']}")
            subjects.append(wanted)
        created = [self._create_pod(subject)["metadata"]["name"] for subject in subjects]
        told: dict[str, str | None] = {}

        def all_told() -> bool:
            told.update(self._told())
            return set(created) <= told.keys()

        self.until(all_told)
        assert self._rules(self._items("nodes")) == self._rules(nodes), "nodes changed meanwhile: nothing is shown"
        return [Verdict(case, mine, told[name]) for case, mine, name in zip(cases, ours, created, strict=True)]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for another process' state, which can only be asked for again."""
        limit = time.monotonic() + LIMIT
        while not holds():
            assert time.monotonic() < limit, f"{getattr(holds, '__name__', holds)} never came"
            time.sleep(0.1)

    def _request(self, method: str, path: str, body: Json | None = None) -> Json:
        status, answer = self.ask(method, path, body)
        assert status < 300, (method, path, answer)
        return answer

    def _items(self, plural: str) -> list[Json]:
        return list(self._request("GET", f"/api/v1/{plural}")["items"])

    def _has_account(self) -> bool:
        return self.ask("GET", f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default")[0] == 200

    def _make_nodes(self, case: Case) -> list[str]:
        self.count += 1
        label = f"{self.namespace}-{self.count}"
        alone = {"key": ALONE["key"], "effect": "NoSchedule"}
        names = []
        for index, given in enumerate(case.nodes):
            # Two cases have no zone in common, since pods of one would keep the other's away.
            labels = {key: f"{label}-{it}" if key == ZONE else it for key, it in given["metadata"]["labels"].items()}
            metadata = {"name": f"{label}-{index}", "labels": labels | {CASE: label}}
            spec = given["spec"] | {"taints": [*given["spec"]["taints"], alone]}
            self._make_node(given | {"metadata": metadata, "spec": spec})
            names.append(metadata["name"])
        return names

    def _make_node(self, manifest: Json) -> None:
        """Make a node; one that is ready does not wait for the controller that takes the taint of new ones away."""
        self._request("POST", "/api/v1/nodes", manifest)
        self.made.append(manifest["metadata"]["name"])
        if _ready(manifest) == "True":
            self._request("PUT", f"/api/v1/nodes/{manifest['metadata']['name']}", manifest)

    def _make_pods(self, case: Case, names: Sequence[str]) -> list[str]:
        """Bind the case's pods to their nodes, and return their uids."""
        uids = []
        for given in case.pods:
            # They stay, whatever the node's taints: nothing is to change while it is looked at.
            bound = {"nodeName": names[given["on"]], "tolerations": [{"operator": "Exists"}]}
            made = self._create_pod(given | {"spec": given["spec"] | bound})
            path = f"/api/v1/namespaces/{self.namespace}/pods/{made['metadata']['name']}"
            if given["status"]:
                self._request("PUT", f"{path}/status", made | {"status": given["status"]})
            if given["ends"]:
                self._request("DELETE", path, {"gracePeriodSeconds": 3600})
            uids.append(made["metadata"]["uid"])
        return uids

    def _create_pod(self, given: Json) -> Json:
        self.count += 1
        metadata = {"name": f"pod-{self.count}", "labels": given["metadata"]["labels"]}
        spec = {"automountServiceAccountToken": False} | given["spec"]
        return self._request("POST", f"/api/v1/namespaces/{self.namespace}/pods", {"metadata": metadata, "spec": spec})

    def _wanted(self, case: Case, names: Sequence[str]) -> Json:
        """Return the case's template as one for its own nodes; ``NODE0`` in it is the first one's name."""
        spec = dict(case.template["spec"])
        label = names[0].rpartition("-")[0]
        spec["nodeSelector"] = spec.get("nodeSelector", {}) | {CASE: label}
        spec["tolerations"] = [*spec.get("tolerations", []), ALONE]
        return {"metadata": case.template["metadata"], "spec": _filled(spec, names[0])}

    def _are_settled(self) -> bool:
        """Return whether the node lifecycle controller has made taints of conditions, and no others are left."""
        for item in self._items("nodes"):
            told = {(one["type"], one["status"]) for one in item["status"].get("conditions", [])}
            wanted = {KUBERNETES + BY_CONDITION[one] for one in told & BY_CONDITION.keys()}
            if item["spec"].get("unschedulable"):
                wanted.add(f"{KUBERNETES}unschedulable")
            if {one["key"] for one in _taints(item) if one["key"].startswith(KUBERNETES)} != wanted:
                return False
        return True

    def _let_the_scheduler_see(self) -> None:
        """Wait until the scheduler has seen all nodes: it binds a pod to the one that was made after them."""
        seen = node()
        seen["metadata"] = {"name": f"{self.namespace}-seen", "labels": {"test.detinf.io/last": self.namespace}}
        seen["spec"]["taints"] = [{"key": ALONE["key"], "effect": "NoSchedule"}]
        self._make_node(seen)
        sentinel = template(nodeSelector=seen["metadata"]["labels"], tolerations=[ALONE])
        name = self._create_pod(sentinel)["metadata"]["name"]
        self.until(lambda: self._told().get(name, "") is None)
        self.until(self._are_settled)

    def _told(self) -> dict[str, str | None]:
        """Return the scheduler's message by pod; None for one that has a node, and nothing for one not looked at."""
        told: dict[str, str | None] = {}
        for item in self._request("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]:
            said = next(
                (one for one in item["status"].get("conditions", []) if one["type"] == "PodScheduled"), {"status": ""}
            )
            if item["spec"].get("nodeName"):
                told[item["metadata"]["name"]] = None
            elif said["status"] == "False":
                told[item["metadata"]["name"]] = said["message"]
        return told

    def _rules(self, nodes: Sequence[Json]) -> dict[str, Json]:
        return {
            item["metadata"]["name"]: item["spec"] | {"taints": _taints(item), "ready": _ready(item)} for item in nodes
        }

    def _delete(self, path: str) -> None:
        self._request("DELETE", path, {"gracePeriodSeconds": 0})

    def _clear(self) -> None:
        self._delete(f"/api/v1/namespaces/{self.namespace}/pods")
        for name in self.made:
            self._delete(f"/api/v1/nodes/{name}")
        self.made.clear()


def _taints(item: Json) -> list[Json]:
    """Return a node's taints, without those that the node lifecycle controller adds later."""
    return [
        {key: value for key, value in one.items() if key != "timeAdded"}
        for one in item["spec"].get("taints", [])
        if not (one["key"].startswith(KUBERNETES) and one["effect"] == "NoExecute")
    ]


def _ready(item: Json) -> str:
    return next(one["status"] for one in item["status"]["conditions"] if one["type"] == "Ready")


def _filled(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, name) for item in value]
    return name if value == "NODE0" else value
