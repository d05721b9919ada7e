"""Whether there is a place for a pod: the rules on their own, and the words.

tests/cluster/test_place.py holds the same against the real kube-scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detinf.api.validation import validate
from detinf.controller import builders
from detinf.controller.builders.pod import pod_spec
from detinf.controller.place import no_place, not_read
from detinf.controller.settings import OperatorSettings

ROOT = Path(__file__).resolve().parents[4]
NPU = "huawei.com/Ascend910"
CHIP = "node.kubernetes.io/npu.chip.name"
ZONE = "topology.kubernetes.io/zone"
ENGINE = {"app": "engine"}
Json = dict[str, Any]


def node(
    name: str = "a",
    labels: dict[str, str] | None = None,
    taints: Sequence[str] = (),
    ready: str = "True",
    amounts: Json | None = None,
    **spec: Any,
) -> Json:
    """Return a node; a taint is key=value:effect, as kubectl takes it."""
    split = [(*taint.partition(":")[0].partition("=")[::2], taint.partition(":")[2]) for taint in taints]
    spec["taints"] = [
        {"key": key, "effect": effect} | ({"value": value} if value else {}) for key, value, effect in split
    ]
    allocatable = {"cpu": "8", "memory": "64Gi", "pods": "20", NPU: "8"} | (amounts or {})
    conditions = [{"type": "Ready", "status": ready}]
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec,
        "status": {"allocatable": allocatable, "conditions": conditions},
    }


def container(**requests: str) -> Json:
    return {
        "name": "engine",
        "resources": {"requests": {NPU if key == "npu" else key: requests[key] for key in requests}},
    }


def template(*containers: Json, labels: dict[str, str] | None = None, **spec: Any) -> Json:
    return {"metadata": {"labels": labels or {}}, "spec": {"containers": list(containers)} | spec}


def pod(name: str, *containers: Json, on: str | None = "a", status: Json | None = None, **spec: Any) -> Json:
    bound = {"nodeName": on} if on else {}
    metadata = {"name": name, "namespace": "ours", "uid": name}
    return {"metadata": metadata, "spec": {"containers": list(containers)} | spec | bound, "status": status or {}}


def away(selector: Json | None, **term: Any) -> Json:
    terms = [{"labelSelector": selector, "topologyKey": ZONE} | term]
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


EIGHT, FOUR = container(npu="8"), container(npu="4")
B3, A3 = {CHIP: "910B3"}, {CHIP: "910A3"}
PORT: Json = {"name": "a", "ports": [{"hostPort": 80}]}
ALL: Json = {}
EVERYTHING = [{"operator": "Exists"}]
OLD = pod("old", EIGHT)
LOWER = "lower spec.parallelism.tensor or spec.engine.resources"
LABEL = "correct spec.topology and spec.scheduling.nodeSelector, or label a node"


@pytest.mark.parametrize(
    ("wanted", "nodes", "running"),
    [
        (template(), [node()], []),
        (template(EIGHT), [node()], [OLD]),
        (template(EIGHT, nodeSelector=B3), [node("b"), node("a", B3)], [OLD]),
        (template(EIGHT), [node()], [pod("done", EIGHT, status={"phase": "Succeeded"})]),
        (template(EIGHT), [node()], [pod("waits", EIGHT, on=None, status={"phase": "Pending"})]),
        (template(EIGHT), [node()], [pod("elsewhere", EIGHT, on="gone")]),
        (template(), [node(taints=["npu=yes:PreferNoSchedule"])], []),
        (template(), [node(taints=["node.kubernetes.io/not-ready:NoExecute"])], []),
        (template(tolerations=EVERYTHING), [node(taints=["npu=yes:NoSchedule"], unschedulable=True)], []),
        (template(container(npu="0")), [node(amounts={NPU: "0"})], []),
        (template(container(npu="0")), [node(amounts={NPU: "0"})], [pod("overcommitted", FOUR)]),
        (template(nodeName="a"), [node("a"), node("b")], []),
        (template(), [node(amounts={"pods": "2"})], [pod("other")]),
        (template(PORT), [node()], [pod("other", EIGHT)]),
        (template(labels=ENGINE), [node("a", {ZONE: "x"}), node("b", {ZONE: "y"})], [pod("other", **away(ALL))]),
        (template(labels=ENGINE), [node("a", {ZONE: "x"})], [pod("other", **away(None))]),
    ],
    ids=str,
)
def test_node_that_takes_the_pod_is_a_place(wanted: Json, nodes: list[Json], running: list[Json]) -> None:
    assert no_place(wanted, OLD, nodes, running) is None


@pytest.mark.parametrize(
    ("wanted", "nodes", "running", "reasons", "remedy"),
    [
        (template(), [], [], "no nodes available to schedule pods", "add a node"),
        (
            template(EIGHT, nodeSelector={CHIP: "910Z"}),
            [node("a", B3), node("b", A3), node("c")],
            [OLD],
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector",
            f"no node has {CHIP}=910Z (they have 910A3, 910B3); {LABEL}",
        ),
        (
            template(nodeSelector={CHIP: "910Z"}),
            [node()],
            [],
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector",
            f"no node has {CHIP}=910Z (none has that label); {LABEL}",
        ),
        (
            template(nodeSelector=B3 | {ZONE: "b"}),
            [node("a", B3 | {ZONE: "a"}), node("b", A3 | {ZONE: "b"})],
            [],
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector",
            f"no node has all of {CHIP}=910B3, {ZONE}=b; {LABEL}",
        ),
        (
            # Nodes for other chips are full too, and no help.
            template(EIGHT, nodeSelector=B3),
            [node("a", B3), node("b", A3), node("c", A3)],
            [pod("other", FOUR)],
            f"0/3 nodes are available: 1 Insufficient {NPU}, 2 node(s) didn't match Pod's node affinity/selector",
            f"free some {NPU}, add nodes, or {LOWER}",
        ),
        (
            template(container(npu="16")),
            [node("a"), node("b", amounts={NPU: "4"})],
            [],
            f"0/2 nodes are available: 2 Insufficient {NPU}",
            f"16 {NPU} are asked of one node and none has more than 8: {LOWER}",
        ),
        (
            template(container(npu="1")),
            [node(amounts={NPU: "0"}), node() | {"status": {"allocatable": {"cpu": "1", "pods": "9"}}}],
            [],
            f"0/2 nodes are available: 2 Insufficient {NPU}",
            f"1 {NPU} are asked of one node and none has more than 0: {LOWER}",
        ),
        (
            template(container(memory="65Gi")),
            [node()],
            [],
            "0/1 nodes are available: 1 Insufficient memory",
            f"no node has so much memory: {LOWER}",
        ),
        (
            template(),
            [node("a", taints=["npu=yes:NoSchedule"]), node("b", taints=["x:NoExecute", "npu=yes:NoSchedule"])],
            [],
            "0/2 nodes are available: 2 node(s) had untolerated taint(s)",
            "tolerate npu=yes:NoSchedule, x:NoExecute in spec.scheduling.tolerations, or take the taints from a node",
        ),
        (
            # What is wrong with a node is nothing to tolerate.
            template(),
            [node(taints=["npu:NoSchedule"]), node(taints=["node.kubernetes.io/not-ready:NoSchedule"], ready="False")],
            [],
            "0/2 nodes are available: 2 node(s) had untolerated taint(s)",
            "tolerate npu:NoSchedule in spec.scheduling.tolerations, or take the taints from a node",
        ),
        (
            template(),
            [node(taints=["node.kubernetes.io/not-ready:NoSchedule"], ready="False")],
            [],
            "0/1 nodes are available: 1 node(s) had untolerated taint(s)",
            "mend the nodes that have the taint node.kubernetes.io/not-ready:NoSchedule",
        ),
        (
            template(tolerations=EVERYTHING),
            [node(ready="Unknown")],
            [],
            "0/1 nodes are available: 1 node(s) were not ready",
            "mend a node, or add one",
        ),
        (
            template(),
            [node(unschedulable=True)],
            [],
            "0/1 nodes are available: 1 node(s) were unschedulable",
            "uncordon a node",
        ),
        (
            template(),
            [node(amounts={"pods": "1"})],
            [pod("other")],
            "0/1 nodes are available: 1 Too many pods",
            "free a node of some pods, or add nodes",
        ),
        (
            template(nodeName="b"),
            [node()],
            [],
            "0/1 nodes are available: 1 node(s) didn't match the requested node name",
            "no node has the name that the pod asks for",
        ),
        (
            template(PORT),
            [node()],
            [pod("other", {"name": "a", "ports": [{"hostPort": 80, "hostIP": "10.0.0.1", "protocol": "TCP"}]})],
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports",
            "free the node's port",
        ),
        (
            template(labels=ENGINE),
            [node(labels={ZONE: "z"})],
            [pod("other", **away({"matchLabels": ENGINE}))],
            "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules",
            "another pod's podAntiAffinity keeps it away: change that pod, or add nodes",
        ),
        (
            template(FOUR),
            [node()],
            [pod("soon", container(npu="5"), on=None, status={"phase": "Pending", "nominatedNodeName": "a"})],
            f"0/1 nodes are available: 1 Insufficient {NPU}",
            f"free some {NPU}, add nodes, or {LOWER}",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_no_node_is_told_with_what_would_help(
    wanted: Json, nodes: list[Json], running: list[Json], reasons: str, remedy: str
) -> None:
    assert no_place(wanted, OLD, nodes, running) == f"{reasons}; {remedy}"


def test_another_scheduler_is_known_by_labels_taints_and_devices_alone() -> None:
    wanted = template(EIGHT, schedulerName="volcano")
    assert no_place(wanted, None, [node()], []) is None
    found = no_place(wanted, None, [node()], [OLD])
    assert found is not None
    assert found.startswith(f"0/1 nodes are available: 1 Insufficient {NPU}; ")
    assert found.endswith("; what volcano itself asks of a node is not known here")
    assert "not known" not in str(no_place(template(EIGHT, schedulerName="default-scheduler"), None, [], []))


def test_words_stay_while_other_pods_come_and_go() -> None:
    """Each change of them is a write of the status."""
    wanted, nodes = template(EIGHT, container(cpu="6")), [node("a"), node("b")]
    seen = {
        no_place(
            wanted, None, nodes, [pod("x", container(npu=npu, cpu=cpu)), pod("y", container(npu="1", cpu="4"), on="b")]
        )
        for npu in ("1", "2", "7")
        for cpu in ("3", "8")
    }
    assert len(seen) == 1


def test_place_that_the_old_pod_leaves_is_not_there_without_it() -> None:
    assert no_place(template(EIGHT), OLD, [node()], [OLD]) is None
    assert no_place(template(EIGHT), None, [node()], [OLD]) is not None
    assert no_place(template(EIGHT), pod("old", EIGHT, on="b"), [node()], [pod("other", FOUR)]) is not None


def test_pod_that_ends_holds_its_devices_until_it_is_gone() -> None:
    ends = pod("ends", FOUR)
    ends["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert f"Insufficient {NPU}" in str(no_place(template(EIGHT), None, [node()], [ends]))


@pytest.mark.parametrize(
    ("term", "namespace", "is_place"),
    [
        ({}, "ours", False),
        ({}, "theirs", True),
        ({}, None, False),
        ({"namespaces": ["theirs"]}, "ours", True),
        ({"namespaces": ["theirs"]}, "theirs", False),
        ({"namespaceSelector": {}}, "theirs", False),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ours"}}}, "ours", False),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ours"}}}, "theirs", True),
        ({"namespaceSelector": {"matchLabels": {"team": "rl"}}}, "ours", False),
    ],
)
def test_pod_that_wants_no_other_beside_it_means_its_namespaces_and_those_that_are_not_known(
    term: Json, namespace: str | None, is_place: bool
) -> None:
    jealous = pod("jealous", **away({"matchLabels": ENGINE}, **term))
    wanted = template(labels=ENGINE)
    found = no_place(wanted, None, [node(labels={ZONE: "z"})], [jealous], namespace=namespace)
    assert (found is None) == is_place
    assert no_place(template(), None, [node(labels={ZONE: "z"})], [jealous], namespace=namespace) is None
    assert no_place(wanted, None, [node()], [jealous], namespace=namespace) is None
    # The pod that is replaced says it, too.
    old = pod("old")
    old["metadata"] |= {"namespace": namespace} if namespace else {}
    told = no_place(wanted, old, [node(labels={ZONE: "z"})], [jealous], namespace="ours" if namespace else None)
    assert (told is None) == is_place


@pytest.mark.parametrize(("count", "more"), [(3, False), (4, True)])
def test_only_some_of_many_are_named(count: int, more: bool) -> None:
    nodes = [node(str(index), {CHIP: f"chip-{index}"}) for index in range(count)]
    found = str(no_place(template(nodeSelector={CHIP: "910Z"}), None, nodes, []))
    assert f"(they have chip-0, chip-1, chip-2{' and others' if more else ''})" in found


def test_overhead_of_a_runtime_is_known_from_the_pod_that_has_it() -> None:
    old = pod("old", runtimeClassName="ascend", overhead={"cpu": "1"})
    wanted = template(container(cpu="8"), runtimeClassName="ascend")
    assert "Insufficient cpu" in str(no_place(wanted, old, [node()], [old]))
    assert no_place(template(container(cpu="8"), runtimeClassName="other"), old, [node()], [old]) is None
    assert no_place(template(container(cpu="8")), old, [node()], [old]) is None


def test_amount_that_is_none_is_an_error_and_no_place() -> None:
    with pytest.raises(ValueError, match="'lots' is no quantity"):
        no_place(template(container(cpu="1")), None, [node(amounts={"cpu": "lots"})], [])


def test_nodes_that_cannot_be_read_are_told_with_the_right_and_the_value() -> None:
    words = not_read('nodes is forbidden: User "x" cannot list resource "nodes" at the cluster scope.')
    assert words == (
        'nodes cannot be read: nodes is forbidden: User "x" cannot list resource "nodes" at the cluster scope; grant '
        "list of nodes and of all pods to the operator's account, as the chart does, or set the chart's "
        "topology.readNodes to false: then pods are replaced without a look at nodes"
    )


AMOUNTS = st.sampled_from(["0", "1", "3", "4", "8"])
CROWDS = st.lists(st.builds(lambda npu, on: (container(npu=npu), on), AMOUNTS, st.sampled_from(["a", "b"])), max_size=4)
TWO_NODES = st.builds(
    lambda label, taint, cordoned: [
        node("a", B3 if label else {}),
        node("b", taints=["npu=yes:NoSchedule"] if taint else [], unschedulable=cordoned),
    ],
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
WANTED = st.builds(
    lambda npu, label, tolerations: template(
        container(npu=npu), nodeSelector=B3 if label else {}, tolerations=tolerations
    ),
    AMOUNTS,
    st.booleans(),
    st.sampled_from([[], EVERYTHING]),
)


@given(WANTED, TWO_NODES, CROWDS)
def test_one_pod_less_one_node_more_and_every_toleration_never_take_a_place_away(
    wanted: Json, nodes: list[Json], crowd: list[tuple[Json, str]]
) -> None:
    running = [pod(str(index), given, on=on) for index, (given, on) in enumerate(crowd)]
    if no_place(wanted, None, nodes, running) is None:
        assert no_place(wanted, None, nodes, running[1:]) is None
        assert no_place(wanted, None, [*nodes, node("c", A3)], running) is None
        tolerant = wanted | {"spec": wanted["spec"] | {"tolerations": EVERYTHING}}
        assert no_place(tolerant, None, nodes, running) is None
    for gone in running:
        # To replace a pod is what it is to have it gone.
        rest = [item for item in running if item is not gone]
        assert no_place(wanted, gone, nodes, running) == no_place(wanted, None, nodes, rest, namespace="ours")


NOT_LOOKED_AT = {"topologySpreadConstraints", "resourceClaims", "schedulingGates", "hostNetwork", "affinity"}
"""Of what kube-scheduler goes by in a pod; an affinity for nodes is looked at, and one for pods is not."""
SETTINGS = OperatorSettings(
    probe_image="probe:1",
    default_profile="simulated",
    profile_images={"vllm-cpu-0.32": "cpu:1"},
    host_path_prefixes=("/",),
)


@pytest.mark.parametrize("path", sorted((ROOT / "tests/fixtures/resources").glob("*.yaml")), ids=lambda path: path.stem)
def test_pods_that_are_built_ask_for_nothing_that_is_not_looked_at(path: Path) -> None:
    resource = yaml.safe_load(path.read_text(encoding="utf-8"))
    resource["metadata"] |= {"namespace": "ours", "uid": "x"}
    spec, _ = validate(resource, SETTINGS.rules())
    assert spec is not None
    made = pod_spec(resource, spec, builders.plan_for(spec, SETTINGS), SETTINGS)
    assert made["containers"]
    assert NOT_LOOKED_AT & made.keys() == set()
