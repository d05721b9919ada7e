"""What cannot be right does not serve, and the condition says why in words that help."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from kubectl import KubectlError
from scenario import NAME, Scene

from detinf.controller.trouble import pod_trouble

pytestmark = pytest.mark.e2e


def apply(scene: Scene, **topology: Any) -> None:
    manifest = copy.deepcopy(scene.engine.manifest)
    manifest["spec"]["replicas"] = 1
    manifest["spec"]["topology"] |= topology
    scene.kubectl.apply(manifest)


def words(scene: Scene, reason: str, *parts: str, condition: str = "ReplicasAvailable") -> str:
    """Wait until a condition is False for a reason and says all of this, and Ready with it."""

    def said() -> str | None:
        found = [scene.kubectl.condition("detinf", NAME, kind) for kind in (condition, "Ready")]
        messages = [str(item.get("message", "")) for item in found]
        false = all(item.get("status") == "False" and item.get("reason") == reason for item in found)
        return messages[0] if false and all(part in message for part in parts for message in messages) else None

    return scene.story.wait(f"{condition}: {reason}: {parts}", said, seconds=120)


def test_other_firmware_than_the_plan_is_refused_by_the_guard(without_resource: Scene) -> None:
    apply(without_resource, firmwareVersion="7.9.9")
    words(without_resource, "GuardRefused", "firmware version is '7.8.0.6.201'", "the plan says '7.9.9'")
    assert not without_resource.endpoints()


def test_sick_device_is_refused_by_the_guard(without_resource: Scene, node: Any) -> None:
    facts = node.folder / "npu/usr/local/dcmi/simulated.json"
    healthy = facts.read_text(encoding="utf-8")
    sick = json.loads(healthy) | {"health": {str(index): "Alarm" for index in range(8)}}
    facts.write_text(json.dumps(sick), encoding="utf-8")
    try:
        apply(without_resource)
        words(without_resource, "GuardRefused", "is Alarm", "repair or replace")
    finally:
        facts.write_text(healthy, encoding="utf-8")


@pytest.mark.parametrize(
    ("topology", "facts", "parts"),
    [
        ({"hbmGiB": 32}, {}, ("hbmGiB is 64, the plan says 32",)),
        ({}, {"link": "SYS"}, ("link is 'SYS', the plan says 'HCCS'",)),
    ],
    ids=["other memory", "PCIe where HCCS is promised"],
)
def test_hardware_that_no_label_tells_is_refused_by_the_guard(
    without_resource: Scene, node: Any, topology: dict[str, Any], facts: dict[str, str], parts: tuple[str, ...]
) -> None:
    path = node.folder / "npu/usr/local/dcmi/simulated.json"
    right = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(right) | facts), encoding="utf-8")
    try:
        apply(without_resource, **topology)
        words(without_resource, "GuardRefused", *parts)
    finally:
        path.write_text(right, encoding="utf-8")


def test_other_weights_than_the_manifest_are_refused_by_the_guard(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"]["replicas"] = 1
    manifest["spec"]["model"]["manifestDigest"] = "sha256:" + "0" * 64
    without_resource.kubectl.apply(manifest)
    words(without_resource, "GuardRefused", "the manifest of /models", "`detinf manifest`")


def test_image_of_another_release_than_the_profiles_is_refused_by_the_guard(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"] |= {"replicas": 1, "topology": {}, "parallelism": {"tensor": 1}}
    image = "localhost/detinf/simulated-engine:dev"
    manifest["spec"]["engine"] |= {"profile": "vllm-cpu-0.32", "image": image}
    manifest["spec"]["model"]["dtype"] = "float32"
    without_resource.kubectl.apply(manifest)
    words(without_resource, "GuardRefused", "packages: vllm-cpu is not installed, the profile is for 0.32.0")


def test_chip_that_no_node_has_is_pending_in_the_schedulers_words(without_resource: Scene) -> None:
    apply(without_resource, chip="910B9")
    words(without_resource, "NoNodeMatches", "node affinity/selector", "spec.topology")


def test_folder_that_is_not_allowed_is_refused_when_it_is_applied(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"]["model"]["source"] = {"hostPath": {"path": "/etc"}}
    with pytest.raises(KubectlError) as refused:
        without_resource.kubectl.apply(manifest)
    for part in ("spec.model.source.hostPath.path is '/etc'", "models.hostPathPrefixes"):
        assert part in str(refused.value)
    assert without_resource.resource() == {}


def test_model_that_is_not_there_is_refused_by_the_guard(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"]["replicas"] = 1
    # A folder of the node that exists and holds no model.
    manifest["spec"]["model"]["source"] = {"hostPath": {"path": "/var/lib/detinf/models"}}
    without_resource.kubectl.apply(manifest)
    words(without_resource, "GuardRefused", "config.json", "spec.model.source")


def test_image_that_cannot_be_pulled_is_told_in_the_kubelets_words(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"] |= {"replicas": 1}
    manifest["spec"]["engine"]["image"] = "127.0.0.1:1/none:1"
    without_resource.kubectl.apply(manifest)
    words(without_resource, "ImagePullFailed", "users: ", "127.0.0.1:1/none:1", "spec.engine.image")


def test_folder_that_the_node_does_not_have_is_told_by_the_pods_events(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"] |= {"replicas": 1}
    manifest["spec"]["model"]["source"] = {"hostPath": {"path": "/var/lib/detinf/models/none"}}
    without_resource.kubectl.apply(manifest)
    words(without_resource, "MountFailed", "/var/lib/detinf/models/none is not a directory", "make the folder")


def test_engine_without_enough_memory_is_told_so(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"] |= {"replicas": 1}
    manifest["spec"]["engine"]["resources"] = {"requests": {"memory": "20Mi"}, "limits": {"memory": "20Mi"}}
    without_resource.kubectl.apply(manifest)
    words(without_resource, "OutOfMemory", "engine: ", "raise spec.engine.resources.limits.memory")


ENDS = {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
TROUBLED = {
    # The reason; what the container named "engine" does, its environment, and a volume; the words.
    "ConfigMissing": (
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "token", "key": "a"}}}]},
        'secret "token" not found',
    ),
    "EngineCrashes": ({"command": ["sh", "-c", "exit 3"]}, "exit code 3 again and again"),
    "Evicted": (
        {"command": ["sh", "-c", "head -c 8000000 /dev/zero >/small/file; sleep 3600"]},
        "exceeds the limit",
    ),
}


def test_what_a_kubelet_says_of_a_pod_in_trouble_is_understood(scene: Scene) -> None:
    """Pods of our own making, since an engine pod is replaced too soon to be looked at, or needs no Secret."""
    for reason, (container, _) in TROUBLED.items():
        engine = {
            "name": "engine",
            "image": scene.engine.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "3600"],
            "volumeMounts": [{"name": "small", "mountPath": "/small"}],
            **container,
        }
        volume = {"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}
        spec = ENDS | {"containers": [engine], "volumes": [volume], "securityContext": {"fsGroup": 65532}}
        metadata = {"name": reason.lower(), "namespace": scene.kubectl.namespace, "labels": {"trouble": "yes"}}
        scene.kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    for reason, (_, part) in TROUBLED.items():

        def seen(name: str = reason.lower()) -> str | None:
            found = pod_trouble(scene.kubectl.object("pods", name))
            return f"{found.reason}: {found.words}" if found else None

        said = scene.story.wait(f"the pod's {reason}", seen, seconds=180)
        assert said.startswith(f"{reason}: ")
        assert part in said
    scene.kubectl("delete", "pods", "-l", "trouble=yes", "--wait=true", timeout=150)
