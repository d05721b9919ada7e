"""Whether there is a place for a pod: what is said beforehand, held against what the real kube-scheduler then does.

The nodes are objects without a kubelet. A promise that the scheduler does not keep is a failure, and so is a place that
it finds and we do not, unless the case says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scheduling import (
    NPU,
    ZONE,
    Ask,
    Case,
    Json,
    Scheduling,
    Verdict,
    affinity,
    away,
    container,
    expression,
    named,
    node,
    pod,
    port,
    resized,
    sidecar,
    template,
)

from detinf.api import names
from detinf.api.validation import validate
from detinf.controller import builders
from detinf.controller.settings import OperatorSettings

pytestmark = pytest.mark.cluster

RUNTIME = "costs-a-processor"
CHIP = "node.kubernetes.io/npu.chip.name"
A3, B3 = {CHIP: "910A3"}, {CHIP: "910B3"}
TAINT = {"key": "huawei-npu", "value": "yes", "effect": "NoSchedule"}
PREFERS = TAINT | {"effect": "PreferNoSchedule"}
EVICTS = {"key": "huawei-npu", "value": "yes", "effect": "NoExecute"}


PROFILE = {"profile": "vllm-ascend-0.23"}
NPUS = container(npu="8")
CASES = {
    "nothing asked": Case([node()], template()),
    # Labels.
    "chip that no node has": Case([node(labels=B3), node(labels=A3)], template(nodeSelector={CHIP: "910Z"})),
    "chip that one node has": Case([node(labels=B3), node(labels=A3)], template(nodeSelector=A3)),
    "label that is empty": Case([node(labels={"a": ""})], template(nodeSelector={"a": ""})),
    "label that is absent, asked for as empty": Case([node()], template(nodeSelector={"a": ""})),
    "in": Case([node(labels=B3)], template(**affinity(expression(CHIP, "In", "910A3", "910B3")))),
    "in, absent": Case([node()], template(**affinity(expression(CHIP, "In", "910A3")))),
    "not in": Case([node(labels=B3)], template(**affinity(expression(CHIP, "NotIn", "910A3")))),
    "not in, absent": Case([node()], template(**affinity(expression(CHIP, "NotIn", "910A3")))),
    "not in, and it is": Case([node(labels=B3)], template(**affinity(expression(CHIP, "NotIn", "910B3")))),
    "exists": Case([node(labels=B3)], template(**affinity(expression(CHIP, "Exists")))),
    "exists, absent": Case([node()], template(**affinity(expression(CHIP, "Exists")))),
    "does not exist": Case([node(labels=B3)], template(**affinity(expression(CHIP, "DoesNotExist")))),
    "does not exist, absent": Case([node()], template(**affinity(expression(CHIP, "DoesNotExist")))),
    "greater": Case([node(labels={"gen": "10"})], template(**affinity(expression("gen", "Gt", "9")))),
    "greater, equal": Case([node(labels={"gen": "10"})], template(**affinity(expression("gen", "Gt", "10")))),
    "less, beyond 64 bits": Case([node(labels={"gen": "1"})], template(**affinity(expression("gen", "Lt", "9" * 20)))),
    "less": Case([node(labels={"gen": "007"})], template(**affinity(expression("gen", "Lt", "8")))),
    "greater, no number": Case([node(labels={"gen": "x"})], template(**affinity(expression("gen", "Gt", "1")))),
    "one of two terms": Case(
        [node(labels=B3)], template(**affinity(expression(CHIP, "In", "910A3"), expression(CHIP, "Exists")))
    ),
    "a term that is empty": Case([node()], template(**affinity({}))),
    "selector and affinity": Case([node(labels=B3)], template(nodeSelector=B3, **affinity(expression("a", "Exists")))),
    "a node's name": Case([node(), node()], template(**affinity(named("In", "NODE0")))),
    "not a node's name": Case([node()], template(**affinity(named("NotIn", "NODE0")))),
    "a node's name that is none": Case(
        [node()],
        template(**affinity(named("In", "nobody"))),
        other_words="it names the plug-in that did not look at the others: didn't satisfy plugin(s) [NodeAffinity]",
    ),
    # Taints.
    "taint": Case([node(taints=[TAINT])], template()),
    "taint that only prefers": Case([node(taints=[TAINT | {"effect": "PreferNoSchedule"}])], template()),
    "taint that evicts": Case([node(taints=[EVICTS])], template()),
    "tolerated by value": Case(
        [node(taints=[TAINT])], template(tolerations=[{"key": "huawei-npu", "operator": "Equal", "value": "yes"}])
    ),
    "another value": Case([node(taints=[TAINT])], template(tolerations=[{"key": "huawei-npu", "value": "no"}])),
    "value left out": Case([node(taints=[TAINT])], template(tolerations=[{"key": "huawei-npu"}])),
    "tolerated by key": Case(
        [node(taints=[TAINT])], template(tolerations=[{"key": "huawei-npu", "operator": "Exists"}])
    ),
    "everything tolerated": Case([node(taints=[TAINT, EVICTS])], template(tolerations=[{"operator": "Exists"}])),
    "another effect": Case(
        [node(taints=[TAINT])], template(tolerations=[{"operator": "Exists", "effect": "NoExecute"}])
    ),
    "one of two taints": Case(
        [node(taints=[TAINT, EVICTS])], template(tolerations=[{"operator": "Exists", "effect": "NoSchedule"}])
    ),
    "cordoned": Case([node(cordoned=True)], template()),
    "cordoned and tolerated": Case(
        [node(cordoned=True)], template(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    ),
    "not ready": Case([node(conditions={"Ready": "False"})], template()),
    "unknown": Case([node(conditions={"Ready": "Unknown"})], template()),
    "not ready, and everything tolerated": Case(
        [node(conditions={"Ready": "False"})],
        template(tolerations=[{"operator": "Exists"}]),
        differs="the scheduler goes by taints alone; no pod starts on such a node",
    ),
    "little memory left": Case([node(conditions={"MemoryPressure": "True"})], template(container(memory="1Gi"))),
    # Devices.
    "more devices than a node has": Case([node(), node()], template(container(npu="16"))),
    "no device at all": Case([node(npu="")], template(container(npu="1"))),
    "all devices": Case([node()], template(NPUS)),
    "devices that another pod has": Case([node()], template(NPUS), [pod(0, container(npu="1"))]),
    "devices of one that ends": Case([node()], template(NPUS), [pod(0, NPUS, ends=True)]),
    "devices of one that succeeded": Case([node()], template(NPUS), [pod(0, NPUS, status={"phase": "Succeeded"})]),
    "devices of one that failed": Case([node()], template(NPUS), [pod(0, NPUS, status={"phase": "Failed"})]),
    "devices of the one that goes": Case([node()], template(NPUS), [pod(0, NPUS)], 0),
    "devices of the one that goes, on a node with another label": Case(
        [node(labels=B3), node(labels=A3)], template(NPUS, nodeSelector=A3), [pod(0, NPUS), pod(1, NPUS)], 0
    ),
    "more than the one that goes had": Case(
        [node()], template(NPUS), [pod(0, container(npu="4")), pod(0, container(npu="1"))], 0
    ),
    "devices of two containers": Case([node()], template(container("a", npu="4"), container("b", npu="5"))),
    "devices left on two nodes": Case(
        [node(), node()], template(NPUS), [pod(0, container(npu="4")), pod(1, container(npu="4"))]
    ),
    # Other resources, in every spelling.
    "processor": Case([node()], template(container(cpu="8001m"))),
    "processor, exactly": Case([node(cpu="8000m")], template(container(cpu="8"))),
    "processor, in parts": Case([node(cpu="1.5")], template(container(cpu="1500.5m"))),
    "memory": Case([node(memory="64G")], template(container(memory="64Gi"))),
    "memory, exactly": Case([node(memory="65536Mi")], template(container(memory="64Gi"))),
    "memory, by an exponent": Case([node(memory="64e9")], template(container(memory="64000000k"))),
    "memory, one byte too much": Case([node(memory="64e9")], template(container(memory="64000000001"))),
    "memory of thousandths": Case([node(memory="1500m")], template(container(memory="2"))),
    "storage": Case([node(storage="10Gi")], template(container(storage="11Gi"))),
    "storage that nobody counts": Case([node()], template(container(storage="1"))),
    "limits alone": Case([node()], template(container(limits={"memory": "65Gi"}))),
    "requests below limits": Case([node()], template(container(limits={"memory": "65Gi"}, memory="1Gi"))),
    "zero of a device": Case([node(npu="")], template(container(npu="0"))),
    "several are short": Case([node()], template(container(cpu="9", memory="65Gi", npu="9"))),
    "too many pods": Case([node(pods="1")], template(), [pod(0)]),
    "too many pods, and one goes": Case([node(pods="1")], template(), [pod(0)], 0),
    "too many pods and devices": Case([node(pods="1")], template(container(npu="9")), [pod(0)]),
    # The formula.
    "init container above all": Case([node()], template(initContainers=[container("install", cpu="9")])),
    "init container below": Case(
        [node()], template(container(cpu="8"), initContainers=[container("install", cpu="8")])
    ),
    "sidecar beside": Case([node()], template(container(cpu="8"), initContainers=[sidecar(cpu="1")])),
    "sidecar before an init container": Case(
        [node()], template(initContainers=[sidecar(cpu="1"), container("install", cpu="8")])
    ),
    "sidecar after an init container": Case(
        [node()], template(container(cpu="7"), initContainers=[container("install", cpu="8"), sidecar(cpu="1")])
    ),
    "sidecar of another pod": Case(
        [node()], template(container(cpu="7")), [pod(0, container(cpu="1"), initContainers=[sidecar(cpu="1")])]
    ),
    "request of the whole pod": Case([node()], template(container(cpu="1"), resources={"requests": {"cpu": "9"}})),
    "request of another whole pod": Case(
        [node()], template(container(cpu="1")), [pod(0, container(cpu="1"), resources={"requests": {"cpu": "8"}})]
    ),
    "shrinking pod": Case(
        [node()], template(container(cpu="5")), [pod(0, container(cpu="1"), status=resized({"cpu": "4"}))]
    ),
    "pod that cannot grow": Case(
        [node()],
        template(container(cpu="7")),
        [
            pod(
                0,
                container(cpu="8"),
                status=resized(
                    {"cpu": "1"}, conditions=[{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]
                ),
            )
        ],
    ),
    "overhead of its runtime": Case(
        [node()], template(container(cpu="8"), runtimeClassName=RUNTIME), [pod(0, runtimeClassName=RUNTIME)], 0
    ),
    "room for the overhead of its runtime": Case(
        [node()], template(container(cpu="7"), runtimeClassName=RUNTIME), [pod(0, runtimeClassName=RUNTIME)], 0
    ),
    "overhead of another pod's runtime": Case(
        [node()], template(container(cpu="8")), [pod(0, runtimeClassName=RUNTIME)]
    ),
    # Ports.
    "port that is free": Case([node()], template(port(8000)), [pod(0, port(8001))]),
    "port that is taken": Case([node()], template(port(8000)), [pod(0, port(8000))]),
    "port of another protocol": Case([node()], template(port(8000)), [pod(0, port(8000, protocol="UDP"))]),
    "port of another address": Case(
        [node()], template(port(8000, hostIP="10.0.0.1")), [pod(0, port(8000, hostIP="10.0.0.2"))]
    ),
    "port of every address": Case([node()], template(port(8000)), [pod(0, port(8000, hostIP="10.0.0.2"))]),
    "port of the one that goes": Case([node()], template(port(8000)), [pod(0, port(8000))], 0),
    # Other pods' rules.
    "repelled by a label": Case(
        [node(labels={ZONE: "a"}), node(labels={ZONE: "a"})],
        template(labels={"app": "engine"}),
        [pod(0, **away({"matchLabels": {"app": "engine"}}, ZONE))],
    ),
    "repelled elsewhere": Case(
        [node(labels={ZONE: "a"}), node(labels={ZONE: "b"})],
        template(labels={"app": "engine"}),
        [pod(0, **away({"matchLabels": {"app": "engine"}}, ZONE))],
    ),
    "repelled by the one that goes": Case(
        [node(labels={ZONE: "a"})],
        template(labels={"app": "engine"}),
        [pod(0, **away({"matchLabels": {"app": "engine"}}, ZONE))],
        0,
    ),
    "another label is repelled": Case(
        [node(labels={ZONE: "a"})],
        template(labels={"app": "engine"}),
        [pod(0, **away({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["engine"]}]}, ZONE))],
    ),
    "pods of another namespace are repelled": Case(
        [node(labels={ZONE: "a"})],
        template(labels={"app": "engine"}),
        [pod(0, **away({"matchLabels": {"app": "engine"}}, ZONE, namespaces=["kube-system"]))],
    ),
    "pods of every namespace are repelled": Case(
        [node(labels={ZONE: "a"})],
        template(labels={"app": "engine"}),
        [pod(0, **away({"matchLabels": {"app": "engine"}}, ZONE, namespaceSelector={}))],
    ),
    "pods of namespaces with a label are repelled": Case(
        [node(labels={ZONE: "a"})],
        template(labels={"app": "engine"}),
        [pod(0, **away({"matchLabels": {"app": "engine"}}, ZONE, namespaceSelector={"matchLabels": {"team": "rl"}}))],
        differs="labels of namespaces are not read: it may be this one",
    ),
}


@pytest.fixture(scope="module")
def runtime(ask: Ask) -> Iterator[None]:
    """A RuntimeClass that costs each pod one CPU."""
    path, overhead = "/apis/node.k8s.io/v1/runtimeclasses", {"podFixed": {"cpu": "1"}}
    assert ask("POST", path, {"metadata": {"name": RUNTIME}, "handler": "none", "overhead": overhead})[0] == 201
    yield
    assert ask("DELETE", f"{path}/{RUNTIME}")[0] == 200


@pytest.fixture
def scheduling(ask: Ask, namespace: str, runtime: None) -> Scheduling:
    assert runtime is None
    return Scheduling(ask, namespace)


def test_place_that_is_promised_is_found_and_one_that_is_not_is_not(scheduling: Scheduling) -> None:
    verdicts = dict(zip(CASES, scheduling.verdicts(list(CASES.values())), strict=True))
    assert {name: found for name, verdict in verdicts.items() if (found := verdict.disagreement())} == {}
    found = sum(verdict.theirs is None for verdict in verdicts.values())
    assert found >= 25
    assert len(verdicts) - found >= 25


LABELS = st.fixed_dictionaries(
    {}, optional={CHIP: st.sampled_from(["910A3", "910B3"]), "gen": st.sampled_from(["9", "10"])}
)
NODES = st.builds(
    node,
    labels=LABELS,
    taints=st.sampled_from([[], [], [PREFERS], [TAINT], [EVICTS], [TAINT, EVICTS]]),
    cordoned=st.sampled_from([False] * 7 + [True]),
    cpu=st.sampled_from(["2", "8", "8", "16000m"]),
    memory=st.sampled_from(["64Gi", "16e9"]),
    npu=st.sampled_from(["", "4", "8", "8"]),
    pods=st.sampled_from(["2", "20", "20"]),
)
AMOUNTS = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.sampled_from(["500m", "1", "2", "7.5"]),
        "memory": st.sampled_from(["1Gi", "15625000Ki", "60G"]),
        "npu": st.sampled_from(["1", "2", "4", "8"]),
    },
)
CONTAINERS = st.lists(st.builds(lambda amounts: container(**amounts), AMOUNTS), min_size=1, max_size=1)
INITIAL = st.lists(
    st.builds(
        lambda cpu, always: container(cpu=cpu) | ({"restartPolicy": "Always"} if always else {}),
        st.sampled_from(["1", "2"]),
        st.booleans(),
    ),
    max_size=2,
)
WISHES = st.sampled_from(
    [
        {},
        {},
        {"nodeSelector": B3},
        affinity(expression("gen", "Gt", "9")),
        affinity(expression(CHIP, "NotIn", "910A3")),
        affinity(expression("gen", "DoesNotExist"), expression(CHIP, "In", "910B3")),
    ]
)
TOLERATIONS = st.sampled_from(
    [
        [],
        [{"operator": "Exists"}],
        [{"key": "huawei-npu", "value": "yes"}],
        [{"key": "huawei-npu", "operator": "Exists", "effect": "NoSchedule"}],
        [{"key": "huawei-npu", "value": "no", "effect": "NoExecute"}],
    ]
)
STATES = st.sampled_from([{}, {}, {"ends": True}, {"status": {"phase": "Succeeded"}}])


def with_names(items: list[Json]) -> list[Json]:
    return [item | {"name": f"container-{index}"} for index, item in enumerate(items)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    nodes = draw(st.lists(NODES, min_size=1, max_size=2))
    places = st.integers(min_value=0, max_value=len(nodes) - 1)
    pods = [pod(draw(places), *with_names(draw(CONTAINERS)), **draw(STATES)) for _ in range(draw(st.integers(0, 2)))]
    wanted = template(
        *with_names(draw(CONTAINERS)),
        initContainers=[item | {"name": f"init-{index}"} for index, item in enumerate(draw(INITIAL))],
        tolerations=draw(TOLERATIONS),
        **draw(WISHES),
    )
    replaced = draw(st.none() | st.integers(0, len(pods) - 1)) if pods else None
    return Case(nodes, wanted, pods, replaced)


def test_place_for_anything_drawn_is_what_the_scheduler_makes_of_it(scheduling: Scheduling) -> None:
    seen: list[Verdict] = []

    @settings(max_examples=6, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.lists(cases(), min_size=14, max_size=14))
    def held(drawn: list[Case]) -> None:
        verdicts = scheduling.verdicts(drawn)
        assert [(found, verdict) for verdict in verdicts if (found := verdict.disagreement())] == []
        seen.extend(verdicts)

    held()
    found = sum(verdict.theirs is None for verdict in seen)
    assert found >= 20
    assert len(seen) - found >= 20


def built(**spec: Any) -> Json:
    """Return the template of a resource's first StatefulSet."""
    resource = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "a", "namespace": "ours", "uid": "x"},
        "spec": {"engine": PROFILE, "model": {"source": {"hostPath": {"path": "/data/m"}}}} | spec,
    }
    known = OperatorSettings(probe_image="probe:1", host_path_prefixes=("/data",))
    read, problems = validate(resource, known.rules())
    assert problems == []
    assert read is not None
    made = builders.stateful_sets(resource, read, builders.plan_for(read, known), known, [0])
    return dict(made[0]["spec"]["template"])


def test_pod_of_a_resource_replaces_its_like_and_not_one_for_a_chip_that_nobody_has(scheduling: Scheduling) -> None:
    old = built(topology={"chip": "910B3"}, parallelism={"tensor": 4})
    pods = [pod(0, **old["spec"], labels=old["metadata"]["labels"])]
    wanted = [
        built(topology={"chip": "910B3"}, parallelism={"tensor": 4}, engine=PROFILE | {"maxNumSeqs": 16}),
        built(topology={"chip": "910Z"}, parallelism={"tensor": 4}),
        built(topology={"chip": "910B3"}, parallelism={"tensor": 8}),
    ]
    nodes = [node(labels=B3, cpu="64", memory="1Ti", npu="4")]
    verdicts = scheduling.verdicts([Case(nodes, item, pods, 0) for item in wanted])
    assert [verdict.disagreement() for verdict in verdicts] == ["", "", ""]
    promised, labels, devices = (verdict.ours for verdict in verdicts)
    assert promised is None
    assert labels is not None
    assert f"no node has {CHIP}=910Z (they have 910B3); correct spec.topology" in labels
    assert devices is not None
    assert f"8 {NPU} are asked of one node and none has more than 4" in devices
