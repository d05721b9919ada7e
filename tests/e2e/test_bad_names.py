"""What is not ours is left alone and told, what a deletion left is told once, and a hint says what was looked at."""

from __future__ import annotations

import json
import re
import time
from collections import Counter

import pytest
from audit import WRITES, Audit
from bad_scene import CHILDREN, TOLD_SECONDS, BadScene, condition_of, looks
from detinf_cluster.lifecycle import Cluster
from kubectl import KubectlError
from scenario import NAME

pytestmark = pytest.mark.e2e
MOST_REMEDIES = 20
LOOKS = 10


@pytest.fixture
def audit(node: Cluster) -> Audit:
    return Audit(node.folder / "control" / "audit.log", "system:serviceaccount:detinf-system:detinf")


def writes(audit: Audit, namespace: str) -> list[tuple[str, int]]:
    """Return the controller's writes in a namespace with how they were answered, in their order."""
    return [
        (event["requestURI"], event["responseStatus"]["code"])
        for event in audit.events()
        if event["verb"] in WRITES and event["objectRef"].get("namespace") == namespace
    ]


def carry_out_remedies(scene: BadScene) -> list[str]:
    """Run what ``Ready`` prints of children in the way, one after the other, until it speaks of something else."""
    ran: list[str] = []
    while (said := condition_of(scene.status(), "Ready")).get("reason") == "ChildConflict":
        assert len(ran) < MOST_REMEDIES, said
        command = scene.run_remedy(said["message"])
        ran.append(command)

        def another(command: str = command) -> str | None:
            now = condition_of(scene.status(), "Ready")
            return None if now.get("reason") == "ChildConflict" and f"kubectl {command})" in now["message"] else "yes"

        scene.story.wait(f"the status to see: {command}", another, seconds=TOLD_SECONDS, every=0.3)
    return ran


def test_objects_of_a_user_under_childrens_names_survive_the_resource_and_are_told(bad_scene: BadScene) -> None:
    scene, metadata = bad_scene, {"namespace": bad_scene.kubectl.namespace}
    ports = [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]
    scene.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata | {"name": NAME},
            "spec": {"selector": {"their": "pods"}, "ports": ports},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata | {"name": f"{NAME}-baselines"},
            "data": {"theirs": "1"},
        },
    )
    theirs = (("services", NAME), ("configmaps", f"{NAME}-baselines"))
    held = [scene.kubectl.object(*item) for item in theirs]

    def untouched() -> bool:
        return [scene.kubectl.object(*item) for item in theirs] == held

    scene.kubectl.apply(scene.manifest())
    remedies = [f"kubectl delete service {NAME}", f"kubectl delete configmap {NAME}-baselines"]
    for kind, status in (("Ready", "False"), ("Degraded", "True"), ("Stalled", "True")):
        scene.says(kind, status, "ChildConflict", *remedies)
    assert untouched()
    assert "ownerReferences" not in held[0]["metadata"]
    scene.kubectl("delete", "detinf", NAME, "--wait=true")
    scene.story.wait(
        "the children to be collected",
        lambda: None if any(scene.kubectl.objects(kind, f"detinf.io/name={NAME}") for kind in CHILDREN) else "gone",
        seconds=TOLD_SECONDS,
    )
    assert untouched()
    scene.kubectl.apply(scene.manifest())
    scene.says("Ready", "False", "ChildConflict", *remedies)
    assert len(carry_out_remedies(scene)) == 2
    scene.until_ready()


def test_name_whose_children_would_meet_anothers_is_refused_at_admission(bad_scene: BadScene) -> None:
    manifest = bad_scene.manifest()
    manifest["metadata"]["name"] = "a-0-pods"
    with pytest.raises(KubectlError, match=r"metadata\.name|-pods"):
        bad_scene.kubectl.apply(manifest)


def test_orphans_of_an_earlier_resource_are_told_once_and_the_printed_remedies_lead_to_ready(
    bad_scene: BadScene, audit: Audit
) -> None:
    scene, namespace = bad_scene, bad_scene.kubectl.namespace
    scene.start()
    scene.kubectl("delete", "detinf", NAME, "--cascade=orphan", "--wait=true")
    left = {kind: len(scene.kubectl.objects(kind, f"detinf.io/name={NAME}")) for kind in CHILDREN}
    assert all(left.values()), left
    scene.kubectl.apply(scene.manifest())
    scene.says("Stalled", "True", "ChildConflict", "kubectl delete ")

    before, seen = len(writes(audit, namespace)), audit.looks(namespace, NAME)
    scene.story.wait(
        "more looks of the controller",
        lambda: "yes" if audit.looks(namespace, NAME) >= seen + LOOKS else None,
        seconds=TOLD_SECONDS,
    )
    later = writes(audit, namespace)[before:]
    assert [uri for uri, code in later if code < 300] == [], "something was written though nothing changed"
    tried = Counter(uri for uri, _ in later)
    assert all(count <= LOOKS / 2 for count in tried.values()), f"tried again with nearly every look: {tried}"
    ran = carry_out_remedies(scene)
    assert f"delete statefulset {NAME}-0" in " ".join(ran)
    scene.until_ready()


def test_foreground_deletion_returns_when_no_child_is_left(bad_scene: BadScene) -> None:
    scene = bad_scene
    scene.kubectl.apply(scene.manifest())
    scene.story.wait(
        "its pod to run",
        lambda: "yes" if scene.pod(0).get("status", {}).get("phase") == "Running" else None,
        seconds=TOLD_SECONDS,
    )
    scene.kubectl("delete", "detinf", NAME, "--cascade=foreground", "--wait=true")
    left = [item for kind in CHILDREN[:-1] for item in scene.kubectl.objects(kind, f"detinf.io/name={NAME}")]
    assert left == []


def test_hint_of_a_fault_that_begins_while_serving_calls_nothing_clean_that_passed_before_it(
    bad_scene: BadScene,
) -> None:
    """One replica, so that it goes on serving and its hint is amended while more is looked at.

    From nine requests in a step on it is wrong: width 16 is, and what is narrower is clean where it was looked at.
    """
    scene = bad_scene
    scene.start()
    path = f"/api/v1/namespaces/{scene.kubectl.namespace}/pods/{NAME}-0-0:9400/proxy/v1/report"
    began = int(time.time())
    scene.fault(0, fault="F01")
    scene.says("OutputsInvariant", "False", "DivergingReplicaServes", "no other replica of its fingerprint serves")
    called_clean: set[str] = set()
    for _ in looks(TOLD_SECONDS, every=1.0):
        said = [condition_of(scene.status(), "OutputsInvariant")["message"]]
        said += [json.loads(item["data"]["evidence.json"])["hint"] for item in scene.records("evidence")]
        cells = {cell["condition"]: cell for cell in json.loads(scene.kubectl.get(path) or "{}")["cells"]}
        for text in said:
            for condition in re.findall(r"[a-z]+[=>]+\d+", text.partition("clean since")[2]):
                called_clean.add(condition)
                assert condition != "width=16", text
                assert cells[condition]["lastPassUnix"] >= began, f"{condition} passed before the fault alone: {text}"
        if called_clean:
            break
    assert called_clean, "nothing was looked at again"
    assert "batch width" in condition_of(scene.status(), "OutputsInvariant")["message"]
    assert scene.endpoints() == [f"{NAME}-0-0"]
